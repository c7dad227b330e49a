"""What a new band set will hold, and how it is cut into chunks and shards.

A shard is one file: all bands, up to 64 dates, `shard` x `shard` pixels. Inside it, by layout:

    series    up to 64 dates x bands x 64 x 64       time series, and plain zarr or xarray users
    balanced  1 date x bands x 64 x 64               both kinds of window, read by tensorstore
    image     1 date x bands x shard x shard         whole scenes
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

Layout = Literal["series", "image", "balanced"]
CHUNK, DATES_A_SHARD = 64, 64


@dataclasses.dataclass
class BandSetData:
    """What a band set of a new cube will hold; its pixels come later.

    Attributes:
      bands: from `data_zarr.sensors`, in channel order.
      dates: T instants (anything `np.asarray(..., "datetime64[s]")` takes), UTC, ascending; None
        when static.
      platform: STAC name or row of `PLATFORMS`, one or T of them.
      scale, offset: physical = stored * scale + offset; one number or one a band.
      nodata: a stored number that is never a value: not 0, NaN for floats.
      valid_per_band: keep a mask for each band instead of one for all.
    """

    name: str
    kind: Kind
    bands: Sequence[Band]
    dates: Any = None
    platform: Any = "unknown"
    scale: Number | Sequence[Number] = 1.0
    offset: Number | Sequence[Number] = 0.0
    nodata: Number = -9999
    static: bool = False
    dtype: Any = "int16"
    valid_per_band: bool = False
    source: str = ""

    def info(self, grid: Grid, layout: Layout, shard: int) -> BandSetInfo:
        """The record of this band set on `grid`; CubeError for what no cube may hold."""
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
            given = [self.platform] * len(dates) if np.ndim(self.platform) == 0 else self.platform
            rows = [platform_id(p, self.name) for p in given]
            if len(rows) != len(dates):
                raise CubeError(
                    "platforms and dates differ",
                    where=self.name,
                    expected=len(dates),
                    found=len(rows),
                )
            platform = np.asarray(rows, np.int32)
            check_dates(dates, platform, self.name)
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
        t = min(len(dates), DATES_A_SHARD)
        edge = shard if layout == "image" else min(CHUNK, shard)
        return BandSetInfo(
            name=self.name,
            kind=self.kind,
            bands=bands,
            dates=dates,
            platform=platform,
            dtype=dtype,
            nodata=float(self.nodata),
            static=self.static,
            shape=(len(dates), n, grid.height, grid.width),
            chunks=(t if layout == "series" else 1, n, edge, edge),
            shards=(t, n, shard, shard),
            valid_per_band=self.valid_per_band,
            source=self.source,
        )
