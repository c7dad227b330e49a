"""Any number of pixels and dates by one program: pieces of one size, lengths in buckets.

NumPy in, NumPy out; the series lie in memory. Cubes larger than that come tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from rsvlm_jax.config.errors import ConfigError

from .dates import fill_up


def in_pieces(
    compute: Callable[[np.ndarray, np.ndarray, np.ndarray | None], Any],
    values: np.ndarray,
    times: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    pixels: int = 4096,
    threads: int = 1,
) -> Any:
    """`compute(values, times, mask)` of [pixels, T] pieces, its leaves [P] put together.

    Args:
      compute: for instance `functools.partial(mann_kendall, method="trend_free")`.
      values: [P, T], or with bands [P, T, C]; times: [T] or [P, T]; mask: as values, or of all
        bands [P, T]; None = everything finite, and `compute` is given none.
      pixels: of a piece; the last is filled up with masked ones.
      threads: pieces under way at a time: a piece keeps one core of a CPU busy.

    Raises:
      ConfigError: no pixels in a piece, no threads. And what `compute` raises.
    """
    if pixels < 1 or threads < 1:
        raise ConfigError("nothing to work with", where="in_pieces", expected="1 or more",
                          found=f"pixels={pixels}, threads={threads}")  # fmt: skip
    values, times, mask = fill_up(values, times, mask)
    total = len(values)

    def one(start: int) -> Any:
        part = slice(start, start + pixels)
        more = max(start + pixels - total, 0)

        def filled(a: np.ndarray, value: float | bool) -> np.ndarray:
            if not more:
                return a[part]
            wide = ((0, more), *((0, 0) for _ in a.shape[1:]))
            return np.pad(a[part], wide, constant_values=value)

        t = times if times.ndim == 1 else filled(times, np.nan)
        counts = None if mask is None else filled(mask, False)
        found = compute(filled(values, np.nan), t, counts)
        return jax.tree.map(lambda a: np.asarray(a)[: pixels - more], found)

    starts = range(0, max(total, 1), pixels)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(one, starts))
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
