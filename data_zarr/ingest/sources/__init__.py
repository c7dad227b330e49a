"""What a band set can be built from, one file each; every one only says what it holds.

geotiff.py    GeoTiffs     stacks of GeoTIFF or COG, a file a date or a file a band
sentinel1.py  Sentinel1    calibrated, geocoded backscatter
files.py      what they share: globs, names of bands, layers of rasters
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_zarr.ingest.sources.geotiff import GeoTiffs
    from data_zarr.ingest.sources.sentinel1 import Sentinel1

KINDS = {
    "geotiff": "GeoTiffs",
    "sentinel1": "Sentinel1",
}
"""Key of `kind` in TOML, which is also the module: class."""

__all__ = ["KINDS", "GeoTiffs", "Sentinel1", "source_class"]


def source_class(kind: str) -> Any:
    """The dataclass of a kind of source."""
    return getattr(importlib.import_module(f"{__name__}.{kind}"), KINDS[kind])


def __getattr__(name: str) -> Any:
    for kind, cls in KINDS.items():
        if name == cls:
            return source_class(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
