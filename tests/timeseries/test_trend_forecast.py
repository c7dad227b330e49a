"""Forecasts: the OLS prediction interval of statsmodels, repeated cycles, coverage, codes."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import statsmodels.api

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import (
    Code,
    decimal_years,
    harmonic_forecast,
    seasonal_naive_forecast,
)

MONTHS = np.arange(72)
TIMES = 2015 + MONTHS / 12
AT = 2021 + np.array([0.0, 3.0, 17.0]) / 12


def series(pixels: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = 0.5 + 0.2 * np.sin(2 * np.pi * TIMES) + 0.01 * (TIMES - 2018)
    x = x + 0.05 * rng.normal(size=(pixels, len(TIMES)))
    x[rng.random(x.shape) < 0.2] = np.nan
    return x


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def design(t: np.ndarray, trend: bool) -> np.ndarray:
    waves = [f(2 * np.pi * k * t) for k in (1, 2) for f in (np.cos, np.sin)]
    return np.stack([np.ones_like(t), *([t - 2018] if trend else []), *waves], 1)


@pytest.mark.parametrize("trend", [True, False])
def test_the_harmonic_interval_equals_statsmodels(trend):
    x = series()
    found = harmonic_forecast(x, TIMES, AT, trend=trend, alpha=0.1)
    for i, row in enumerate(x):
        there = np.isfinite(row)
        fit = statsmodels.api.OLS(row[there], design(TIMES[there], trend)).fit()
        expected = fit.get_prediction(design(AT, trend)).summary_frame(alpha=0.1)
        np.testing.assert_allclose(found.value[i], expected["mean"], rtol=1e-9)
        np.testing.assert_allclose(found.lo[i], expected["obs_ci_lower"], rtol=1e-8)
        np.testing.assert_allclose(found.hi[i], expected["obs_ci_upper"], rtol=1e-8)


def naive(row: np.ndarray, alpha: float) -> list[tuple[float, float, float]]:
    """The same in a few lines, for one series of months."""
    out = []
    for target in np.rint((AT - 2015) * 12).astype(int):
        past = [k for k in range(1, 8) if target - 12 * k < 72]
        k = next(k for k in past if np.isfinite(row[target - 12 * k]))
        off = row[12 * k :] - row[: -12 * k]
        off = off[np.isfinite(off)]
        lo, hi = np.nan, np.nan
        if len(off) + 1 >= 2 / alpha:
            lo, hi = np.quantile(off, [alpha / 2, 1 - alpha / 2], method="weibull")
        last = row[target - 12 * k]
        out.append((last, last + lo, last + hi))
    return out


def test_the_last_cycle_again_with_the_quantiles_of_its_differences():
    x = series()
    x[1, 60:63] = np.nan
    x[2, 48:] = np.nan
    found = seasonal_naive_forecast(x, TIMES, AT, alpha=0.1)
    for i, row in enumerate(x):
        ours = np.stack([found.value[i], found.lo[i], found.hi[i]], 1)
        np.testing.assert_allclose(ours, naive(row, 0.1), rtol=1e-9)


def forecasts(x, times, mask=None):
    yield harmonic_forecast(x, times, AT, mask, alpha=0.1)
    yield seasonal_naive_forecast(x, times, AT, mask, alpha=0.1)


def same(a, b) -> None:
    for one, two in zip(a, b, strict=True):
        for x, y in zip(one, two, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def test_order_masking_and_times_of_every_pixel_do_not_matter():
    x = series()
    found = list(forecasts(x, TIMES))
    order = np.random.default_rng(2).permutation(len(TIMES))
    same(forecasts(x[:, order], TIMES[order]), found)
    mask = np.isfinite(x)
    same(forecasts(np.where(mask, x, 1e9), TIMES, mask), found)
    same(forecasts(x, np.tile(TIMES, (4, 1))), found)


def test_dropping_equals_masking_and_padding_does_not_matter():
    x = series()
    keep = np.isin(np.arange(len(TIMES)), (1, 7, 30, 50), invert=True)
    masked = forecasts(x, TIMES, np.isfinite(x) & keep)
    fewer = np.pad(x[:, keep], ((0, 0), (0, 4)), constant_values=np.nan)
    same(forecasts(fewer, np.pad(TIMES[keep], (0, 4), constant_values=np.nan)), masked)


def test_twice_the_values_have_twice_the_forecast():
    x = series()
    for one, two in zip(forecasts(x, TIMES), forecasts(2 * x, TIMES), strict=True):
        for name in ("value", "lo", "hi"):
            np.testing.assert_allclose(2 * np.asarray(getattr(one, name)), getattr(two, name))


def test_the_29th_of_february_is_of_its_month():
    dates = [f"{y}-{m:02}-{28 if m == 2 else 30}" for y in range(2015, 2020) for m in range(1, 13)]
    dates[1] = "2015-02-20"
    x = np.tile(np.arange(12.0), 5)[None]
    at = decimal_years(np.array(["2020-02-29", "2020-12-31"], "M8[D]"))
    found = seasonal_naive_forecast(x, decimal_years(dates), at)
    assert np.asarray(found.value).tolist() == [[1.0, 11.0]]


def test_float32_is_float64_to_1e_5():
    x = series().astype(np.float32)
    for single, double in zip(forecasts(x, TIMES), forecasts(x.astype(float), TIMES), strict=True):
        for name in ("value", "lo", "hi"):
            assert getattr(single, name).dtype == np.float32
            np.testing.assert_allclose(getattr(single, name), getattr(double, name), atol=1e-5)


def test_every_pixel_without_an_answer_has_a_code():
    x = series()
    x[1, 3:] = np.nan
    x[2] = 0.3
    x[3] = np.nan
    codes = [Code.OK, Code.TOO_FEW, Code.CONSTANT, Code.ALL_MASKED]
    for found in forecasts(x, TIMES):
        assert np.asarray(found.code).tolist() == codes
        for leaf in (found.value, found.lo, found.hi):
            assert np.isfinite(np.asarray(leaf)[0]).all()
            assert np.isnan(np.asarray(leaf)[1:]).all()


def test_without_the_first_date_the_months_of_a_grid_stay():
    x, times = series(), TIMES + 0.02
    masked = seasonal_naive_forecast(
        x, times, AT + 0.04, np.tile(MONTHS > 0, (4, 1)), grid=(2015.0, 73)
    )
    fewer = np.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=np.nan)
    later = np.pad(times[1:], (0, 1), constant_values=np.nan)
    same([masked], [seasonal_naive_forecast(fewer, later, AT + 0.04, grid=(2015.0, 73))])


def test_too_few_differences_bound_nothing():
    x = series()[:, :30]
    found = seasonal_naive_forecast(x, TIMES[:30], AT)
    assert np.isfinite(found.value).any()
    assert np.isnan(found.lo).all()


X = np.zeros((2, len(TIMES)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: seasonal_naive_forecast(X, TIMES, TIMES[-1:]), DataError, "past"),
        (lambda: seasonal_naive_forecast(X, TIMES, AT[:0]), DataError, "no times to forecast"),
        (lambda: harmonic_forecast(X, TIMES, AT * np.nan), DataError, "no times to forecast"),
        (lambda: harmonic_forecast(X, TIMES, AT, alpha=0.0), ConfigError, "alpha"),
        (lambda: harmonic_forecast(X, TIMES, AT, harmonics=0), ConfigError, "harmonics"),
        (lambda: seasonal_naive_forecast(X, TIMES, AT, period=1), ConfigError, "period"),
        (lambda: seasonal_naive_forecast(X, TIMES, AT, cycle=4.0), DataError, "two cycles"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
