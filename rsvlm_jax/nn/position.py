"""Position tables of another image size: interpolation with weights known before compilation.

    table [S,D] = [rows*cols, D] -> rows [R,rows] @ . -> cols [C,cols] @ . -> [R*C, D]

Every method is separable, so a resize is two small matrix products; they are differentiable, and
their matrices are NumPy constants. Four methods, each the same numbers as the torch call that
trained models have seen:

    bicubic                interpolate(mode="bicubic"): Hugging Face's `interpolate_pos_encoding`
    bicubic_align_corners  the same with align_corners=True: GeoChat's 24x24 -> 36x36
    bicubic_antialias      the same with antialias=True: timm and OpenCLIP
    bilinear               interpolate(mode="bilinear")

A class token has no place on the grid: the caller keeps its row apart.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.core.shapes import Array, Float

Resize = Literal["bicubic", "bicubic_align_corners", "bicubic_antialias", "bilinear"]
Grid = tuple[int, int]
"""(rows, columns)."""


def resize_positions(
    table: Float[Array, "S D"], old: Grid, new: Grid, method: Resize = "bicubic"
) -> Float[Array, "P D"]:
    """A table for `old` in raster order, interpolated to `new`.

    The same grid gives the table itself. Float32 products whatever the backend's default is: the
    table is small, and every patch of every image reads it.
    """
    if old == new:
        return table
    x = table.astype(jnp.float32).reshape(*old, table.shape[1])
    rows = jnp.asarray(resize_weights(old[0], new[0], method))
    columns = jnp.asarray(resize_weights(old[1], new[1], method))
    x = jnp.einsum("ri,ijd->rjd", rows, x, precision=jax.lax.Precision.HIGHEST)
    x = jnp.einsum("cj,rjd->rcd", columns, x, precision=jax.lax.Precision.HIGHEST)
    return x.reshape(-1, table.shape[1]).astype(table.dtype)


def resize_stored(table: np.ndarray, new: Grid, method: Resize, *, extra: int = 1) -> np.ndarray:
    """The same for a table of a square grid in a checkpoint, on the host, once.

    A table that has the new size already is returned as it is: GeoChat's checkpoints hold either
    CLIP's 1 + 24*24 rows or 1 + 36*36.

    Args:
      table: [extra + rows * columns, D].
      extra: rows in front that belong to no patch (class token); they are kept.

    Raises:
      CheckpointError: the rows are those of no square grid.
    """
    count = table.shape[0] - extra
    if count == new[0] * new[1]:
        return table
    side = int(max(count, 0) ** 0.5)
    if table.ndim != 2 or side < 1 or side * side != count:
        raise CheckpointError(
            "a position table that fits no square grid",
            expected=f"{extra} + n * n rows",
            found=f"shape {table.shape}",
        )
    grid = table[extra:].astype(np.float32).reshape(side, side, -1)
    grid = np.einsum("ri,ijd->rjd", resize_weights(side, new[0], method), grid)
    grid = np.einsum("cj,rjd->rcd", resize_weights(side, new[1], method), grid)
    grid = grid.reshape(new[0] * new[1], -1).astype(table.dtype)
    return np.concatenate([table[:extra], grid])


@functools.lru_cache(maxsize=64)
def resize_weights(old: int, new: int, method: Resize) -> np.ndarray:
    """What each of `new` points takes from each of `old`: [new, old], float32, rows sum to one.

    Points lie at the middles of equal cells; with "align_corners" the first and last points of
    both coincide. Coordinates are float32 as in torch, so that both cut the same cells.
    """
    point = np.arange(new, dtype=np.float32)
    if method == "bicubic_antialias":
        return _antialias(old, new, point)
    if method == "bicubic_align_corners":
        step = np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.float32(0)
        at = point * step
    else:
        at = np.float32(old) / np.float32(new) * (point + np.float32(0.5)) - np.float32(0.5)
    if method == "bilinear":
        at = np.maximum(at, np.float32(0))
        taps = (0, 1)
    else:
        taps = (-1, 0, 1, 2)
    start = np.floor(at)
    weights = np.zeros((new, old), np.float32)
    for tap in taps:
        away = np.abs(at - start - np.float32(tap))
        value = np.float32(1) - away if method == "bilinear" else _cubic(away, -0.75)
        # Beyond the edge stands the edge itself.
        index = np.clip(start.astype(int) + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), index), value)
    weights.flags.writeable = False  # the cache hands out one array
    return weights


def _antialias(old: int, new: int, point: np.ndarray) -> np.ndarray:
    """Where points become fewer the kernel is as wide as the new cells; beyond the edge is nothing,
    and what is left is normalised."""
    scale = np.float32(old) / np.float32(new)
    stretch = max(scale, np.float32(1))
    centre = (scale * (point + np.float32(0.5)))[:, None]
    cell = np.arange(old, dtype=np.float32)[None] + np.float32(0.5)
    weights = _cubic(np.abs(cell - centre) / stretch, -0.5)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False
    return weights


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' convolution kernel (1981) at distances x >= 0."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0)).astype(np.float32)
