"""How sure a table is: sites drawn again, and sites whose sign is flipped.

Rows of one site or tile resemble each other, so sites are what is drawn, never rows:

    bootstrap   S sites with replacement, R times; percentiles of the metric     -> intervals
    flips       site sums of the difference of two models' losses, each with a random sign, as is
                fair where both are equally good                                 -> p of a pair

Percentile intervals of few sites are too short; a p of S sites cannot be below 2^(1-S).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2000
FLIPS = 9999
LEVEL = 0.95


def site_draws(site: np.ndarray, seed: int = 0, draws: int = DRAWS) -> tuple[np.ndarray, ...]:
    """How often each site is drawn: (i64 [R, S], number of the site of every row [n])."""
    number = np.unique(site, return_inverse=True)[1].reshape(-1)
    count = int(number.max()) + 1
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), draws), number


def per_site(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Sums over the rows of each site: [n] -> [S], or [n, k] -> [S, k]."""
    out = np.zeros((int(number.max()) + 1, *values.shape[1:]))
    np.add.at(out, number, values)
    return out


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of draws; NaN with fewer than half of them finite."""
    known = draws[np.isfinite(draws)]
    if 2 * len(known) < len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def metric_intervals(
    y: np.ndarray, mean: np.ndarray, inside: np.ndarray, site: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """Site-bootstrap intervals of RMSE, R2 and coverage.

    Args:
      y, mean: [n].
      inside: bool [n], whether y lies in its interval.

    Returns:
      `rmse_lo rmse_hi r2_lo r2_hi picp90_site_lo picp90_site_hi sites`; NaN with one site.
    """
    weight, number = site_draws(site, seed)
    out: dict[str, Any] = {"sites": weight.shape[1]}
    centred = y - y.mean()
    columns = [np.ones_like(y), (mean - y) ** 2, centred, centred**2, inside.astype(float)]
    n, sse, s, ss, hits = (weight @ per_site(np.stack(columns, axis=1), number)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        sst = ss - s**2 / n
        draws = {
            "rmse": np.sqrt(sse / n),
            "r2": np.where(sst > 0, 1 - sse / sst, np.nan),
            "picp90_site": hits / n,
        }
    for name, values in draws.items():
        low, high = interval(values) if weight.shape[1] > 1 else (float("nan"),) * 2
        out |= {f"{name}_lo": low, f"{name}_hi": high}
    return out


def paired(
    losses: Mapping[str, np.ndarray], site: np.ndarray, *, root: bool, seed: int = 0
) -> list[dict[str, Any]]:
    """Every pair of models on the same rows.

    Args:
      losses: [n] by model: squared errors, or CRPS.
      root: compare roots of means (RMSE) rather than means.

    Returns:
      Rows `model reference difference lo hi p p_holm`: negative where `model` is better; the
      interval by site bootstrap, p by sign flips of site sums, p_holm corrected for all pairs.
    """
    weight, number = site_draws(site, seed)
    names = list(losses)
    table = np.stack([losses[k] for k in names], axis=1)
    sums = per_site(table, number)
    size = per_site(np.ones(len(table)), number)
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
        low, high = interval(drawn[:, i] - drawn[:, j])
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
