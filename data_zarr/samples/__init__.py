"""Two small real cubes, their licences, and the scripts that made them.

slovenia_s2   Sentinel-2 over Slovenia, 101 x 100 pixels at 10 m, EPSG:32633: five 13-band scenes
              (two of them all cloud), 68 dates of NDVI with cloud mask, terrain, land cover
spain_s1s2    Sentinel-1 (VV, VH) and Sentinel-2 (13 bands) over Spain, a day apart, 512 x 512
              pixels at 10 m, EPSG:4326

`python -m data_zarr.samples.make_slovenia_s2 --source DIR --out CUBE` makes one again, bit for
bit in its pixels. Licences and attributions are in `LICENSES/`.
"""

from __future__ import annotations

from pathlib import Path

from data_zarr.errors import CubeError

SAMPLES: tuple[str, ...] = ("slovenia_s2", "spain_s1s2")


def sample_path(name: str) -> Path:
    """Path of a shipped cube; CubeError for a name that is not in `SAMPLES`."""
    if name not in SAMPLES:
        raise CubeError("no such sample", expected=", ".join(SAMPLES), found=repr(name))
    return Path(__file__).parent / f"{name}.zarr"
