"""Zarr cubes of dated remote-sensing observations: format, reading, folds, samples. No JAX.

sensors      bands, wavelengths, scales and QA bits of real sensors, each with its source
format       the shape of a cube on disk, and the records read from it
grid, sites  CRS and affine transform of a raster; the places of a point cube
cube, read   `open_cube`; raw windows
write, copy  `create_cube`; sharded, checksummed, restartable writing; maps; copies
remote       cubes behind URLs
schema       `validate`: every rule a cube must keep, as a report; `suspect`: what deserves a look
splits       folds of blocks, places, labels and years; leakage report; scikit-learn's protocol
variogram    how far a target resembles itself
stats        exact statistics of bands over training windows; `percentiles`
radiometry   stored numbers to physical ones; QA masks
harmonize    reflectances of one instrument as another would have seen them
atmosphere   level-1 numbers to reflectance: TOA, dark-object subtraction, look-up curves
ingest       recipes: archives of Sentinel, Landsat, GeoTIFF, STAC, NetCDF and tables to cubes
samples      small real cubes and questions, with the recipes that made them

Names below are imported on first use, so that `import data_zarr` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from data_zarr.errors import CubeError

if TYPE_CHECKING:
    from data_zarr.copy import copy_cube
    from data_zarr.cube import Cube, open_cube
    from data_zarr.grid import Grid
    from data_zarr.ingest import (
        BandSetRecipe,
        GridSpec,
        PointBandSet,
        PointRecipe,
        PointTarget,
        Recipe,
        Table,
        TargetRecipe,
        build,
        load_recipe,
    )
    from data_zarr.read import Reader
    from data_zarr.samples import sample_path
    from data_zarr.schema import validate
    from data_zarr.sites import Sites
    from data_zarr.write import BandSetData, create_cube, write_geotiff, write_map

__all__ = [
    "BandSetData",
    "BandSetRecipe",
    "Cube",
    "CubeError",
    "Grid",
    "GridSpec",
    "PointBandSet",
    "PointRecipe",
    "PointTarget",
    "Reader",
    "Recipe",
    "Sites",
    "Table",
    "TargetRecipe",
    "build",
    "copy_cube",
    "create_cube",
    "load_recipe",
    "open_cube",
    "sample_path",
    "validate",
    "write_geotiff",
    "write_map",
]

_HOME = {
    "BandSetData": "write",
    "BandSetRecipe": "ingest",
    "Cube": "cube",
    "Grid": "grid",
    "GridSpec": "ingest",
    "PointBandSet": "ingest",
    "PointRecipe": "ingest",
    "PointTarget": "ingest",
    "Reader": "read",
    "Recipe": "ingest",
    "Sites": "sites",
    "Table": "ingest",
    "TargetRecipe": "ingest",
    "build": "ingest",
    "copy_cube": "copy",
    "create_cube": "write",
    "load_recipe": "ingest",
    "open_cube": "cube",
    "sample_path": "samples",
    "validate": "schema",
    "write_geotiff": "write",
    "write_map": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
