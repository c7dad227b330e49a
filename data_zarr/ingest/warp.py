"""A layer on the target grid: values by a stated resampling, validity by the strictest one.

    fetch(layers, target, resampling) -> for each: numbers [h, w], valid bool [h, w]

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
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.ingest import native
from data_zarr.ingest.scene import Layer, Mask
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
    layers: Sequence[Layer], target: Grid, resampling: Resampling | None, whole: Grid | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Layers on the target grid; those of one grid are read and warped together.

    Args:
      resampling: None where the grids must be aligned.
      whole: the grid that `target` is a window of, where it is one.

    Returns:
      For each layer its stored numbers [h, w] (of its dtype, or float64 where they were mixed),
      and where they are values. What is not valid holds any number.
    """
    out: list[Any] = [None] * len(layers)
    together: dict[tuple[Grid, bool], list[int]] = {}
    for i, layer in enumerate(layers):
        together.setdefault((layer.grid, layer.units == "db"), []).append(i)
    for (grid, _), members in together.items():
        some = [layers[i] for i in members]
        for i, found in zip(members, _fetch(some, grid, target, resampling, whole), strict=True):
            out[i] = found
    return out


def _fetch(
    layers: Sequence[Layer],
    grid: Grid,
    target: Grid,
    resampling: Resampling | None,
    whole: Grid | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`fetch` for layers of one grid and unit."""
    shape = (target.height, target.width)
    found = window_in(grid, target)
    if found is None:
        return [(np.zeros(shape, np.dtype(x.dtype)), np.zeros(shape, bool)) for x in layers]
    y0, y1, x0, x1 = found
    corner = aligned(grid, target)
    if corner is None and resampling is None:
        raise CubeError(
            "resampling is not stated",
            where=layers[0].name,
            expected="one of " + ", ".join(RESAMPLING),
            found="a source on another grid than the cube",
        )
    values = native.read_all(layers, y0, x0, y1 - y0, x1 - x0)
    valid = [known(v, x.nodata) for v, x in zip(values, layers, strict=True)]
    if corner is not None:
        place = (slice(y0 - corner[0], y1 - corner[0]), slice(x0 - corner[1], x1 - corner[1]))
        return [
            (_laid(v, shape, place), _laid(m, shape, place))
            for v, m in zip(values, valid, strict=True)
        ]
    source = grid.window(y0, x0, y1 - y0, x1 - x0)
    if resampling == "nearest":
        index = _nearest(source, target)
        inside = index >= 0
        return [(v.ravel()[index], m.ravel()[index] & inside) for v, m in
                zip(values, valid, strict=True)]  # fmt: skip
    return _mixed(layers, values, valid, source, target, str(resampling), whole or target)


def _laid(values: np.ndarray, shape: tuple[int, int], place: tuple[slice, slice]) -> np.ndarray:
    """An array laid into a larger one of zeros."""
    if values.shape == shape:
        return values
    out = np.zeros(shape, values.dtype)
    out[place] = values
    return out


def _mixed(
    layers: Sequence[Layer],
    values: Sequence[np.ndarray],
    valid: Sequence[np.ndarray],
    source: Grid,
    target: Grid,
    method: str,
    whole: Grid,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weighted means of layers of one grid: one warp for the numbers, one for the masks."""
    decibel = layers[0].units == "db"
    numbers = np.stack(values).astype(np.float64)
    mask = np.stack(valid)
    if decibel:
        numbers = 10 ** (numbers / 10)
    factor = ratio(source, whole)
    numbers = _warp(np.where(mask, numbers, np.nan), source, target, method, factor, fill=np.nan)
    same = bool((mask == mask[:1]).all())
    invalid = ~(mask[:1] if same else mask)
    if method == "cubic":  # its weights change sign: look one pixel further, with bilinear ones
        invalid, method = np.stack([_grown(m) for m in invalid]), "bilinear"
    if invalid.any():
        touched = _warp(invalid.astype(np.float32), source, target, method, factor, fill=np.nan)
        good = np.isfinite(numbers) & (touched < 1e-6)
    else:
        good = np.isfinite(numbers)
    if decibel:
        numbers = 10 * np.log10(np.where(good & (numbers > 0), numbers, 1.0))
    numbers = np.where(good, numbers, 0.0)
    return list(zip(numbers, good, strict=True))


def fetch_mask(mask: Mask, target: Grid, whole: Grid | None = None) -> np.ndarray:
    """Where a quality layer refuses a pixel of the target, bool [h, w]. Outside it: refused."""
    layer, shape = mask.layer, (target.height, target.width)
    found = window_in(layer.grid, target)
    if found is None:
        return np.ones(shape, bool)
    y0, y1, x0, x1 = found
    refused = mask.refused(native.read(layer, y0, x0, y1 - y0, x1 - x0))
    corner = aligned(layer.grid, target)
    if corner is not None:
        place = (slice(y0 - corner[0], y1 - corner[0]), slice(x0 - corner[1], x1 - corner[1]))
        return ~_laid(~refused, shape, place)
    source = layer.grid.window(y0, x0, y1 - y0, x1 - x0)
    factor = ratio(layer.grid, whole or target)
    if factor <= 1 + 1e-6:
        index = _nearest(source, target)
        return refused.ravel()[index] | (index < 0)
    # 0 outside, 1 usable, 2 refused: so the maximum is "any refused", and 0 is "not covered".
    coded = (refused + 1).astype(np.uint8)[None]
    return _warp(coded, source, target, "max", factor, fill=0)[0] != 1


@functools.lru_cache(maxsize=32)
def _nearest(source: Grid, target: Grid) -> np.ndarray:
    """For each target pixel its nearest source pixel, int64 [h, w] into the raveled source; -1."""
    n = source.height * source.width
    index = np.arange(n, dtype=np.float64).reshape(1, source.height, source.width)
    return _warp(index, source, target, "nearest", 1.0, fill=-1)[0].astype(np.int64)


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
    """GDAL's warp of [n, h, w] in memory; see the module docstring for its two options."""
    import rasterio
    from affine import Affine
    from rasterio.enums import Resampling as Method
    from rasterio.vrt import WarpedVRT

    n, h, w = values.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": n,
        "height": h,
        "width": w,
        "dtype": values.dtype,
        "crs": source.crs_wkt,
        "transform": Affine(*source.transform),
        "interleave": "band",
        "photometric": "MINISBLACK",
        "BIGTIFF": "IF_SAFER",
    }
    kernel = 1 / max(1.0, factor)
    options: dict[str, Any] = {"XSCALE": kernel, "YSCALE": kernel, "tolerance": 1e-9}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(values)
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
                UNIFIED_SRC_NODATA="NO",  # a band without a value says nothing of the others
                **options,
            ) as view,
        ):
            return view.read()
