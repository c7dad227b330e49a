"""Spatial tiles dealt to folds, and windows kept clear of everything held out.

Here a *tile* belongs to a fold; an evaluation window belongs to the fold of its centre pixel; a
training window may touch no pixel of a held-out tile, and none of a held-out evaluation window
either (tile edges cut some of them):

    tile of fold 0 | tile of fold 1          held out: fold 1
    . . . . . . [e e|e e] # # #              e: evaluation window of fold 1 that overhangs
    [t t t t] . . . | . .                    t: training window: clear of #, of e, and of
    . . . . . . . . | . .                       everything within `buffer` windows of them
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from data_zarr.errors import CubeError
from data_zarr.sampling import WindowTable, box_sums, integral
from data_zarr.sensors import Number
from data_zarr.splits.strata import counts_of, deal

Narrow = Literal["accept", "warn", "refuse"]
"""What to do with a buffer that is narrower than a window."""


class NarrowBufferWarning(UserWarning):
    """Training windows come nearer to held-out ones than a window is wide."""


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a training table and of an evaluation table (or of one table of groups)."""

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]


def tile_folds(
    height: int,
    width: int,
    *,
    block: int,
    folds: int,
    seed: int = 0,
    strata: Int[np.ndarray, "H W"] | None = None,
) -> Int[np.ndarray, "H W"]:
    """Deals square tiles to folds: in random order, each to the fold with the fewest pixels.

    A remainder at the lower or right edge becomes tiles of its own if it is at least half a block
    wide, and otherwise joins the last full tile: a strip of one pixel is not a place.

    Args:
      height, width: of the cube, in pixels.
      block: edge of a tile, in pixels.
      folds: how many.
      seed: of the dealing.
      strata: of every pixel, from `strata_of`: whole tiles are then dealt so that each fold holds
        about the same number of pixels of every stratum (`deal`).

    Returns:
      int32 [H, W], fold of every pixel. Without strata, folds differ by at most one largest tile.

    Raises:
      CubeError: fewer tiles than folds, or impossible numbers.
    """
    if block < 1 or folds < 2 or height < 1 or width < 1:
        raise CubeError(
            "impossible folds",
            expected="block >= 1, folds >= 2, a cube of at least one pixel",
            found=f"block={block}, folds={folds}, {height} x {width}",
        )
    tile = tile_map(height, width, block)
    area = np.bincount(tile.ravel())
    if len(area) < folds:
        raise CubeError(
            "fewer tiles than folds",
            where=f"a cube of {height} x {width}",
            expected=f"at least {folds} tiles",
            found=f"{len(area)} of {block} pixels",
            remedy="choose smaller tiles or fewer folds",
        )
    if strata is not None:
        if strata.shape != (height, width):
            raise CubeError("strata of another shape", expected=(height, width), found=strata.shape)
        return deal(counts_of(tile.ravel(), strata.ravel()), folds, seed)[tile]
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


def tile_map(height: int, width: int, block: int) -> Int[np.ndarray, "H W"]:
    """The tile of every pixel, numbered row by row; see `tile_folds` for the edges."""
    rows, columns = _tile_of(height, block), _tile_of(width, block)
    return rows[:, None] * (int(columns[-1]) + 1) + columns[None, :]


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
    buffer: Number = 0.0,
    narrow: Narrow = "accept",
) -> Split:
    """Test on one fold, train on what is clear of it.

    Args:
      train_table: windows to train on, usually overlapping.
      eval_table: windows to test on, usually not overlapping.
      fold_map: from `tile_folds`.
      fold: the held-out fold; None trains on all windows and tests on none.
      buffer: extra gap, in training windows: a training window keeps more than
        `guard(buffer, size)` pixels away from everything held out. 0: touch no held-out pixel.
      narrow: a buffer below 1 leaves windows a pixel apart that see nearly the same ground:
        accept it, warn, or refuse it.

    Raises:
      CubeError: no such fold, windows outside the map, a side without windows, or a buffer that
        is negative or (if refused) narrow.
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
    r = guard(buffer, train_table.size)
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
    check_narrow(r, train_table.size, narrow)
    edge = train_table.size + 2 * r
    touched = box_sums(integral(held), train_table.y - r, train_table.x - r, edge, edge)
    return checked(np.flatnonzero(touched == 0), test, f"fold {fold}")


def guard(buffer: Number, size: int) -> int:
    """Pixels that a buffer of so many windows keeps free; CubeError for a negative one."""
    if not buffer >= 0:
        raise CubeError("a buffer cannot be negative", expected=">= 0", found=buffer)
    return math.ceil(buffer * size)


def check_narrow(pixels: int, size: int, narrow: Narrow) -> None:
    """Warns of, or refuses, a guard of fewer pixels than a window is wide."""
    if narrow == "accept" or pixels >= size:
        return
    text = f"the buffer is narrower than a window: {pixels} of {size} pixels"
    if narrow == "refuse":
        raise CubeError(
            text, expected="buffer >= 1", remedy='a wider buffer, or narrow="accept" to state it'
        )
    warnings.warn(text, NarrowBufferWarning, stacklevel=3)


def cover(table: WindowTable, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Pixels that lie in any window."""
    return boxes(table.y, table.x, table.y + table.size, table.x + table.size, height, width)


def boxes(
    y0: Int[np.ndarray, " n"],
    x0: Int[np.ndarray, " n"],
    y1: Int[np.ndarray, " n"],
    x1: Int[np.ndarray, " n"],
    height: int,
    width: int,
) -> Bool[np.ndarray, "H W"]:
    """Pixels in any box; parts outside count for nothing. Corners are added up, so the cost does
    not grow with overlap."""
    y0, y1 = np.clip(y0, 0, height), np.clip(y1, 0, height)
    x0, x1 = np.clip(x0, 0, width), np.clip(x1, 0, width)
    corners = np.zeros((height + 1, width + 1), np.int32)
    for y, x, sign in ((y0, x0, 1), (y1, x1, 1), (y0, x1, -1), (y1, x0, -1)):
        np.add.at(corners, (y, x), sign)
    np.cumsum(corners, axis=0, out=corners)
    np.cumsum(corners, axis=1, out=corners)
    return corners[:height, :width] > 0


def checked(train: Int[np.ndarray, " n"], test: Int[np.ndarray, " m"], where: str) -> Split:
    if not len(train) or not len(test):
        raise CubeError(
            "a split is empty",
            where=where,
            expected="training and test windows",
            found=f"{len(train)} training, {len(test)} test",
            remedy="choose smaller tiles or windows, fewer folds, or a smaller buffer",
        )
    return Split(train.astype(np.int64), test.astype(np.int64))
