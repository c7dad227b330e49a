"""Strata of a target, and groups dealt to folds so that the strata balance.

A group (a tile, a site, a region) goes to one fold whole. `deal` takes the groups in the order of
how uneven they are and gives each to the fold where it adds least to the sum of squares of the
shares of all strata: large and odd groups are placed while there is still room to make up for
them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Shaped

from data_zarr.errors import CubeError


def strata_of(
    values: Shaped[np.ndarray, "*n"], *, bins: int = 5, categorical: bool = False
) -> Int[np.ndarray, "*n"]:
    """The stratum of every value: a quantile bin, or a class.

    Args:
      values: of the target; NaN where unknown. Text is always categorical.
      bins: quantile bins of about the same number of values each; equal values share a bin, so
        there may be fewer.
      categorical: each distinct value is a stratum.

    Returns:
      int64 of the same shape, 0 .. K-1, and -1 where unknown.

    Raises:
      CubeError: no known value, or fewer than two bins.
    """
    text = values.dtype.kind not in "fiub"
    known = np.ones(values.shape, bool) if text else np.isfinite(values)
    if not known.any() or bins < 2:
        raise CubeError(
            "no strata",
            expected="a known value, and at least two bins",
            found=f"{int(known.sum())} known, {bins} bins",
        )
    out = np.full(values.shape, -1, np.int64)
    if text or categorical:
        out[known] = np.unique(values[known], return_inverse=True)[1].reshape(-1)
        return out
    x = values[known].astype(np.float64)
    edges = np.unique(np.quantile(x, np.arange(1, bins) / bins))
    codes = np.searchsorted(edges, x, side="right")
    out[known] = np.unique(codes, return_inverse=True)[1].reshape(-1)
    return out


def counts_of(
    group: Int[np.ndarray, " n"], strata: Int[np.ndarray, " n"] | None
) -> Int[np.ndarray, "G K"]:
    """Samples of each group: in all (first column), then in each stratum.

    Args:
      group: 0 .. G-1; -1 is left out.
      strata: 0 .. K-1; -1 counts in the first column only.
    """
    inside = group >= 0
    total = np.bincount(group[inside])
    if strata is None:
        return total[:, None]
    kinds = int(strata.max()) + 1
    flat = np.bincount(
        group[inside & (strata >= 0)] * kinds + strata[inside & (strata >= 0)],
        minlength=len(total) * kinds,
    )
    return np.column_stack([total, flat.reshape(len(total), kinds)])


def deal(counts: Int[np.ndarray, "G K"], folds: int, seed: int = 0) -> Int[np.ndarray, " G"]:
    """The fold of each group, so that the columns of `counts` balance over the folds.

    Args:
      counts: how much of what a group holds, e.g. from `counts_of`; the first column must be
        positive for every group that matters.
      folds: at most the number of groups.
      seed: of the order of equal groups and the rank of equal folds.

    Raises:
      CubeError: fewer groups than folds.
    """
    if folds < 2 or len(counts) < folds:
        raise CubeError(
            "fewer groups than folds",
            expected=f"2 .. {len(counts)} folds, the number of groups",
            found=folds,
        )
    rng = np.random.default_rng(seed)
    share = counts / np.maximum(counts.sum(axis=0), 1)
    shuffled = rng.permutation(len(counts))
    # The largest share of anything first; equal ones in random order.
    order = shuffled[np.argsort(-share[shuffled].max(axis=1), kind="stable")]
    rank = rng.permutation(folds)
    held = np.zeros((folds, share.shape[1]))
    fold_of = np.empty(len(counts), np.int32)
    for g in order:
        # Growth of the sum of squares, up to a term that is the same for all folds.
        growth = held @ share[g]
        fold = np.lexsort((rank, held[:, 0], growth.round(12)))[0]
        fold_of[g] = fold
        held[fold] += share[g]
    return fold_of
