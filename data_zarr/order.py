"""In which order the rows of a table are visited: more pure functions beside `permutation`.

    block_order     shards in random order, from each some rows: one read of a shard, many crops
    grouped         an order whose batches hold rows of one group, where that is possible
    interleave      which of several sequences gives the sample at a position (mixtures)

None of them holds a state: what comes at a position follows from the arguments alone, so a run is
resumed at a number, on any number of threads and processes. Not here: reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from data_zarr.errors import CubeError

BLOCK_STREAM = 2**31
"""Keeps the draws of `block_order` apart from those of `permutation`."""
DENOMINATOR = 10_000
"""Weights of a mixture are rounded to fractions of at most this: positions stay exact integers."""


def block_order(
    block_of: Int[np.ndarray, " n"], crops: int, window: int, seed: int, epoch: int
) -> Int[np.ndarray, " m"]:
    """Rows of one epoch when whole blocks are read: `crops` rows of each block, or all it has.

    Blocks come in random order and are read `window` at a time. The rows of a window of blocks are
    dealt in rounds, each block in random order giving one, so that neighbours of a batch lie in
    different blocks. Worked example with two crops and windows of two blocks:

        block_of   0 0 0 1 1 1 2 2 2
        drawn      0: 0 2   1: 3 5   2: 6 7
        blocks     0 1 | 2
        order      0 3 2 5 | 6 7

    Args:
      block_of: the block that holds a row; any numbers.
      crops, window: at least 1.
      seed, epoch: not negative; another epoch draws other rows.

    Returns:
      int64 [m], m = sum over blocks of min(crops, its rows): the same in every epoch.
    """
    if crops < 1 or window < 1:
        raise CubeError(
            "impossible blocks", expected="crops >= 1, window >= 1", found=f"{crops}, {window}"
        )
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch, BLOCK_STREAM]))
    blocks, number = np.unique(block_of, return_inverse=True)
    number = number.reshape(-1)
    place = np.argsort(np.argsort(bits.random_raw(len(blocks)), kind="stable"), kind="stable")
    draw = bits.random_raw(len(number))
    by_block = np.lexsort((draw, number))
    starts = np.cumsum(np.bincount(number, minlength=len(blocks))) - np.bincount(number)
    turn = np.empty(len(number), np.int64)  # the how-manieth of its block a row was drawn
    turn[by_block] = np.arange(len(number)) - starts[number[by_block]]
    rows = np.flatnonzero(turn < crops)
    group = place[number[rows]] // window
    again = bits.random_raw(len(rows))
    return rows[np.lexsort((again, turn[rows], group))].astype(np.int64)


def grouped(
    order: Int[np.ndarray, " n"], group_of: Int[np.ndarray, " n"], batch: int, offset: int = 0
) -> Int[np.ndarray, " n"]:
    """`order` rearranged so that a batch holds rows of one group, the rest in mixed batches.

    Args:
      order: each row once.
      group_of: of a row.
      batch: rows of a batch.
      offset: position of `order[0]` within its batch: an epoch may begin in the middle of one.

    Returns:
      int64 [n]: the first rows fill the batch that has begun; then full batches of one group, in
      the order in which they were filled; then what is left, by group.
    """
    head = min(-offset % batch, len(order))
    rest = order[head:]
    groups = group_of[rest]
    by_group = np.argsort(groups, kind="stable")
    sizes = np.unique(groups, return_counts=True)[1]
    within = np.empty(len(rest), np.int64)
    within[by_group] = np.arange(len(rest)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    full = np.empty(len(rest), np.int64)
    full[by_group] = np.repeat(sizes // batch * batch, sizes)
    # A batch is placed where its last row stood; rows that fill none come after all.
    last = np.full(len(rest), len(rest), np.int64)
    whole = within < full
    number = np.unique(np.stack([groups, within // batch])[:, whole], axis=1, return_inverse=True)
    if whole.any():
        label = number[1].reshape(-1)
        filled = np.zeros(label.max() + 1, np.int64)
        np.maximum.at(filled, label, np.flatnonzero(whole))
        last[whole] = filled[label]
    return np.concatenate([order[:head], rest[np.lexsort((within, groups, last))]])


def interleave(
    position: Int[np.ndarray, " b"], weights: Sequence[float]
) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Which sequence gives the sample at a position of a mixture, and which of its own it is.

    The first sequence takes the positions p at which floor(p w) rises, w its share; the others
    share what is left in the same way. So among any m samples in a row each sequence has its share
    to within the number of sequences. Worked example, weights 2 and 1:

        position   0 1 2 3 4 5 6
        sequence   1 0 0 1 0 0 1
        its own    0 0 1 1 2 3 2

    Args:
      position: not negative.
      weights: positive; rounded to fractions of `DENOMINATOR`.

    Returns:
      sequence and position within it, int64.
    """
    shares = [Fraction(float(w)).limit_denominator(DENOMINATOR) for w in weights]
    if not shares or min(shares) <= 0:
        raise CubeError(
            "impossible mixture", expected=f"weights of at least {1 / DENOMINATOR}", found=weights
        )
    sequence = np.full(len(position), len(shares) - 1, np.int64)
    own = position.astype(np.int64)
    open_ = np.ones(len(position), bool)
    left = sum(shares, Fraction(0))
    for i, share in enumerate(shares[:-1]):
        w = (share / left).limit_denominator(DENOMINATOR)
        left -= share
        before = own * w.numerator // w.denominator
        taken = open_ & ((own + 1) * w.numerator // w.denominator > before)
        sequence[taken] = i
        own = np.where(taken, before, np.where(open_, own - before, own))
        open_ &= ~taken
    return sequence, own
