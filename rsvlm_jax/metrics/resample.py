"""How sure a figure is: blocks of rows drawn again, and blocks whose sign is flipped.

Rows of one site or tile resemble each other, so blocks are what is drawn, never rows:

    bootstrap   S blocks with replacement, R times; percentiles of a statistic of sums -> intervals
    flips       block sums of the difference of two models' losses, each with a random sign, as is
                fair where both are equally good                                      -> p of a pair

Percentile intervals of few blocks are too short; a p of S blocks cannot be below 2^(1-S). NumPy
only; not a model of the correlation within a block, which is taken as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rsvlm_jax.config import DataError

DRAWS = 2000
FLIPS = 9999
LEVEL = 0.95

Statistic = Callable[[np.ndarray], np.ndarray]
"""Sums of columns over drawn rows, f64 [k, R], to the figure of each draw, [R]."""


def bootstrap(
    statistic: Statistic,
    columns: Sequence[Any],
    block: Any,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of any figure that is a function of sums over rows, blocks drawn again.

    The RMSE is `bootstrap(lambda s: np.sqrt(s[0] / s[1]), [error**2, np.ones(n)], site)`.

    Args:
      statistic: see `Statistic`; NaN where a draw has no figure.
      columns: k arrays [n]; rows that are NaN in one of them are left out.
      block: [n] labels of sites, tiles or years.
      level: of the interval.

    Returns:
      (low, high); NaN with one block, or where fewer than half of the draws have a figure.

    Raises:
      DataError: lengths that differ, or no row without NaN.
    """
    table, block = _rows(columns, block)
    weight, number = _draws(block, seed, draws)
    if weight.shape[1] < 2:
        return float("nan"), float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(statistic((weight @ _per_block(table, number)).T))
    return _middle(found, level)


def coverage_interval(
    hit: Any, block: Any, *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Block-bootstrap interval of the share of hits.

    Args:
      hit: [n], whether y lies in its interval; NaN: unknown.
      block, level, draws, seed: as in `bootstrap`.
    """
    hit = np.asarray(hit, np.float64)
    known = np.where(np.isnan(hit), np.nan, 1.0)
    return bootstrap(
        lambda s: s[0] / s[1], [hit, known], block, level=level, draws=draws, seed=seed
    )


def metric_intervals(y: Any, mean: Any, inside: Any, block: Any, seed: int = 0) -> dict[str, Any]:
    """Block-bootstrap intervals of RMSE, R2 and coverage, all on the same draws.

    Args:
      y, mean: [n].
      inside: bool [n], whether y lies in its interval.

    Returns:
      `rmse_lo rmse_hi r2_lo r2_hi picp90_site_lo picp90_site_hi sites`; NaN with one block.
    """
    y, mean = np.asarray(y, np.float64), np.asarray(mean, np.float64)
    centred = y - y.mean()
    sums = [np.ones_like(y), (mean - y) ** 2, centred, centred**2, np.asarray(inside, np.float64)]

    def r2(s: np.ndarray) -> np.ndarray:
        sst = s[3] - s[2] ** 2 / s[0]
        return np.where(sst > 0, 1 - s[1] / sst, np.nan)

    figures: dict[str, Statistic] = {
        "rmse": lambda s: np.sqrt(s[1] / s[0]),
        "r2": r2,
        "picp90_site": lambda s: s[4] / s[0],
    }
    out: dict[str, Any] = {"sites": len(np.unique(np.asarray(block)))}
    for name, figure in figures.items():
        low, high = bootstrap(figure, sums, block, seed=seed)
        out |= {f"{name}_lo": low, f"{name}_hi": high}
    return out


def paired_bootstrap(
    loss_a: Any, loss_b: Any, block: Any, *, root: bool = False, seed: int = 0
) -> dict[str, float]:
    """Whether two models differ on the same rows.

    Args:
      loss_a, loss_b: [n], of each row: squared errors, or CRPS. Rows that are NaN in one of them
        are left out.
      block: [n] labels of sites.
      root: compare roots of means (RMSE) rather than means.

    Returns:
      `difference lo hi p`: negative where a is better; the interval by block bootstrap (NaN with
      one block), p (two sides) by sign flips of block sums.

    Raises:
      DataError: as `bootstrap`.
    """
    row = paired({"a": loss_a, "b": loss_b}, block, root=root, seed=seed)[0]
    return {k: row[k] for k in ("difference", "lo", "hi", "p")}


def paired(
    losses: Mapping[str, Any], block: Any, *, root: bool, seed: int = 0
) -> list[dict[str, Any]]:
    """Every pair of models on the same rows; see `paired_bootstrap`.

    Args:
      losses: [n] by model.

    Returns:
      Rows `model reference difference lo hi p p_holm`, p_holm corrected for all pairs.
    """
    names = list(losses)
    table, block = _rows([losses[k] for k in names], block)
    weight, number = _draws(block, seed, DRAWS)
    sums = _per_block(table, number)
    size = _per_block(np.ones(len(table)), number)
    change = np.sqrt if root else lambda x: x
    drawn = change((weight @ sums) / (weight @ size)[:, None])
    whole = change(table.mean(axis=0))
    pairs = list(itertools.combinations(range(len(names)), 2))
    if not pairs:
        return []
    rng = np.random.default_rng(seed)
    sign = rng.integers(0, 2, (FLIPS, len(size))) * 2.0 - 1
    rows = []
    for i, j in pairs:
        d = sums[:, i] - sums[:, j]
        flipped, seen = np.abs(sign @ d), abs(d.sum())
        beyond = int((flipped >= seen - 1e-12 * max(seen, 1.0)).sum())
        low = high = float("nan")
        if len(size) > 1:  # of one block every draw is the same
            low, high = _middle(drawn[:, i] - drawn[:, j], LEVEL)
        rows.append(
            {
                "model": names[i],
                "reference": names[j],
                "difference": float(whole[i] - whole[j]),
                "lo": low,
                "hi": high,
                "p": (beyond + 1) / (FLIPS + 1),
            }
        )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), in the order given."""
    order = np.argsort(p, kind="stable")
    out, highest = np.zeros(len(p)), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        out[i] = highest
    return out.tolist()


def _rows(columns: Sequence[Any], block: Any) -> tuple[np.ndarray, np.ndarray]:
    """Columns side by side [m, k] and their blocks [m], rows with NaN left out."""
    arrays, block = [np.asarray(c, np.float64) for c in columns], np.asarray(block)
    shapes = [a.shape for a in arrays]
    if block.ndim != 1 or any(shape != block.shape for shape in shapes):
        raise DataError(
            "rows and their blocks do not fit together",
            where="bootstrap",
            expected="arrays [n] of one length",
            found=f"{shapes}, block {block.shape}",
        )
    table = np.stack(arrays, axis=1)
    known = ~np.isnan(table).any(axis=1)
    if not known.any():
        raise DataError("no row to draw", where="bootstrap", found=f"{len(table)} rows with NaN")
    return table[known], block[known]


def _draws(block: np.ndarray, seed: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each block is drawn, f64 [R, S], and the number of the block of every row [n]."""
    number = np.unique(block, return_inverse=True)[1].reshape(-1)
    count = int(number.max()) + 1
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), draws), number


def _per_block(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Sums over the rows of each block: [n] -> [S], or [n, k] -> [S, k]."""
    out = np.zeros((int(number.max()) + 1, *values.shape[1:]))
    np.add.at(out, number, values)
    return out


def _middle(draws: np.ndarray, level: float) -> tuple[float, float]:
    """The middle of draws; NaN with fewer than half of them finite."""
    known = draws[np.isfinite(draws)]
    if 2 * len(known) < len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
