"""Honest splits: spatial tiles dealt to folds, windows kept apart, and a report that proves it.

A random split of overlapping windows measures memory, not skill. Here a *tile* belongs to a fold;
an evaluation window belongs to the fold of its centre pixel; a training window may touch no pixel
of a held-out tile, and none of a held-out evaluation window either (tile edges cut some of them):

    tile of fold 0 | tile of fold 1          held out: fold 1
    . . . . . . [e e|e e] # # #              e: evaluation window of fold 1 that overhangs
    [t t t t] . . . | . .                    t: training window: clear of #, of e, and of
    . . . . . . . . | . .                       everything within `buffer` windows of them

Folds of groups (sites, years, regions) need no geometry: `group_split`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from data_zarr.errors import CubeError
from data_zarr.sampling import WindowTable, box_sums, integral


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a training table and of an evaluation table (or of one table of groups)."""

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]


@dataclass(frozen=True)
class Leakage:
    """What a split shares.

    Attributes:
      shared_pixels: pixels that lie in a training and in a test window.
      min_distance: smallest distance in pixels (larger of rows and columns) between a pixel of a
        training window and one of a test window: 0 shared, 1 adjacent, inf if a side is empty.
      train_windows, test_windows: how many there are.
      train_pixels, test_pixels: distinct pixels covered.
    """

    shared_pixels: int
    min_distance: float
    train_windows: int
    test_windows: int
    train_pixels: int
    test_pixels: int

    @property
    def ok(self) -> bool:
        return self.shared_pixels == 0


def tile_folds(
    height: int, width: int, *, block: int, folds: int, seed: int = 0
) -> Int[np.ndarray, "H W"]:
    """Deals square tiles to folds: in random order, each to the fold with the fewest pixels.

    A remainder at the lower or right edge becomes tiles of its own if it is at least half a block
    wide, and otherwise joins the last full tile: a strip of one pixel is not a place.

    Args:
      height, width: of the cube, in pixels.
      block: edge of a tile, in pixels.
      folds: how many.
      seed: of the dealing.

    Returns:
      int32 [H, W], fold of every pixel. Folds differ by less than one largest tile.

    Raises:
      CubeError: fewer tiles than folds, or impossible numbers.
    """
    if block < 1 or folds < 2 or height < 1 or width < 1:
        raise CubeError(
            "impossible folds",
            expected="block >= 1, folds >= 2, a cube of at least one pixel",
            found=f"block={block}, folds={folds}, {height} x {width}",
        )
    rows, columns = _tile_of(height, block), _tile_of(width, block)
    n_columns = int(columns[-1]) + 1
    tile = rows[:, None] * n_columns + columns[None, :]
    area = np.bincount(tile.ravel())
    if len(area) < folds:
        raise CubeError(
            "fewer tiles than folds",
            where=f"a cube of {height} x {width}",
            expected=f"at least {folds} tiles",
            found=f"{len(area)} of {block} pixels",
            remedy="choose smaller tiles or fewer folds",
        )
    rng = np.random.default_rng(seed)
    filled = np.zeros(folds, np.int64)
    fold_of = np.empty(len(area), np.int32)
    # Ties are broken by a random rank, or fold 0 would always get the odd tile out.
    rank = rng.permutation(folds)
    for t in rng.permutation(len(area)):
        fold = np.lexsort((rank, filled))[0]
        fold_of[t] = fold
        filled[fold] += area[t]
    return fold_of[tile]


def _tile_of(length: int, block: int) -> Int[np.ndarray, " length"]:
    full, rest = divmod(length, block)
    tiles = full + (1 if 2 * rest >= block else 0)
    return np.minimum(np.arange(length) // block, max(tiles, 1) - 1)


def split(
    train_table: WindowTable,
    eval_table: WindowTable,
    fold_map: Int[np.ndarray, "H W"],
    fold: int | None,
    *,
    buffer: float = 0.0,
) -> Split:
    """Test on one fold, train on what is clear of it.

    Args:
      train_table: windows to train on, usually overlapping.
      eval_table: windows to test on, usually not overlapping.
      fold_map: from `tile_folds`.
      fold: the held-out fold; None trains on all windows and tests on none.
      buffer: extra gap, in training windows: a training window keeps more than
        `ceil(buffer * size)` pixels away from everything held out.

    Raises:
      CubeError: no such fold, windows outside the map, or a side without windows.
    """
    height, width = fold_map.shape
    for name, table in (("train", train_table), ("eval", eval_table)):
        if len(table) and not (
            min(table.y.min(), table.x.min()) >= 0
            and table.y.max() + table.size <= height
            and table.x.max() + table.size <= width
        ):
            raise CubeError(
                "a window lies outside the map of folds",
                where=f"the {name} table",
                expected=f"windows within {height} x {width}",
                found=f"up to {table.y.max() + table.size} x {table.x.max() + table.size}",
            )
    if buffer < 0:
        raise CubeError("a buffer cannot be negative", expected=">= 0", found=buffer)
    if fold is None:
        if not len(train_table):
            raise CubeError("there are no training windows", expected="at least one", found=0)
        return Split(np.arange(len(train_table), dtype=np.int64), np.zeros(0, np.int64))
    if not (fold_map == fold).any():
        raise CubeError(
            "no such fold", expected=f"one of {np.unique(fold_map).tolist()}", found=fold
        )
    test = np.flatnonzero(fold_map[eval_table.centre] == fold)
    held = (fold_map == fold) | cover(eval_table.take(test), height, width)
    # Growing the held-out area by r pixels is the same as growing every training window by r.
    r = math.ceil(buffer * train_table.size)
    edge = train_table.size + 2 * r
    touched = box_sums(integral(held), train_table.y - r, train_table.x - r, edge, edge)
    return _checked(np.flatnonzero(touched == 0), test, f"fold {fold}")


def group_split(groups: Shaped[np.ndarray, " n"], held: Any | Collection[Any]) -> Split:
    """Leave groups out: sites, years, regions.

    Args:
      groups: the group of every sample.
      held: one group, or a list, tuple or set of them.

    Raises:
      CubeError: a group that does not occur, or no other group is left.
    """
    names: list[Any] = list(held) if isinstance(held, list | tuple | set | frozenset) else [held]
    absent = [name for name in names if not np.any(groups == name)]
    if absent:
        raise CubeError(
            "a group does not occur",
            expected=f"one of {np.unique(groups)[:10].tolist()}",
            found=absent[0],
        )
    out = np.isin(groups, names)
    return _checked(np.flatnonzero(~out), np.flatnonzero(out), f"groups held out: {names}")


def leakage(split: Split, train_table: WindowTable, eval_table: WindowTable) -> Leakage:
    """Measures, independently of how the split was made, what its two sides share."""
    train, test = train_table.take(split.train), eval_table.take(split.test)
    ends = [int(c.max()) + t.size for t in (train, test) if len(t) for c in (t.y, t.x)]
    edge = max(ends, default=1)
    in_train, in_test = cover(train, edge, edge), cover(test, edge, edge)
    return Leakage(
        shared_pixels=int((in_train & in_test).sum()),
        min_distance=_min_distance(train, test),
        train_windows=len(train),
        test_windows=len(test),
        train_pixels=int(in_train.sum()),
        test_pixels=int(in_test.sum()),
    )


def cover(table: WindowTable, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Pixels that lie in any window: corners added up, so cost does not grow with overlap."""
    corners = np.zeros((height + 1, width + 1), np.int64)
    y1, x1 = table.y + table.size, table.x + table.size
    for y, x, sign in ((table.y, table.x, 1), (y1, x1, 1), (table.y, x1, -1), (y1, table.x, -1)):
        np.add.at(corners, (y, x), sign)
    return np.cumsum(np.cumsum(corners, 0), 1)[:height, :width] > 0


def _min_distance(train: WindowTable, test: WindowTable) -> float:
    if not len(train) or not len(test):
        return math.inf
    best = math.inf
    for y, x in zip(test.y, test.x, strict=True):
        rows = np.maximum(train.y - (y + test.size - 1), y - (train.y + train.size - 1))
        columns = np.maximum(train.x - (x + test.size - 1), x - (train.x + train.size - 1))
        best = min(best, float(np.maximum(np.maximum(rows, columns), 0).min()))
    return best


def _checked(train: Int[np.ndarray, " n"], test: Int[np.ndarray, " m"], where: str) -> Split:
    if not len(train) or not len(test):
        raise CubeError(
            "a split is empty",
            where=where,
            expected="training and test windows",
            found=f"{len(train)} training, {len(test)} test",
            remedy="choose smaller tiles or windows, fewer folds, or a smaller buffer",
        )
    return Split(train.astype(np.int64), test.astype(np.int64))
