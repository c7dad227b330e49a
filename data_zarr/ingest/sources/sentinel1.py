"""Sentinel-1 backscatter (also of other radars): calibrated, geocoded rasters, stored in dB.

Not a radar processor: raw GRD, which has neither, is refused by name. Whether the numbers are
linear power or dB must be said; linear power is warped before it is turned into dB, and dB is
mixed as power. Keep ascending and descending passes in band sets of their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from data_zarr.errors import CubeError
from data_zarr.ingest.native import open_raster
from data_zarr.ingest.scene import Found, Wanted
from data_zarr.ingest.sources.files import files
from data_zarr.ingest.sources.geotiff import GeoTiffs, read_stack
from data_zarr.sensors import Number


@dataclasses.dataclass(frozen=True)
class Sentinel1:
    """Backscatter rasters; see `GeoTiffs` for what is not said here.

    Attributes:
      path: glob; with `{band}` (VV, VH) one file holds one polarisation.
      units: "db" or "linear" (sigma0 or gamma0 as power; not amplitude).
      nodata: where the file does not say it (-9999, -32768 and 0 all occur).
    """

    path: str
    units: Literal["db", "linear"]
    date: str = "%Y%m%dT%H%M%S"
    table: str = ""
    channels: tuple[str, ...] = ()
    platform: str = "unknown"
    nodata: Number | None = None

    def inspect(self, wanted: Wanted) -> Found:
        where = f"{wanted.where}: {self.path}"
        if wanted.row.kind != "sar":
            raise CubeError("not a radar band set", where=where, expected="sar, in dB",
                            found=f"{wanted.row.name}: {wanted.row.kind}")  # fmt: skip
        for file in files(self.path.replace("{band}", "*"), wanted.where):
            _refuse_raw(file, wanted.where)
        stack = GeoTiffs(
            path=self.path,
            date=self.date if not self.table else "",
            table=self.table,
            channels=self.channels,
            platform=self.platform,
            nodata=self.nodata,
        )
        return Found(tuple(read_stack(stack, wanted, units=self.units)))


def _refuse_raw(path: str, where: str) -> None:
    """CubeError for a product that is neither calibrated nor geocoded."""
    file, found = Path(path), ""
    packed = file.suffix.lower() in (".zip", ".tar") and ("GRD" in file.name or "SAFE" in file.name)
    measured = file.is_dir() and (file / "measurement").is_dir()
    if packed or measured or file.suffix.upper() == ".SAFE":
        found = f"{file.name}, a SAFE with its measurements in radar geometry"
    elif file.is_file():
        with open_raster(path, where) as raster:
            if raster.crs is None and raster.gcps[0]:
                found = f"{file.name}, with {len(raster.gcps[0])} ground control points"
    if found:
        raise CubeError(
            "raw GRD",
            where=where,
            expected="calibrated and geocoded backscatter (sigma0 or gamma0)",
            found=found,
            remedy="calibrate it and correct it for terrain first, e.g. with SNAP, pyroSAR or "
            "sarsen",
        )
