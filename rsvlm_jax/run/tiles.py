"""The whole-cube engine: run a function over overlapping windows, blend, restart where it stopped.

The output grid is cut into blocks (`blocks.py`, which restarts). A block evaluates every window
that touches it, blends their values with fixed weights and writes one file. Since windows lie at
fixed places and a block sums them in a fixed order, an interrupted and an unbroken run give the
same bytes. Windows across a block's edge are evaluated once for each block that they touch: that is
the price of independence.

           block                     window (tile x tile), every `tile - overlap` pixels
    +----------------+
    |   +----+       |     value(p) = sum_w weight_w(p) f(w) / sum_w weight_w(p)
    | +-|--+ |       |
    | | +--|-+       |     "linear": the weight falls linearly from a window's centre
    | +----+         |     "flat":   every window counts the same
    +----------------+
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from data_zarr.sampling import WindowTable
from rsvlm_jax.config import ConfigError, DataError

from .blocks import Blocks, Box

WindowFn = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""(y int64[n], x int64[n]) -> {variable: float}: [n], a value a window; or [n, tile, tile], one for
each of its pixels."""


@dataclasses.dataclass(frozen=True)
class TilesReport:
    """What a call did: blocks in all, blocks computed now, windows evaluated now, and how long."""

    blocks: int
    computed: int
    windows: int
    seconds: float = 0.0

    @property
    def windows_per_second(self) -> float:
        """Reading, model and blending; NaN where nothing was computed. Compilation is in it."""
        return self.windows / self.seconds if self.windows else float("nan")


def window_starts(extent: int, tile: int, step: int) -> np.ndarray:
    """First pixels of the windows along an axis: every `step`, the last one flush with the end."""
    starts = np.arange(0, extent - tile + 1, step)
    return starts if starts[-1] == extent - tile else np.append(starts, extent - tile)


def blend_weights(tile: int, blend: Literal["linear", "flat"]) -> np.ndarray:
    """float64 [tile, tile], positive everywhere so that every pixel has an answer."""
    if blend == "flat":
        return np.ones((tile, tile))
    ramp = (tile + 1) / 2 - np.abs(np.arange(tile) - (tile - 1) / 2)
    return np.outer(ramp, ramp)


def tiles(
    shape: tuple[int, int],
    fn: WindowFn,
    out: str | os.PathLike,
    **how: Any,
) -> tuple[dict[str, np.ndarray], TilesReport]:
    """`mosaic`, in memory: {variable: float32 [height, width]}, NaN where no window lies."""
    store, report = mosaic(shape, fn, out, **how)
    result: dict[str, np.ndarray] = {}
    for box in store.boxes:
        y0, x0, y1, x1 = box
        for name, v in (store.load(box) or {}).items():
            if name not in result:
                result[name] = np.full(shape, np.nan, np.float32)
            result[name][y0:y1, x0:x1] = v
    return result, report


def mosaic(
    shape: tuple[int, int],
    fn: WindowFn,
    out: str | os.PathLike,
    *,
    key: str,
    tile: int,
    overlap: int,
    windows: tuple[np.ndarray, np.ndarray] | None = None,
    blend: Literal["linear", "flat"] = "linear",
    gaps: Literal["spread", "bridged"] = "spread",
    block: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Blocks, TilesReport]:
    """Evaluate `fn` over a grid and blend, block by block: nothing is in memory as a whole.

    Args:
      shape: (height, width) of the grid in pixels.
      fn: for each variable one value a window, or one for each of its pixels; called once a block
        that has windows.
      out: directory of the finished blocks; kept until the caller removes it.
      key: identifies what is computed (model, cube, options); blocks of another key are refused.
      tile, overlap: window edge and shared pixels of neighbours.
      windows: upper left pixels (y, x) [n] instead of the raster that `overlap` gives.
      gaps: a window with a NaN anywhere makes its pixels NaN ("spread"), or leaves them to the
        other windows that cover them ("bridged"). With values of pixels "spread" is by pixel.
      block: edge of an output block in pixels.
      progress: called with (finished blocks, all blocks).

    Returns:
      the blocks, each {variable: float32 [h, w]}, NaN where no window lies; and a report.

    Raises:
      DataError: a window larger than the grid. ConfigError: `out` belongs to another computation.
    """
    if tile > min(shape):
        raise DataError(
            "the window is larger than the cube",
            where="tiles",
            expected=f"<= {min(shape)} pixels",
            found=tile,
            remedy="train with a smaller window",
        )
    if not 0 <= overlap < tile:
        raise ConfigError(
            "impossible overlap", where="tiles", expected=f"0 .. {tile - 1}", found=overlap
        )
    ys, xs = (window_starts(n, tile, tile - overlap) for n in shape)
    store = Blocks(
        out,
        shape,
        block=block,
        what={
            "key": key,
            "tile": tile,
            "overlap": overlap,
            "windows": None if windows is None else WindowTable(*windows, tile).digest(),
            "blend": blend,
            **({} if gaps == "spread" else {"gaps": gaps}),
        },
    )
    weights = blend_weights(tile, blend)
    evaluated = 0

    def values(box: Box) -> dict[str, np.ndarray]:
        nonlocal evaluated
        y0, x0, y1, x1 = box
        if windows is None:
            near_y = ys[(ys < y1) & (ys + tile > y0)]
            near_x = xs[(xs < x1) & (xs + tile > x0)]
            y, x = (a.ravel() for a in np.meshgrid(near_y, near_x, indexing="ij"))
        else:
            y, x = windows
            here = (y < y1) & (y + tile > y0) & (x < x1) & (x + tile > x0)
            y, x = y[here], x[here]
        evaluated += len(y)
        if not len(y):
            return {}
        return _blend(fn(y, x), y, x, box, weights, bridged=gaps == "bridged")

    started = time.monotonic()
    computed = store.fill(values, progress=progress)
    seconds = time.monotonic() - started
    return store, TilesReport(len(store.boxes), computed, evaluated, seconds)


def _blend(
    values: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    box: Box,
    weights: np.ndarray,
    *,
    bridged: bool,
) -> dict[str, np.ndarray]:
    y0, x0, y1, x1 = box
    tile = len(weights)
    total = np.zeros((y1 - y0, x1 - x0))
    sums = {name: np.zeros_like(total) for name in values}
    gone = [np.isnan(v).reshape(len(v), -1).any(axis=1) for v in values.values()]
    missing = np.any(gone, axis=0) & bridged
    for i in np.flatnonzero(~missing):
        top, left = max(y[i], y0), max(x[i], x0)
        bottom, right = min(y[i] + tile, y1), min(x[i] + tile, x1)
        at = np.s_[top - y0 : bottom - y0, left - x0 : right - x0]
        own = np.s_[top - y[i] : bottom - y[i], left - x[i] : right - x[i]]
        w = weights[own]
        total[at] += w
        for name, v in values.items():
            sums[name][at] += w * (float(v[i]) if v.ndim == 1 else v[i][own].astype(np.float64))
    total[total == 0] = np.nan  # no window lies there
    return {name: (s / total).astype(np.float32) for name, s in sums.items()}
