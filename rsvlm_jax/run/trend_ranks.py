"""The method `sen`: Theil-Sen and Mann-Kendall of series of pixels, on all devices.

The statistics are those of `rsvlm_jax.timeseries`; here dates become numbers near zero, months
become seasons, and the intercept gets its epoch.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from rsvlm_jax.timeseries import mann_kendall, mann_kendall_grouped

from .series import EPOCH, Series
from .spread import Compute, Spread
from .trend_options import Options

MONTHS = 12
NAMES = ("slope", "intercept", "slope_lo", "slope_hi", "p", "z", "tau", "s", "n", "code")


def sen(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The variables of `NAMES`, [P]."""
    values = series.values[0]
    years = series.years(EPOCH)
    start = middle(years)
    if options.test in ("seasonal", "correlated_seasonal"):
        values, cycles = medians(series, "M")
        cycles = cycles[::MONTHS] - EPOCH
        start = middle(cycles)
        compute = _seasonal(options.test == "correlated_seasonal", options.alpha, len(cycles))
        times = np.repeat(cycles - start, MONTHS)
        start += 0.5 / MONTHS  # the median of a month stands in its middle
    else:
        compute, times = _plain(options.test, options.alpha), years - start
    trend = spread(compute, values, times.astype(np.float32), np.isfinite(values))
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


@functools.cache
def _seasonal(correlated: bool, alpha: float, cycles: int) -> Compute:
    def compute(values: Any, times: Any, mask: Any) -> Any:
        # Lengths are filled up to a bucket: what was added is cut off.
        length, shape = cycles * MONTHS, (len(values), cycles, MONTHS)
        return mann_kendall_grouped(
            values[:, :length].reshape(shape), times[:length:MONTHS],
            mask[:, :length].reshape(shape), correlated=correlated, alpha=alpha,
        )  # fmt: skip

    return compute


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
