"""Where the windows of a held-out map lie, and whose models may predict each.

A fold may predict a window when none of its training windows shares a pixel with it. Most windows
of the regular raster have such a fold; those that do not (they straddle the border of two tiles,
and both sides trained there) are left out, and the pixels that only they covered get windows
nearby that do have one:

    tile of fold 0   | tile of fold 1
           [a a a a] |                  a: raster window, fold 0 may predict it
                 [b b|b b]              b: raster window that nobody may predict: left out
               [c c c c]                c: added, flush with the border, for the pixels of b alone
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from data_zarr.sampling import WindowTable, box_sums, integral
from data_zarr.splits import cover
from rsvlm_jax.config import DataError


class MapWindows(NamedTuple):
    """Windows of a map; `fold` i64 [n] may predict them."""

    table: WindowTable
    fold: Int[np.ndarray, " n"]


def held_out_windows(
    raster: WindowTable,
    training: Mapping[int, WindowTable],
    fold_map: Int[np.ndarray, "H W"],
) -> MapWindows:
    """The raster's windows that some fold may predict, and windows added for bare pixels.

    Args:
      raster: the windows wanted.
      training: the training windows of each fold's models.
      fold_map: of two or more folds that may predict a window, the one that owns its centre is
        taken, else the lowest.

    Raises:
      DataError: no fold may predict any window.
    """
    height, width = fold_map.shape
    size = raster.size
    trained = {f: cover(t, height, width) for f, t in sorted(training.items())}
    fold = _fold_of(raster, trained, fold_map)
    kept = raster.take(fold >= 0)
    extra = _added(cover(kept, height, width), trained, size)
    y, x = (np.concatenate(c) for c in ((kept.y, extra.y), (kept.x, extra.x)))
    order = np.lexsort((x, y))
    table = WindowTable(y[order], x[order], size)
    if not len(table):
        raise DataError(
            "no window of the map is clear of all training windows of some fold",
            where="held-out map",
            expected=f"tiles of at least {size} pixels, the window",
            remedy="a larger split.block, or a smaller window",
        )
    return MapWindows(table, _fold_of(table, trained, fold_map))


def _fold_of(
    table: WindowTable, trained: Mapping[int, np.ndarray], fold_map: np.ndarray
) -> Int[np.ndarray, " n"]:
    """The fold that may predict each window, -1 where there is none."""
    found = np.full(len(table), -1, np.int64)
    own = fold_map[table.centre]
    for f, seen in trained.items():
        clear = box_sums(integral(seen), table.y, table.x, table.size, table.size) == 0
        found[clear & ((found < 0) | (own == f))] = f
    return found


def _added(
    covered: Bool[np.ndarray, "H W"], trained: Mapping[int, np.ndarray], size: int
) -> WindowTable:
    """Windows on the pixels that are not covered, as far as some fold may predict one there.

    Pixel by pixel in order, each time the window that covers most of what is bare.
    """
    bare = ~covered
    height, width = bare.shape
    free = np.zeros((height - size + 1, width - size + 1), bool)
    if bare.any():
        for seen in trained.values():
            s = integral(seen)
            free |= s[size:, size:] - s[:-size, size:] - s[size:, :-size] + s[:-size, :-size] == 0
    at = []
    for y, x in zip(*np.nonzero(bare), strict=True):
        if not bare[y, x]:
            continue
        top, left = max(y - size + 1, 0), max(x - size + 1, 0)
        ok = free[top : y + 1, left : x + 1]
        if not ok.any():
            continue
        rows, columns = np.nonzero(ok)
        near = integral(bare[top : y + size, left : x + size])
        best = np.argmax(box_sums(near, rows, columns, size, size))
        j, i = top + int(rows[best]), left + int(columns[best])
        bare[j : j + size, i : i + size] = False
        at.append((j, i))
    found = np.array(at, np.int64).reshape(-1, 2)
    return WindowTable(found[:, 0], found[:, 1], size)
