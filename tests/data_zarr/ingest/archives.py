"""Tiny archives of known numbers: rasters, written with rasterio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from data_zarr.ingest import BandSetRecipe, Recipe

UTM = "EPSG:32633"
ORIGIN = (500000.0, 5000000.0)


def raster(
    path: Path,
    values: np.ndarray,
    *,
    step: float = 10.0,
    origin: tuple[float, float] = ORIGIN,
    crs: str | None = UTM,
    names: Sequence[str] = (),
    tags: dict[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    **more: Any,
) -> Path:
    """A raster [C, H, W], its upper left corner at `origin`; JPEG 2000 or GeoTIFF by its name."""
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    profile: dict[str, Any] = {
        **(lossless if path.suffix == ".jp2" else {"driver": "GTiff"}),
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
        **more,
    }
    if crs:
        profile |= {"crs": crs, "transform": Affine(step, 0, origin[0], 0, -step, origin[1])}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        if names:
            file.descriptions = tuple(names)
        if tags:
            file.update_tags(**tags)
        if scale:
            file.scales, file.offsets = ((v,) * values.shape[0] for v in scale)
    return path


def recipe(*bandsets: BandSetRecipe, **more: Any) -> Recipe:
    """A recipe of band sets alone."""
    return Recipe("test", "CC0-1.0", "made by a test", bandsets=bandsets, **more)
