"""Rows of similar length and as many images in one batch, and which lengths batches have.

Pure functions of arrays: what LLaVA calls group_by_modality_length, with whole batches of one
static shape as the unit. Not here: what stands in a row (`packing`, `plan`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsvlm_jax.core.shapes import Int

WINDOW, LEAST = 50, 8
"""Batches whose rows are sorted together: a quarter of an epoch, but so many at most and at least.
A larger window leaves less padding and more often the same rows together."""
GROUP_STREAM = 2**31 + 1
"""Keeps the draws of the order of grouped batches apart from those of `permutation`."""


def grouping(
    images: Int[np.ndarray, " n"],
    tokens: Int[np.ndarray, " n"],
    batch: int,
    offset: int,
    seed: int,
    epoch: int,
) -> Int[np.ndarray, " n"]:
    """An order of rows in which batches hold rows with as many images and of similar length.

    The rows of up to `WINDOW` batches are sorted by images, then by length, and cut; the batches
    of a window then come in random order. At most one batch of a window holds rows of two numbers
    of images, for each number but the first. Worked example, one window of two batches of two:

        row      0 1 2 3        sorted   1 3 | 2 0       order   2 0 | 1 3   (or 1 3 | 2 0)
        images   1 0 1 0
        tokens   9 3 5 4

    Args:
      offset: of the first row within its batch: rows before the first whole batch, and those after
        the last, stay where they are.

    Returns:
      int64 [n], each of 0 .. n-1 once.
    """
    n = len(images)
    order = np.arange(n)
    head = min(-offset % batch, n)
    batches = (n - head) // batch
    window = min(WINDOW, max(LEAST, batches // 4))
    for number, first in enumerate(range(0, batches, window)):
        count = min(window, batches - first)
        rows = np.arange(head + first * batch, head + (first + count) * batch)
        cut = rows[np.lexsort((tokens[rows], images[rows]))].reshape(count, batch)
        bits = np.random.Philox(np.random.SeedSequence([seed, epoch, number, GROUP_STREAM]))
        order[rows] = cut[np.argsort(bits.random_raw(count), kind="stable")].reshape(-1)
    return order


def rounded(images: int) -> int:
    """The next of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 ..."""
    if images <= 4:
        return images
    power = 1 << (images - 1).bit_length()
    return power if images > power * 3 // 4 else power * 3 // 4


def best_lengths(tokens: Sequence[int] | np.ndarray, count: int, limit: int) -> tuple[int, ...]:
    """At most `count` lengths that leave the least padding when each row takes the next longer.

    They are multiples of a power of two from 8 to 128, at most a thirty-second of the longest row,
    or `limit` itself.
    Exact, by dynamic programming over the lengths that occur.

    Returns:
      ascending; the last holds the longest row.
    """
    sizes = np.asarray(tokens, np.int64)
    step = 8
    while step < 128 and step * 64 <= sizes.max():
        step *= 2
    padded = np.minimum(-(-sizes // step) * step, limit)
    edges, rows = np.unique(padded, return_counts=True)
    before = np.concatenate([[0], np.cumsum(rows)])
    m = len(edges)
    # cost[j]: positions of all rows up to edge j, when edge j is one of the lengths.
    cost = before[1:] * edges
    chosen = [[j] for j in range(m)]
    for _ in range(min(count, m) - 1):
        more, paths = cost.copy(), list(chosen)
        for j in range(1, m):
            through = cost[:j] + (before[j + 1] - before[1 : j + 1]) * edges[j]
            i = int(through.argmin())
            if through[i] < more[j]:
                more[j], paths[j] = through[i], [*chosen[i], j]
        cost, chosen = more, paths
    return tuple(int(edges[j]) for j in chosen[-1])
