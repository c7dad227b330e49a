"""NetCDF and Zarr files through xarray: dimensions and coordinates by name, packing as declared.

    Gridded("era5_*.nc", variables={"t2m": "t2m", "tp": "tp"})        a variable a band
    Gridded("cube.zarr", variable="reflectance")                      one variable with a band axis

The numbers are taken as they are stored and scaled once, by their CF attributes. A variable that is
unpacked already but still bears its packing, latitudes named longitude, and coordinates without
even steps are refused; rows that ascend are flipped, with a note.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.grid import Grid
from data_zarr.ingest.scene import Found, Layer, Scene, Units, Wanted
from data_zarr.ingest.sources.files import channel, files, missing_band
from data_zarr.ingest.stores import open_dataset
from data_zarr.ingest.times import utc
from data_zarr.sensors import Number

NAMES = {
    "time": ("time", "t", "date", "dates", "valid_time"),
    "y": ("y", "lat", "latitude", "northing", "rlat"),
    "x": ("x", "lon", "longitude", "easting", "rlon"),
    "band": ("band", "bands", "channel", "variable"),
}
EVEN = 1e-3
"""Share of a step by which coordinates may stray from even spacing."""


@dataclasses.dataclass(frozen=True)
class Gridded:
    """NetCDF or Zarr.

    Attributes:
      path: glob of .nc or .zarr.
      variables: band -> variable; by default each band is looked for among the variables.
      variable: the one variable that has a band axis, in place of `variables`.
      channels: names along its band axis, where the file does not label it.
      crs: where the file does not say it.
      scale, offset, nodata: where the file does not say them.
      platform: STAC name, for every date.
      date: of a file without a time axis.
      units: "db" or "linear" for backscatter.
    """

    path: str
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    variable: str = ""
    channels: tuple[str, ...] = ()
    crs: str = ""
    scale: Number | None = None
    offset: Number | None = None
    nodata: Number | None = None
    platform: str = "unknown"
    date: str = ""
    units: Units = ""

    def inspect(self, wanted: Wanted) -> Found:
        scenes: list[Scene] = []
        notes: list[str] = []
        for path in files(self.path, wanted.where):
            with open_dataset(path) as data:
                found, more = self._read(data, path, wanted)
            scenes.extend(found)
            notes.extend(n for n in more if n not in notes)
        return Found(tuple(scenes), tuple(notes))

    def _read(self, data: Any, path: str, wanted: Wanted) -> tuple[list[Scene], list[str]]:
        where = f"{wanted.where}: {path}"
        places = self._places(data, wanted, where)
        first = data[places[0][0]]
        dims = {kind: _dim(first, kind) for kind in NAMES}
        if dims["y"] is None or dims["x"] is None:
            raise CubeError(
                "no rows or columns",
                where=f"{where}: {first.name}",
                expected=f"dimensions {'/'.join(NAMES['y'][:3])} and {'/'.join(NAMES['x'][:3])}",
                found=", ".join(map(str, first.dims)),
            )
        grid, flip = _grid(data, first, str(dims["y"]), str(dims["x"]), self.crs, where)
        dates = self._dates(data, dims["time"], wanted, where)
        name = path.rstrip("/").rpartition("/")[2]
        scenes = []
        for t, date in enumerate(dates):
            layers = []
            for variable, extra in places:
                array = data[variable]
                select = dict(extra)
                if (time := _dim(array, "time")) is not None:
                    select[time] = t
                layers.append(self._layer(path, array, select, grid, flip, wanted, where))
            label = name if len(dates) == 1 else f"{name}@{t}"
            scenes.append(Scene(label, date, self.platform, tuple(layers)))
        return scenes, ["rows ascend in the files and were flipped"] if flip else []

    def _places(self, data: Any, wanted: Wanted, where: str) -> list[tuple[str, dict[str, int]]]:
        """Variable and place along its band axis, for every band."""
        known = [str(v) for v in data.data_vars]
        for name in (*self.variables.values(), *([self.variable] if self.variable else ())):
            if name not in known:
                raise CubeError("no such variable", where=where, expected=", ".join(known),
                                found=repr(name), remedy=near_miss(name, known))  # fmt: skip
        if not self.variable:
            out = []
            for band in wanted.bands:
                given = [self.variables[k] for k in (band.name, band.common_name) if k
                         in self.variables]  # fmt: skip
                at = channel(band, known)
                if not given and at is None:
                    raise missing_band(band, known, where)
                out.append((given[0] if given else known[at or 0], {}))
            return out
        array = data[self.variable]
        axis = _dim(array, "band")
        if axis is None:
            raise CubeError("no band axis", where=f"{where}: {self.variable}",
                            expected="/".join(NAMES["band"]), found=", ".join(map(str, array.dims)),
                            )  # fmt: skip
        written = [str(v) for v in data[axis].values] if axis in data.coords else []
        names = list(self.channels) or written
        if len(names) != data.sizes[axis]:
            raise CubeError(
                "which channel is which band is not known",
                where=f"{where}: {self.variable}",
                expected=f"{data.sizes[axis]} names in `channels`, or along {axis!r}",
                found=f"{len(names)}",
            )
        out = []
        for band in wanted.bands:
            at, there = channel(band, names), channel(band, written)
            if at is None:
                raise missing_band(band, names, where)
            if there is not None and there != at:
                raise CubeError("bands permuted", where=where, found=f"channel {at} in the recipe",
                                expected=f"{band.name} at {there}, as the file says")  # fmt: skip
            out.append((self.variable, {axis: at}))
        return out

    def _layer(
        self,
        path: str,
        array: Any,
        select: dict[str, int],
        grid: Grid,
        flip: bool,
        wanted: Wanted,
        where: str,
    ) -> Layer:
        y, x = str(_dim(array, "y")), str(_dim(array, "x"))
        left = [str(d) for d in array.dims if d not in (y, x, *select)]
        if left:
            raise CubeError("a dimension too many", where=f"{where}: {array.name}",
                            expected="time, band, y, x", found=", ".join(left))  # fmt: skip
        scale, offset, nodata = self._packing(array, wanted, where)
        return Layer(
            path=path,
            grid=grid,
            dtype=str(array.dtype),
            variable=str(array.name),
            select=tuple((str(k), int(v)) for k, v in select.items()),
            axes=(y, x),
            flip=flip,
            scale=scale,
            offset=offset,
            nodata=nodata,
            units=self.units,
        )

    def _packing(
        self, array: Any, wanted: Wanted, where: str
    ) -> tuple[float, float, Number | None]:
        """Scale, offset and nodata of a variable: its own, or the recipe's."""
        place = f"{where}: {array.name}"
        own = ("scale_factor" in array.attrs) or ("add_offset" in array.attrs)
        packed = float(array.attrs.get("scale_factor", 1)), float(array.attrs.get("add_offset", 0))
        given = self.scale is not None or self.offset is not None
        asked = float(self.scale or 1.0), float(self.offset or 0.0)
        if own and given and packed != asked:
            raise CubeError("two scales", where=place, expected=f"{packed}, as in the file",
                            found=f"{asked} in the recipe")  # fmt: skip
        if own and array.dtype.kind == "f" and packed != (1.0, 0.0):
            raise CubeError(
                "scaled twice",
                where=place,
                expected="packed integers where there is a scale_factor",
                found=f"{array.dtype} that still bears scale_factor {packed[0]:g}",
                remedy="it was written unpacked with its old attributes: take them off",
            )
        if not own and not given and wanted.reflectance and array.dtype.kind in "iu":
            raise CubeError(
                "scale is not stated", where=place,
                expected="scale_factor in the file, or `scale` in the recipe",
                found=f"{array.dtype} without either",
            )  # fmt: skip
        fill = array.attrs.get("_FillValue", array.attrs.get("missing_value"))
        nodata = self.nodata if fill is None else np.asarray(fill).ravel()[0].item()
        scale = packed if own else asked
        return scale[0], scale[1], nodata

    def _dates(
        self, data: Any, axis: str | None, wanted: Wanted, where: str
    ) -> list[np.datetime64]:
        if axis is not None:
            import xarray as xr

            try:
                values = xr.decode_cf(data[[axis]] if axis in data.variables else data)[axis].values
            except (ValueError, OverflowError, ImportError) as error:
                raise CubeError(
                    "unreadable dates",
                    where=f"{where}: {axis}",
                    expected="units and calendar of CF that are instants: standard",
                    found=str(error)[:120],
                ) from error
            if values.dtype.kind in "iuf":
                raise CubeError("time without units", where=f"{where}: {axis}",
                                expected='e.g. "days since 1970-01-01"', found="plain numbers",
                                )  # fmt: skip
            return list(utc(list(values), f"{where}: {axis}"))
        if self.date:
            return list(utc([self.date], where))
        if wanted.static:
            return [np.datetime64("NaT", "s")]
        raise CubeError("no dates", where=where, expected="a time axis, or `date`", found="neither")


def _dim(array: Any, kind: str) -> str | None:
    """The dimension of an array that plays a part, by its name."""
    names = [str(d) for d in array.dims]
    hits = [n for n in names if n.lower() in NAMES[kind]]
    return hits[0] if hits else None


def _grid(data: Any, array: Any, y: str, x: str, crs: str, where: str) -> tuple[Grid, bool]:
    """The grid of a variable, and whether its rows ascend."""
    for name in (y, x):
        if name not in data.coords:
            raise CubeError("no coordinate", where=where, expected=f"values along {name!r}")
    rows, columns = (np.asarray(data[n].values, np.float64) for n in (y, x))
    geographic = y.lower() in ("lat", "latitude")
    for name, wrong, limit in ((y, "east", 90.0), (x, "north", 360.0)):
        units = str(data[name].attrs.get("units", ""))
        beyond = geographic and float(np.abs(data[name].values).max()) > limit
        if wrong in units or beyond:
            raise CubeError(
                "latitude and longitude are swapped",
                where=f"{where}: {name}",
                expected=f"values within {limit:g}, in degrees of the other axis",
                found=f"{data[name].values.min():g}..{data[name].values.max():g} {units}",
            )
    steps = []
    for name, values in ((y, rows), (x, columns)):
        differences = np.diff(values)
        step = float(differences.mean()) if differences.size else 0.0
        if step == 0 or np.abs(differences - step).max() > EVEN * abs(step):
            raise CubeError("coordinate has no even steps", where=f"{where}: {name}",
                            expected="a regular grid of at least 2 x 2")  # fmt: skip
        steps.append(step)
    if steps[1] < 0:
        raise CubeError("columns descend", where=f"{where}: {x}", expected="west to east")
    flip = steps[0] > 0
    if flip:
        rows, steps[0] = rows[::-1], -steps[0]
    wkt, code = _crs(data, array, crs, geographic, where)
    origin = (columns[0] - steps[1] / 2, rows[0] - steps[0] / 2)
    transform = (steps[1], 0.0, float(origin[0]), 0.0, steps[0], float(origin[1]))
    grid = Grid(wkt, code, transform, len(rows), len(columns))
    grid.check(where)
    return grid, flip


def _crs(data: Any, array: Any, given: str, geographic: bool, where: str) -> tuple[str, int | None]:
    """CRS of the file (CF grid mapping), of the recipe, or degrees on WGS 84 for lat and lon."""
    from pyproj import CRS

    mapping = array.attrs.get("grid_mapping") or array.encoding.get("grid_mapping") or "spatial_ref"
    own = None
    if mapping in data.variables:
        attrs = data[mapping].attrs
        text = attrs.get("crs_wkt") or attrs.get("spatial_ref")
        own = CRS.from_user_input(text) if text else CRS.from_cf(attrs) if attrs else None
    stated = CRS.from_user_input(given) if given else None
    if own is not None and stated is not None and not own.equals(stated, ignore_axis_order=True):
        raise CubeError("two different CRS", where=where, expected=own.name, found=given)
    found = own or stated or (CRS.from_epsg(4326) if geographic else None)
    if found is None:
        raise CubeError("file without CRS", where=where, expected="a grid mapping, or `crs`",
                        found="neither")  # fmt: skip
    return found.to_wkt(), found.to_epsg()
