"""Opening a cube: `open_cube(path_or_url) -> Cube`, the only door. Nothing else opens a store.

A `Cube` knows names, grid, dates and encodings; pixels come from `Cube.reader()` (raw windows by
index, for training and inference) or `Cube.to_xarray()` (labelled, lazy, decoded, for people).
Opening reads metadata and coordinates only, and refuses what would damage silently: no CRS, no
dates, unsorted or repeated instants, bands that two places of the store name in another order,
an unfinished or edited cube.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import PIXELS, TARGETS, BandInfo, BandSetInfo, TargetInfo, near_miss
from data_zarr.grid import Grid
from data_zarr.manifest import Manifest
from data_zarr.opening import (
    check_axes,
    open_band_set,
    open_target,
    place_of,
    root_attributes,
    small_files,
)
from data_zarr.read import Reader, read_array
from data_zarr.remote import RemotePath, place
from data_zarr.sites import Sites

if TYPE_CHECKING:
    import xarray

__all__ = ["BandInfo", "BandSetInfo", "Cube", "Grid", "TargetInfo", "open_cube"]


class Cube:
    """An open cube. Cheap to pickle: it travels as its path.

    Attributes:
      path, title: where it lies (a path, or a URL as `RemotePath`) and what it is called.
      grid: rows, columns, CRS of the finest pixels; the `Sites` of a point cube.
      bandsets, targets: by name, in the order they were written.
      attrs: attributes of the root group (licence, provenance, ...).
    """

    def __init__(self, path: Path | RemotePath):
        self.path = path
        self.attrs = root_attributes(path)
        self.manifest = Manifest.read(path)
        self.manifest.prefetch(small_files(self.manifest, self.attrs))
        self.title = str(self.attrs.get("title", path.name))
        metadata = [k for k in self.manifest.files if k.endswith("zarr.json")]
        try:
            self._look()
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            for problem in self.manifest.problems(metadata, deep=True):
                raise problem from error
            raise CubeError("damaged metadata", where=path, found=repr(error)[:160]) from error
        for error in self.manifest.problems(metadata, deep=True):
            error.remedy = "undo the edit, or seal the cube again"
            raise error
        self.manifest.forget()

    def _look(self) -> None:
        self.grid: Grid | Sites = place_of(self.manifest, self.attrs)
        self.bandsets: dict[str, BandSetInfo] = {
            name: open_band_set(self.manifest, name, self.grid) for name in self.attrs["bandsets"]
        }
        self.targets: dict[str, TargetInfo] = {
            name: open_target(self.manifest, name, self.grid) for name in self.attrs["targets"]
        }
        if self.targets:
            check_axes(self.manifest, TARGETS, self.grid)

    def __reduce__(self) -> tuple[Any, ...]:
        return Cube, (self.path,)

    def __repr__(self) -> str:
        sets = ", ".join(f"{n} {'x'.join(map(str, b.shape))}" for n, b in self.bandsets.items())
        return f"Cube({self.title!r}, {sets}, targets: {', '.join(self.targets) or 'none'})"

    @property
    def points(self) -> bool:
        """Places instead of a raster: `grid` is `Sites`."""
        return isinstance(self.grid, Sites)

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Of the sites of a point cube, [S] each: groups to split by; none for a raster."""
        return dict(self.grid.labels) if isinstance(self.grid, Sites) else {}

    def grid_of(self, name: str) -> Grid | Sites:
        """The grid of a band set's own pixels, or the sites."""
        info = self.bandset(name)
        return self.grid.coarse(info.factor) if isinstance(self.grid, Grid) else self.grid

    def bandset(self, name: str) -> BandSetInfo:
        """A band set by name; CubeError with near misses."""
        if name not in self.bandsets:
            raise CubeError(
                "no such band set",
                where=self.path,
                expected="one of " + ", ".join(self.bandsets),
                found=repr(name),
                remedy=near_miss(name, self.bandsets),
            )
        return self.bandsets[name]

    def reader(
        self, bandset: str, bands: Sequence[str] | None = None, preload: bool = False
    ) -> Reader:
        """Raw windows of a band set.

        Args:
          bands: native or common names, in the order wanted; all bands by default.
          preload: keep the whole array in memory, so that a read is a NumPy slice.

        Raises:
          CubeError: unknown band set or band, or no band at all; a chunk that is missing or of
            another size.
        """
        info = self.bandset(bandset)
        where = f"{self.path}: {bandset}"
        if bands is not None and not len(bands):
            raise CubeError(
                "no band asked for",
                where=where,
                expected=f"some of {', '.join(info.band_names)}",
                found="an empty list",
                remedy="leave `bands` out to read all",
            )
        channels = None if bands is None else tuple(info.index(b, where) for b in bands)
        return Reader(self.path, info, channels, preload=preload)

    def target(self, name: str) -> np.ndarray:
        """A target layer, float32 [H, W] ([S, 1] for points), NaN where unknown."""
        if name not in self.targets:
            raise CubeError(
                "no such target",
                where=self.path,
                expected="one of " + ", ".join(self.targets),
                found=repr(name),
                remedy=near_miss(name, self.targets),
            )
        values = read_array(self.manifest, f"{TARGETS}/{name}")
        return values[:, None] if self.points else values

    def to_xarray(self, bandset: str, *, chunks: Any = None) -> xarray.Dataset:
        """A lazy, CF-decoded dataset: physical `pixels` with NaN for nodata, and `valid`.

        Args:
          chunks: as in `xarray.open_zarr`; None reads on demand without dask, {} gives dask.
        """
        import xarray as xr

        from data_zarr.store import ManifestStore

        info = self.bandset(bandset)
        data = xr.open_zarr(
            ManifestStore(self.manifest),
            group=bandset,
            consolidated=False,
            zarr_format=3,
            chunks=chunks,
            decode_coords="all",
        )
        scales = {(b.scale, b.offset) for b in info.bands}
        if len(scales) > 1:  # CF packs one pair an array, so several are applied here
            scale = xr.DataArray([b.scale for b in info.bands], dims="band")
            offset = xr.DataArray([b.offset for b in info.bands], dims="band")
            attrs = data[PIXELS].attrs
            data[PIXELS] = (data[PIXELS] * scale + offset).assign_attrs(attrs)
        return data

    def digest(self) -> str:
        """SHA-256 over every file of the cube, from its manifest."""
        return self.manifest.digest()


def open_cube(path: str | os.PathLike[str] | RemotePath) -> Cube:
    """Opens a cube: a path, or a URL (`https:`, `s3:`, `gs:`, or what fsspec knows).

    Metadata and coordinates are compared with the manifest here; a chunk, where it is read, by its
    size and its own checksum. Pixels that another program has written again, as long as before and
    with checksums of their own, are found by `rsvlm cube validate` alone.

    Raises:
      CubeError: nothing there, not reachable, not Zarr v3, not a cube or of another format
        version, incomplete, edited since it was written, without CRS, without dates, with
        unsorted or repeated dates, with bands in contradictory order.
    """
    return Cube(place(path))
