"""Theil-Sen and Mann-Kendall of single series of pixels, on all devices; medians of months, years.

The statistics are those of `rsvlm_jax.timeseries`; here dates become numbers near zero, and the
intercept gets its epoch. Tests of several series at once: `trend_groups.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from rsvlm_jax.timeseries import mann_kendall

from .series import EPOCH, Series
from .spread import Compute, Spread
from .trend_options import Options

MONTHS = 12
NAMES = ("slope", "intercept", "slope_lo", "slope_hi", "p", "z", "tau", "s", "n", "code")


def plain(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The variables of `NAMES`, [P]."""
    values, years = series.values[0], series.years(EPOCH)
    start = middle(years)
    compute = _plain(options.test, options.alpha)
    times = (years - start).astype(np.float32)
    return named(spread(compute, values, times, np.isfinite(values)), start)


def named(trend: Any, start: float) -> dict[str, np.ndarray]:
    """A `Trend` as variables; its times count from `start`, in years since the epoch."""
    found = {name: np.asarray(getattr(trend, name)) for name in NAMES}
    found["intercept"] = found["intercept"] - found["slope"].astype(np.float64) * start
    return found


def middle(years: np.ndarray) -> float:
    """The whole year next to the mean: from it float32 counts to a minute."""
    return float(np.round(np.nanmean(years)))


@functools.cache
def _plain(test: Any, alpha: float) -> Compute:
    lags = 1 if test == "yue_wang" else None  # see `Options.test`
    return functools.partial(mann_kendall, method=test, alpha=alpha, lags=lags)


def medians(series: Series, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """The median of each calendar month ("M") or year ("Y") of whole years.

    Returns:
      float32 [P, N], NaN where there is no observation, and the years, float64 [N].
    """
    values, dates = series.values[0], series.dates
    steps = MONTHS if unit == "M" else 1
    known = ~np.isnat(dates)
    at = dates.astype(f"datetime64[{unit}]").astype(np.int64)  # since 1970
    first, last = int(at[known].min()) // steps, int(at[known].max()) // steps
    years = np.repeat(np.arange(first, last + 1, dtype=np.float64) + 1970, steps)
    out = np.full((len(values), len(years)), np.nan, np.float32)
    # Dates that all pixels share are gone through once; sites with their own one by one.
    own = dates.ndim == 2
    for rows in [slice(i, i + 1) for i in range(len(values))] if own else [slice(None)]:
        when, there = (a[rows][0] if own else a for a in (at, known))
        for one in np.unique(when[there]):
            part = values[rows][:, there & (when == one)]
            some = np.isfinite(part).any(axis=1)
            out[rows][some, one - first * steps] = np.nanmedian(part[some], axis=1)
    return out, years
