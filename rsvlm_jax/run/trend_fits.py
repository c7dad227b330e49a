"""The methods that fit a model: `harmonic`, `lasso`, `forecast`, and `landtrendr` of years.

The fits are those of `rsvlm_jax.timeseries`. Times count from a whole year, which leaves the waves
of a year where they are; breaks come back as days.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from rsvlm_jax.config import ConfigError
from rsvlm_jax.timeseries import decimal_years, harmonic_fit, harmonic_forecast, landtrendr

from .series import EPOCH, Series
from .spread import Compute, Spread
from .trend_months import naive
from .trend_options import Options
from .trend_ranks import medians, middle


def harmonic(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """Slope with its interval and the test of it, as if errors were independent."""
    values, years = series.values[0], series.years(EPOCH)
    start = middle(years)
    compute = _fit(options.harmonics, options.estimator)
    times = (years - start).astype(np.float32)
    fit = spread(compute, values, times, np.isfinite(values))
    level, slope, error = (np.asarray(a, np.float64) for a in fit[:3])
    n, code = np.asarray(fit[3]), np.asarray(fit[4])
    freedom = np.maximum(n - (2 + 2 * options.harmonics), 1)
    half = stdtrit(freedom, 1 - options.alpha / 2) * error
    p = 2 * stdtr(freedom, -np.abs(slope) / np.where(error > 0, error, np.nan))
    # A fit without errors is sure of its slope, and of none.
    p = np.where(error == 0, np.where(slope == 0, 1.0, 0.0), p)
    return {
        "slope": slope, "intercept": level - slope * start, "slope_lo": slope - half,
        "slope_hi": slope + half, "p": p, "n": n, "code": code,
    }  # fmt: skip


@functools.cache
def _fit(harmonics: int, estimator: Any) -> Compute:
    def compute(values: Any, times: Any, mask: Any) -> Any:
        fit = harmonic_fit(values, times, mask, harmonics=harmonics, method=estimator, origin=0.0)
        return fit.coefficients[:, 0], fit.slope, fit.stderr[:, 1], fit.n, fit.code

    return compute


def lasso(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The line of the LASSO, which has neither an interval nor a test."""
    values, years = series.values[0], series.years(EPOCH)
    start = middle(years)
    compute = _lasso(options.harmonics, options.penalty)
    times = (years - start).astype(np.float32)
    level, slope, n, code = (
        np.asarray(a) for a in spread(compute, values, times, np.isfinite(values))
    )
    return {
        "slope": slope, "intercept": level - slope.astype(np.float64) * start, "n": n, "code": code,
    }  # fmt: skip


@functools.cache
def _lasso(harmonics: int, penalty: float) -> Compute:
    def compute(values: Any, times: Any, mask: Any) -> Any:
        fit = harmonic_fit(
            values, times, mask, harmonics=harmonics, method="lasso", penalty=penalty, origin=0.0
        )
        return fit.coefficients[:, 0], fit.slope, fit.n, fit.code

    return compute


def forecast(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """What is expected on the day `at`, and where one new observation lies."""
    if options.model == "seasonal_naive":
        return naive(series, options, spread)
    values, years = series.values[0], series.years(EPOCH)
    start = middle(years)
    when = float(decimal_years([options.at])[0]) - EPOCH - start
    times = (years - start).astype(np.float32)
    mask = np.isfinite(values)
    if times.ndim == 2:  # sites with dates of their own: few, and their dates decide on the host
        compute = _forecast(b"", when, options.harmonics, options.alpha)
        found = spread.alone()(compute, values, times, mask)
    else:
        compute = _forecast(times.tobytes(), when, options.harmonics, options.alpha)
        found = spread(compute, values, times, mask)
    value, lo, hi, n, code = (np.asarray(a) for a in found)
    return {"forecast": value, "forecast_lo": lo, "forecast_hi": hi, "n": n, "code": code}


def settled(options: Options, dates: np.ndarray) -> Options:
    """The options with the day of a forecast: a year after the last of all dates by default.

    Raises:
      ConfigError: a forecast of what is past; monitoring without a history, or of nothing.
    """
    known = dates[~np.isnat(dates)]
    first, last = (d.astype("datetime64[D]") for d in (known.min(), known.max()))
    if options.method == "forecast" and options.at is None:
        return dataclasses.replace(options, at=str(last + np.timedelta64(365, "D")))
    if options.method == "forecast" and np.datetime64(options.at) <= last:
        raise ConfigError(
            "a forecast of what is past", where="--at", expected=f"a day after {last}",
            found=options.at, remedy="end the series earlier by --dates",
        )  # fmt: skip
    if options.method == "monitor" and not first < np.datetime64(options.since) <= last:
        raise ConfigError(
            "nothing to monitor, or no history", where="--since", found=options.since,
            expected=f"a day after {first}, and {last} at the latest",
        )  # fmt: skip
    return options


@functools.lru_cache(maxsize=64)
def _forecast(shared: bytes, when: float, harmonics: int, alpha: float) -> Compute:
    """Of dates that all pixels share, float32 as bytes: they decide on the host."""
    at = np.array([when], np.float32)
    dates = np.frombuffer(shared, np.float32)

    def compute(values: Any, times: Any, mask: Any) -> Any:
        if len(dates):
            times = np.full(values.shape[1], np.nan, np.float32)
            times[: len(dates)] = dates
        found = harmonic_forecast(values, times, at, mask, harmonics=harmonics, alpha=alpha)
        return (*(a[:, 0] for a in (found.value, found.lo, found.hi)), found.n, found.code)

    return compute


def segments(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """LandTrendr-like: when the largest disturbance began, and how large it is."""
    values, years = medians(series, "Y")
    start = middle(years)
    compute = _landtrendr(options.disturbance, options.alpha)
    found = spread(compute, values, (years - start).astype(np.float32), np.isfinite(values))
    when, size, p, n, code = (np.asarray(a) for a in found)
    sign = -1 if options.disturbance == "fall" else 1
    return {
        "break_date": days_of(when.astype(np.float64) + start), "break_magnitude": sign * size,
        "p": p, "n": n, "code": code,
    }  # fmt: skip


@functools.cache
def _landtrendr(disturbance: Any, alpha: float) -> Compute:
    def compute(values: Any, times: Any, mask: Any) -> Any:
        found = landtrendr(values, times, mask, disturbance=disturbance, p=alpha)
        change = found.change_time, found.change_magnitude
        return (*change, found.p, found.n, found.code)

    return compute


MINUTES = 0.002
"""Of a day: more than the rounding of a float32 within 60 years, so that midnight is not the day
before, and less than would make the next of the last satellite of an evening."""


def days_of(years: np.ndarray) -> np.ndarray:
    """Decimal years as whole days since the epoch, float64; NaN stays."""
    known = np.isfinite(years)
    whole = np.floor(np.where(known, years, EPOCH)).astype(np.int64)
    first, after = ((whole + k - 1970).astype("datetime64[Y]").astype("datetime64[D]")
                    for k in (0, 1))  # fmt: skip
    epoch = np.datetime64(f"{EPOCH}-01-01", "D")
    length = (after - first).astype(np.float64)
    found = (first - epoch).astype(np.float64) + np.floor((years - whole) * length + MINUTES)
    return np.where(known, found, np.nan)
