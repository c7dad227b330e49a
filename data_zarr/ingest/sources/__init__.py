"""What a band set can be built from, one file each; every one only says what it holds.

    geotiff.py    GeoTiffs     stacks of GeoTIFF or COG, a file a date or a file a band
    sentinel1.py  Sentinel1    calibrated, geocoded backscatter
    sentinel2.py  Sentinel2    SAFE, level 1C or 2A
    landsat.py    Landsat      Collection 2 bundles, level 2; level 1 with `radiometry`
    stac.py       Stac         STAC items
    gridded.py    Gridded      NetCDF and Zarr
    arrays.py     Arrays       NumPy and HDF5 arrays: chips

What they share (globs, names of bands, layers of rasters) is in files.py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_zarr.ingest.sources.arrays import Arrays
    from data_zarr.ingest.sources.geotiff import GeoTiffs
    from data_zarr.ingest.sources.gridded import Gridded
    from data_zarr.ingest.sources.landsat import Landsat
    from data_zarr.ingest.sources.sentinel1 import Sentinel1
    from data_zarr.ingest.sources.sentinel2 import Sentinel2
    from data_zarr.ingest.sources.stac import Stac

KINDS = {
    "geotiff": "GeoTiffs",
    "sentinel1": "Sentinel1",
    "sentinel2": "Sentinel2",
    "landsat": "Landsat",
    "stac": "Stac",
    "gridded": "Gridded",
    "arrays": "Arrays",
}
"""Key of `kind` in TOML, which is also the module: class."""

__all__ = [
    "KINDS",
    "Arrays",
    "GeoTiffs",
    "Gridded",
    "Landsat",
    "Sentinel1",
    "Sentinel2",
    "Stac",
    "source_class",
]


def source_class(kind: str) -> Any:
    """The dataclass of a kind of source."""
    return getattr(importlib.import_module(f"{__name__}.{kind}"), KINDS[kind])


def __getattr__(name: str) -> Any:
    for kind, cls in KINDS.items():
        if name == cls:
            return source_class(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
