"""What a new band set will hold, and how it is cut into chunks and shards.

A shard is one file: all bands, up to 64 dates, `shard` x `shard` pixels. Inside it, by layout:

    series    up to 64 dates x bands x 64 x 64       time series, and plain zarr or xarray users
    balanced  1 date x bands x 64 x 64               both kinds of window, read by tensorstore
    image     1 date x bands x shard x shard         whole scenes

A band set of larger pixels (`factor`) has smaller chunks, down to 16, so that a window of the same
ground reads about as many of them. Points have shards of `SITES_A_SHARD` sites and chunks of up to
64 dates x bands x 256 sites, or one date with `image`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import BandInfo, BandSetInfo, check_dates
from data_zarr.grid import Grid
from data_zarr.sensors import Band, Kind, Number, platform_id
from data_zarr.sites import Sites

Layout = Literal["series", "image", "balanced"]
CHUNK, SMALLEST_CHUNK, DATES_A_SHARD = 64, 16, 64
SITES, SITES_A_SHARD = 256, 4096


@dataclasses.dataclass
class BandSetData:
    """What a band set of a new cube will hold; its pixels come later.

    Attributes:
      bands: from `data_zarr.sensors` (or of another cube), in channel order.
      dates: T instants (anything `np.asarray(..., "datetime64[s]")` takes), UTC, ascending; None
        when static. For sites also [T, S]: own dates of each, NaT after the last.
      platform: STAC name or row of `PLATFORMS`, one or as many as dates.
      scale, offset: physical = stored * scale + offset; one number or one a band.
      nodata: a stored number that is never a value: not 0, NaN for floats.
      valid_per_band: keep a mask for each band instead of one for all.
      factor: pixels so many times as large as those of the cube's grid, same origin.
      year_known: False where only month and day of the dates are real (in a nominal year).
    """

    name: str
    kind: Kind
    bands: Sequence[Band | BandInfo]
    dates: Any = None
    platform: Any = "unknown"
    scale: Number | Sequence[Number] = 1.0
    offset: Number | Sequence[Number] = 0.0
    nodata: Number = -9999
    static: bool = False
    dtype: Any = "int16"
    valid_per_band: bool = False
    source: str = ""
    factor: int = 1
    year_known: bool = True

    def info(self, grid: Grid | Sites, layout: Layout, shard: int) -> BandSetInfo:
        """The record of this band set on `grid`; CubeError for what no cube may hold."""
        points = isinstance(grid, Sites)
        own = self._own_grid(grid)
        n, dtype = len(self.bands), np.dtype(self.dtype)
        names = [b.name for b in self.bands]
        if not n or len(set(names)) != n:
            raise CubeError("bands repeated or none", where=self.name, found=", ".join(names))
        if self.static != (self.dates is None):
            raise CubeError(
                "no dates",
                where=self.name,
                expected="dates, or static=True without them",
                found=f"static={self.static}, dates {'given' if self.static else 'missing'}",
            )
        if self.static:
            dates = np.full(1, np.datetime64("NaT"), "datetime64[s]")
            platform = np.zeros(1, np.int32)
        else:
            dates = np.asarray(self.dates, "datetime64[s]")
            if dates.ndim != 1 and not (points and dates.shape[1:] == (grid.height,)):
                raise CubeError(
                    "dates of another shape",
                    where=self.name,
                    expected=f"[T] or [T, {grid.height}]" if points else "[T]",
                    found=list(dates.shape),
                )
            given = np.asarray(self.platform, object)
            if given.ndim and given.shape != dates.shape:
                raise CubeError(
                    "platforms and dates differ",
                    where=self.name,
                    expected=list(dates.shape),
                    found=list(given.shape),
                )
            names_of: dict[Any, int] = {p: platform_id(p, self.name) for p in set(given.flat)}
            rows = np.asarray([names_of[p] for p in given.flat], np.int32).reshape(given.shape)
            platform = np.array(np.broadcast_to(rows, dates.shape), np.int32)
            check_dates(dates, platform, self.name, grid.ids if points else ())
        scales, offsets = (np.broadcast_to(v, n).tolist() for v in (self.scale, self.offset))
        bands = tuple(
            BandInfo(b.name, b.common_name, b.wavelength, b.fwhm, float(s), float(o), b.unit)
            for b, s, o in zip(self.bands, scales, offsets, strict=True)
        )
        if dtype.kind == "f" and not np.isnan(self.nodata):
            raise CubeError(
                "nodata of a float band set", where=self.name, expected="NaN", found=self.nodata
            )
        if dtype.kind != "f" and (
            self.nodata == 0
            or not np.iinfo(dtype).min <= self.nodata <= np.iinfo(dtype).max
            or self.nodata != int(self.nodata)
        ):
            raise CubeError(
                "nodata cannot mark a missing value",
                where=self.name,
                expected=f"a whole number other than 0 that {dtype} holds",
                found=self.nodata,
                remedy="0 is a plausible reflectance: choose e.g. -9999",
            )
        t, shard = min(len(dates), DATES_A_SHARD), fitting(shard, own)
        chunks = (t if layout == "series" else 1, n, *_edges(layout, shard, self.factor))
        shards = (t, n, shard, shard)
        if points:
            edge = shard if layout == "image" else min(SITES, shard)
            chunks = (1 if layout == "image" else t, n, edge, 1)
            shards = (t, n, shard, 1)
        return BandSetInfo(
            name=self.name,
            kind=self.kind,
            bands=bands,
            dates=dates,
            platform=platform,
            dtype=dtype,
            nodata=float(self.nodata),
            static=self.static,
            shape=(len(dates), n, own.height, own.width),
            chunks=chunks,
            shards=shards,
            valid_per_band=self.valid_per_band,
            source=self.source,
            factor=self.factor,
            year_known=self.year_known,
            points=points,
        )

    def _own_grid(self, grid: Grid | Sites) -> Grid | Sites:
        f = self.factor
        if isinstance(grid, Sites):
            if f != 1:
                raise CubeError(
                    "points have no pixel size", where=self.name, expected="factor 1", found=f
                )
            return grid
        if f != int(f) or not 1 <= f <= max(grid.height, grid.width):
            raise CubeError(
                "factor of a band set",
                where=self.name,
                expected=f"a whole number from 1 to {max(grid.height, grid.width)}, "
                "so that its pixels lie on the grid",
                found=f,
                remedy="the finest band set makes the cube's grid",
            )
        return grid.coarse(f)


def fitting(shard: int, grid: Grid | Sites) -> int:
    """The edge of a shard brought down to a grid, still a multiple of its chunks."""
    edge = min(SITES if isinstance(grid, Sites) else CHUNK, shard)
    return min(shard, edge * -(-max(grid.height, grid.width) // edge))


def _edges(layout: Layout, shard: int, factor: int) -> tuple[int, int]:
    if layout == "image":
        return shard, shard
    edge = min(CHUNK, shard)
    while edge * factor > CHUNK and edge > SMALLEST_CHUNK and edge % 2 == 0:
        edge //= 2
    return edge, edge
