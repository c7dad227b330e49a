"""Chips: arrays of NumPy and HDF5 files that know neither their dates nor their place.

    Arrays("plot.h5", "sen-2-data", dims="tcyx", channels=(...), dates="sen-2-products",
           date="%Y%m%d", crs="EPSG:32632", transform=(10, 0, x, 0, -10, y))

Everything that a raster would say is said here. Text is read as it is, never unpickled.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.ingest.scene import Found, Layer, Mask, Scene, Units, Wanted
from data_zarr.ingest.sources.files import channel, files, missing_band, platform_of, quality
from data_zarr.ingest.stores import open_array
from data_zarr.ingest.times import date_in_name, utc
from data_zarr.sensors import Number


@dataclasses.dataclass(frozen=True)
class Arrays:
    """An array with its bands, dates and place.

    Attributes:
      path: .npy, .npz, .h5.
      variable: array in the file; "" for .npy.
      dims: one letter an axis: t time, c band, y rows (from the north down), x columns.
      channels: names of the bands along c.
      crs, transform: of the grid; six numbers (a, b, c, d, e, f), as in `Grid`.
      dates: array of dates in the same file, ISO or, with `date`, texts that hold one; or an ISO
        date for all.
      date: form of `strptime` in such texts, with as much of the text as makes it the only one:
        "MSIL2A_%Y%m%dT%H%M%S".
      platform: STAC name, or "product": what the texts of the dates begin with (S1A_, S2B_).
      units: "db" or "linear" for backscatter.
      mask: array [y, x], [t, y, x] or [t, c, y, x] in the same file; read by the sensor's table, or
        1 = valid with `mask_valid`, or as a probability of which more than `mask_above` is refused.
      mask_channels: those of its axis c that count; all by default.
    """

    path: str
    variable: str = ""
    dims: str = "tcyx"
    channels: tuple[str, ...] = ()
    crs: str = ""
    transform: tuple[Number, Number, Number, Number, Number, Number] | None = None
    dates: str = ""
    date: str = ""
    platform: str = "unknown"
    scale: Number | None = None
    offset: Number | None = None
    nodata: Number | None = None
    units: Units = ""
    mask: str = ""
    mask_valid: bool = False
    mask_above: Number | None = None
    mask_channels: tuple[int, ...] = ()

    def inspect(self, wanted: Wanted) -> Found:
        scenes: list[Scene] = []
        for path in files(self.path, wanted.where):
            scenes.extend(self._scenes(path, wanted))
        return Found(tuple(scenes))

    def _scenes(self, path: str, wanted: Wanted) -> list[Scene]:
        where = f"{wanted.where}: {path}"
        with open_array(path, self.variable) as (array, _):
            shape, dtype = tuple(array.shape), str(array.dtype)
        if (
            len(shape) != len(self.dims)
            or set(self.dims) - set("tcyx")
            or not ({"y", "x"} <= set(self.dims))
        ):
            raise CubeError("dims do not fit the array", where=f"{where}: {self.variable}",
                            expected=f"{len(shape)} of t, c, y, x", found=self.dims)  # fmt: skip
        size = dict(zip(self.dims, shape, strict=True))
        if self.scale is None and wanted.reflectance and dtype[0] in "iu":
            raise CubeError("scale is not stated", where=where, expected="`scale`", found=dtype)
        if len(self.channels) != size.get("c", 1):
            raise CubeError("channels and array differ", where=where,
                            expected=f"{size.get('c', 1)} names",
                            found=", ".join(self.channels) or "none")  # fmt: skip
        grid = self._grid(size, where)
        names, dates = self._dates(path, size.get("t", 1), wanted, where)
        axes = (str(self.dims.index("y")), str(self.dims.index("x")))
        scenes = []
        for t, date in enumerate(dates):
            layers = []
            for band in wanted.bands:
                at = channel(band, self.channels)
                if at is None:
                    raise missing_band(band, self.channels, where)
                place = {"t": t, "c": at}
                select = tuple((str(i), place[d]) for i, d in enumerate(self.dims) if d in place)
                layers.append(
                    Layer(path=path, grid=grid, dtype=dtype, variable=self.variable or "array",
                          select=select, axes=axes, scale=self.scale or 1.0,
                          offset=self.offset or 0.0, nodata=self.nodata, units=self.units)
                )  # fmt: skip
            masks = self._masks(path, t, grid, wanted, where)
            label = f"{Path(path).name}@{t}" if len(dates) > 1 else Path(path).name
            platform = platform_of(names[t], self.platform, where)
            scenes.append(Scene(label, date, platform, tuple(layers), masks))
        return scenes

    def _grid(self, size: dict[str, int], where: str) -> Grid:
        if not self.crs or self.transform is None:
            raise CubeError("array without a place", where=where, expected="`crs` and `transform`",
                            found="neither" if not self.crs else "no transform")  # fmt: skip
        from pyproj import CRS

        crs = CRS.from_user_input(self.crs)
        a, b, c, d, e, f = map(float, self.transform)
        grid = Grid(crs.to_wkt(), crs.to_epsg(), (a, b, c, d, e, f), size["y"], size["x"])
        grid.check(where)
        return grid

    def _dates(
        self, path: str, n: int, wanted: Wanted, where: str
    ) -> tuple[list[str], list[np.datetime64]]:
        """The texts that the dates were read from, and the dates."""
        if not self.dates:
            if wanted.static and n == 1:
                return [""], [np.datetime64("NaT", "s")]
            raise CubeError("no dates", where=where, expected="`dates`", found="none")
        if self.dates[:4].isdigit():
            texts = [self.dates]
        else:
            with open_array(path, self.dates) as (array, _):
                given = array[...].tolist()
            texts = [v.decode() if isinstance(v, bytes) else str(v) for v in given]
        if len(texts) != n:
            raise CubeError("dates and array differ", where=where, expected=n, found=len(texts))
        dated = [date_in_name(t, self.date, where) for t in texts] if self.date else texts
        return texts, list(utc(dated, where))

    def _masks(self, path: str, t: int, grid: Grid, wanted: Wanted, where: str) -> tuple[Mask, ...]:
        if not self.mask:
            return ()
        with open_array(path, self.mask) as (array, _):
            shape, dtype = list(array.shape), str(array.dtype)
        ndim, selects = len(shape), [(("0", t),) if len(shape) > 2 else ()]
        if ndim == 4:
            channels = self.mask_channels or tuple(range(shape[1]))
            selects = [(("0", t), ("1", c)) for c in channels]
        axes = (str(ndim - 2), str(ndim - 1))
        masks = []
        for select in selects:
            layer = Layer(path=path, grid=grid, dtype=dtype, variable=self.mask, select=select,
                          axes=axes)  # fmt: skip
            if self.mask_above is not None:
                masks.append(Mask(layer, above=self.mask_above))
            elif self.mask_valid:
                masks.append(Mask(layer, allowed=(1,)))
            else:
                masks.append(quality(layer, wanted.row, None, where))
        return tuple(masks)
