"""A layer on the target grid: values by a stated resampling, validity by the strictest one.

    fetch(layer, target, resampling) -> numbers [h, w], valid bool [h, w]

On the same grid (CRS, resolution, whole-pixel offset) pixels are copied. Elsewhere GDAL warps them
from memory, with two of its approximations taken away: its transformer would move 2.5 % of the
nearest neighbours, and its kernel would grow with the window. So a pixel does not depend on the
shard that it was built in (nearest: bitwise; else to about 1e-10).

A warped pixel is valid when no invalid one took part: bilinear, cubic and average look at the mask
through the same kernel, quality masks that are finer than the target through their maximum.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.ingest import native
from data_zarr.ingest.scene import Layer, Mask
from data_zarr.radiometry import db_to_linear
from data_zarr.sensors import Number

Resampling = Literal["nearest", "bilinear", "average", "cubic"]
RESAMPLING = ("nearest", "bilinear", "average", "cubic")
ALIGNED = 1e-3
"""Pixels by which two grids may differ and be called aligned."""


@functools.lru_cache(maxsize=256)
def same_crs(a: Grid, b: Grid) -> bool:
    """True when two grids have one CRS, however it is written."""
    if a.epsg is not None and a.epsg == b.epsg:
        return True
    from pyproj import CRS

    return CRS.from_user_input(a.crs_wkt).equals(
        CRS.from_user_input(b.crs_wkt), ignore_axis_order=True
    )


def aligned(source: Grid, target: Grid) -> tuple[int, int] | None:
    """Row and column of the target's first pixel in the source, or None where a warp is needed."""
    a, _, c, _, e, f = source.transform
    ta, _, tc, _, te, tf = target.transform
    n = max(target.height, target.width, source.height, source.width)
    if abs(ta / a - 1) * n > ALIGNED or abs(te / e - 1) * n > ALIGNED:
        return None
    row, col = (tf - f) / e, (tc - c) / a
    if abs(row - round(row)) > ALIGNED or abs(col - round(col)) > ALIGNED:
        return None
    return (round(row), round(col)) if same_crs(source, target) else None


def window_in(source: Grid, target: Grid) -> tuple[int, int, int, int] | None:
    """Rows and columns (y0, y1, x0, x1) of the source that a warp to `target` may ask for."""
    from rasterio.warp import transform_bounds

    if (corner := aligned(source, target)) is not None:
        y, x = corner
        h, w = target.height, target.width
        pad = 0
    else:
        bounds = target.bounds
        if not same_crs(source, target):
            bounds = transform_bounds(target.crs_wkt, source.crs_wkt, *bounds, densify_pts=21)
        if not np.isfinite(bounds).all():
            return None
        a, _, c, _, e, f = source.transform
        y, x = math.floor((bounds[3] - f) / e), math.floor((bounds[0] - c) / a)
        h = math.ceil((bounds[1] - f) / e) - y
        w = math.ceil((bounds[2] - c) / a) - x
        pad = 4 + 3 * math.ceil(max(1.0, h / target.height, w / target.width))
    y0, y1 = max(0, y - pad), min(source.height, y + h + pad)
    x0, x1 = max(0, x - pad), min(source.width, x + w + pad)
    return (y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None


def known(values: np.ndarray, nodata: Any) -> np.ndarray:
    """True where a stored number is a value."""
    mask = np.ones(values.shape, bool)
    if values.dtype.kind == "f":
        mask &= np.isfinite(values)
    if nodata is not None and not np.isnan(nodata):
        mask &= values != nodata
    return mask


def fetch(
    layer: Layer, target: Grid, resampling: Resampling | None, factor: Number = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A layer on the target grid.

    Args:
      resampling: None where the grids must be aligned.
      factor: source pixels a target pixel, along an axis; 0 works it out from `target`. Give that
        of the whole target where it is cut into shards.

    Returns:
      Stored numbers [h, w] (of the layer's dtype, or float64 where they were mixed), and where
      they are values. What is not valid holds any number.
    """
    h, w = target.height, target.width
    blank = np.zeros((h, w), np.dtype(layer.dtype)), np.zeros((h, w), bool)
    found = window_in(layer.grid, target)
    if found is None:
        return blank
    y0, y1, x0, x1 = found
    corner = aligned(layer.grid, target)
    if corner is None and resampling is None:
        raise CubeError(
            "resampling is not stated",
            where=layer.name,
            expected="one of " + ", ".join(RESAMPLING),
            found="a source on another grid than the cube",
        )
    values = native.read(layer, y0, x0, y1 - y0, x1 - x0)
    valid = known(values, layer.nodata)
    if corner is not None:
        y, x = corner
        out, mask = blank
        rows, columns = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
        out[rows, columns], mask[rows, columns] = values, valid
        return out, mask
    source = layer.grid.window(y0, x0, y1 - y0, x1 - x0)
    factor = factor or ratio(layer.grid, target)
    method = str(resampling)
    if method == "nearest":
        inside = _warp(valid.astype(np.uint8), source, target, method, factor, fill=0) > 0
        return _warp(values, source, target, method, factor, fill=0), inside
    decibel = layer.units == "db"
    mixed = values.astype(np.float64)
    mixed = db_to_linear(mixed).astype(np.float64) if decibel else mixed
    warped = _warp(np.where(valid, mixed, np.nan), source, target, method, factor, fill=np.nan)
    invalid = ~valid
    if method == "cubic":  # its weights change sign: look one pixel further, with bilinear ones
        invalid, method = _grown(invalid), "bilinear"
    touched = _warp(invalid.astype(np.float32), source, target, method, factor, fill=np.nan)
    good = np.isfinite(warped) & (touched < 1e-6)
    if decibel:
        warped = 10 * np.log10(np.where(good & (warped > 0), warped, 1.0))
    return np.where(good, warped, 0.0), good


def fetch_mask(mask: Mask, target: Grid, factor: Number = 0.0) -> np.ndarray:
    """Where a quality layer refuses a pixel of the target, bool [h, w]. Outside it: refused."""
    layer, h, w = mask.layer, target.height, target.width
    out = np.ones((h, w), bool)
    found = window_in(layer.grid, target)
    if found is None:
        return out
    y0, y1, x0, x1 = found
    refused = mask.refused(native.read(layer, y0, x0, y1 - y0, x1 - x0))
    corner = aligned(layer.grid, target)
    if corner is not None:
        y, x = corner
        out[y0 - y : y1 - y, x0 - x : x1 - x] = refused
        return out
    source = layer.grid.window(y0, x0, y1 - y0, x1 - x0)
    factor = factor or ratio(layer.grid, target)
    method = "max" if factor > 1 + 1e-6 else "nearest"
    # 0 outside, 1 usable, 2 refused: so the maximum is "any refused", and 0 is "not covered".
    return _warp((refused + 1).astype(np.uint8), source, target, method, factor, fill=0) != 1


def ratio(source: Grid, target: Grid) -> float:
    """Target pixel over source pixel, in metres."""
    return target.gsd / source.gsd


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and its eight neighbours."""
    padded = np.pad(mask, 1, mode="edge")
    h, w = mask.shape
    return np.any([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


def _warp(
    values: np.ndarray, source: Grid, target: Grid, method: str, factor: Number, fill: Number
) -> np.ndarray:
    """GDAL's warp of an array in memory; see the module docstring for its two options."""
    import rasterio
    from affine import Affine
    from rasterio.enums import Resampling as Method
    from rasterio.vrt import WarpedVRT

    if values.dtype == np.int64 or values.dtype == np.uint64 or values.dtype == bool:
        values = values.astype(np.float64)
    h, w = values.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": h,
        "width": w,
        "count": 1,
        "dtype": values.dtype,
        "crs": source.crs_wkt,
        "transform": Affine(*source.transform),
    }
    kernel = 1 / max(1.0, factor)
    options: dict[str, Any] = {"XSCALE": kernel, "YSCALE": kernel, "tolerance": 1e-9}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(values, 1)
        with (
            memory.open() as file,
            WarpedVRT(
                file,
                crs=target.crs_wkt,
                transform=Affine(*target.transform),
                height=target.height,
                width=target.width,
                resampling=Method[method],
                src_nodata=np.nan if math.isnan(fill) else None,
                nodata=fill,
                dtype=str(values.dtype),
                **options,
            ) as view,
        ):
            return view.read(1)
