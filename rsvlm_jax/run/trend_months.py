"""What is computed of monthly medians: `stl`, and the seasonal-naive forecast.

The decomposition and the forecast are those of `rsvlm_jax.timeseries`. Months count from January of
the first year to the last month with a date; one without an observation is a gap.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.timeseries import Code, decompose, seasonal_naive_forecast, theil_sen

from .series import EPOCH, Series
from .spread import Compute, Spread
from .trend_options import Options
from .trend_ranks import MONTHS, medians


def stl(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The Theil-Sen line through the trend of the decomposition, and how strong trend and season
    are: 1 - var(remainder) / var(remainder + part), Wang, Smith and Hyndman (2006)."""
    values, first = _months(series)
    compute = _stl(values.shape[1])
    times = (np.arange(values.shape[1]) / MONTHS).astype(np.float32)
    found = spread(compute, values, times, np.isfinite(values))
    slope, at_first, trend, season, n, code = (np.asarray(a) for a in found)
    # The median of a month stands in its middle.
    since = first - EPOCH + 0.5 / MONTHS
    return {
        "slope": slope, "intercept": at_first - slope.astype(np.float64) * since,
        "trend_strength": trend, "season_strength": season, "n": n, "code": code,
    }  # fmt: skip


@functools.lru_cache(maxsize=64)
def _stl(months: int) -> Compute:
    when = np.arange(months) / MONTHS

    def compute(values: Any, times: Any, mask: Any) -> Any:
        # Lengths are filled up to a bucket: what was added is cut off.
        parts = decompose(values[:, :months], when, mask[:, :months], period=MONTHS)
        rest = parts.remainder
        there = rest == rest
        line = theil_sen(parts.trend, when.astype(np.float32), there)

        def strength(part: Any) -> Any:
            left = jnp.nanvar(rest, 1) / jnp.nanvar(jnp.where(there, part + rest, jnp.nan), 1)
            return jnp.clip(1 - left, 0, 1)

        # A trend without a slope is one.
        level = line.code == int(Code.CONSTANT)
        slope = jnp.where(level & (parts.code == 0), 0, line.slope)
        at_first = jnp.where(level & (parts.code == 0), parts.trend[:, 0], line.intercept)
        strengths = strength(parts.trend), strength(parts.seasonal)
        return slope, at_first, *strengths, parts.n, parts.code

    return compute


def naive(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The last month of the same name again, and where one new observation lies."""
    values, first = _months(series)
    month = np.datetime64(options.at, "M").astype(np.int64) + 1970 * MONTHS
    ahead = int(month) - int(first) * MONTHS
    compute = _naive(values.shape[1], ahead, options.alpha)
    times = (np.arange(values.shape[1]) / MONTHS).astype(np.float32)
    found = spread(compute, values, times, np.isfinite(values))
    value, lo, hi, n, code = (np.asarray(a) for a in found)
    # A month that was never seen is none that can come again.
    code = np.where((code == int(Code.OK)) & np.isnan(value), int(Code.TOO_FEW), code)
    return {"forecast": value, "forecast_lo": lo, "forecast_hi": hi, "n": n, "code": code}


@functools.lru_cache(maxsize=64)
def _naive(months: int, ahead: int, alpha: float) -> Compute:
    when, at = np.arange(months) / MONTHS, np.array([ahead / MONTHS])

    def compute(values: Any, times: Any, mask: Any) -> Any:
        found = seasonal_naive_forecast(
            values[:, :months], when, at, mask[:, :months], period=MONTHS, alpha=alpha
        )
        return (*(a[:, 0] for a in (found.value, found.lo, found.hi)), found.n, found.code)

    return compute


def _months(series: Series) -> tuple[np.ndarray, float]:
    """Medians [P, N] of all months up to the last with a date, and the first year."""
    values, years = medians(series, "M")
    known = series.dates[~np.isnat(series.dates)]
    last = known.max().astype("datetime64[M]").astype(np.int64) + 1970 * MONTHS
    return values[:, : int(last) - int(years[0]) * MONTHS + 1], float(years[0])
