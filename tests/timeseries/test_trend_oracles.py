"""Rank statistics of trends against pymannkendall and SciPy, in float64, with gaps and ties."""

from __future__ import annotations

import functools
import warnings

import jax
import numpy as np
import pymannkendall
import pytest
from scipy.stats import false_discovery_control, theilslopes

from rsvlm_jax.timeseries import (
    Code,
    decimal_years,
    false_discovery,
    fold,
    mann_kendall,
    mann_kendall_grouped,
    theil_sen,
)

ORACLES = {
    "original": pymannkendall.original_test,
    "hamed_rao": pymannkendall.hamed_rao_modification_test,
    "yue_wang": pymannkendall.yue_wang_modification_test,
    "pre_whitening": pymannkendall.pre_whitening_modification_test,
    "trend_free": pymannkendall.trend_free_pre_whitening_modification_test,
}
FIELDS = {"p": "p", "z": "z", "tau": "Tau", "s": "s", "var_s": "var_s", "slope": "slope"}
FIELDS |= {"intercept": "intercept"}
FLIPS = {"hamed_rao": 0.002, "trend_free": 0.02}
"""The share of series that may differ, and then only by a tie that one bit decides."""

LENGTHS = (12, 37)
TIMES = np.arange(37.0)
SIZES = [60, pytest.param(1000, marks=pytest.mark.slow)]
"""One shape for as many tests as will do: to compile a program takes longer than to run it."""


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def series(pixels: int, length: int, seed: int = 0) -> np.ndarray:
    """Noise with memory and a trend; every other series on a grid, a fifth of it missing."""
    rng = np.random.default_rng([seed, pixels, length])
    x = rng.normal(size=(pixels, length))
    x += 0.3 * x.cumsum(1) + 0.05 * rng.normal(size=(pixels, 1)) * np.arange(length)
    x[::2] = np.round(4 * x[::2]) / 4
    x[rng.random(x.shape) < 0.2] = np.nan
    return x


def differing(found, oracle, x) -> list[int]:
    """The series of which a figure is another to 1e-9."""
    out = []
    for i, row in enumerate(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = oracle(row)
        ours = np.array([getattr(found, name)[i] for name in FIELDS])
        theirs = np.array([getattr(expected, name) for name in FIELDS.values()], float)
        if not np.allclose(ours, theirs, rtol=1e-9, atol=1e-9, equal_nan=True):
            out.append(i)
    return out


@pytest.mark.parametrize("pixels", SIZES)
@pytest.mark.parametrize("method", ORACLES)
def test_every_variant_equals_pymannkendall(method, pixels):
    x = np.full((len(LENGTHS) * pixels, len(TIMES)), np.nan)
    for i, length in enumerate(LENGTHS):  # the shorter are filled up
        x[i * pixels : (i + 1) * pixels, :length] = series(pixels, length)
    found = mann_kendall(x, TIMES, method=method, detrend="order", interval=False)
    answered = np.isin(np.asarray(found.code), (Code.OK, Code.UNDEFINED))
    assert answered.mean() > 0.95
    found = jax.tree.map(lambda a: np.asarray(a)[answered], found)
    x = x[answered]
    flips = differing(found, ORACLES[method], x)
    # Slope and intercept stand before the corrections: never another.
    for i in flips:
        expected = pymannkendall.sens_slope(x[i])
        np.testing.assert_allclose(found.slope[i], expected.slope, rtol=1e-9, atol=1e-12)
        if found.code[i] == Code.UNDEFINED:  # no variance: no z, where the oracle's is infinite
            with np.errstate(divide="ignore"):
                assert abs(ORACLES[method](x[i]).var_s) < 1e-9
        else:
            assert flipped(method, x[i])
    assert len(flips) <= FLIPS.get(method, 0) * pixels * len(LENGTHS)


def flipped(method: str, x: np.ndarray) -> bool:
    """Whether a correction stands on a tie that one bit decides: of the ranks that Hamed and Rao
    take once the trend is removed, or of the whitened series."""
    slope = pymannkendall.sens_slope(x).slope
    x = x[~np.isnan(x)]
    k = np.arange(1, len(x) + 1)
    free = x if method == "pre_whitening" else x - k * slope
    if method == "hamed_rao":
        return nearly_tied(free)
    y = free - free.mean()
    white = free[1:] - (y[1:] * y[:-1]).sum() / (y * y).sum() * free[:-1]
    return nearly_tied(white + k[:-1] * slope if method == "trend_free" else white)


def nearly_tied(x: np.ndarray) -> bool:
    return bool(np.diff(np.sort(x)).min() < 1e-12)


@pytest.mark.parametrize("method", ["hamed_rao", "yue_wang"])
def test_a_number_of_lags(method):
    x = series(20, 37, seed=3)
    found = mann_kendall(x, TIMES, method=method, detrend="order", interval=False, lags=3)
    assert differing(found, functools.partial(ORACLES[method], lag=3), x) == []


@pytest.mark.parametrize("pixels", SIZES)
def test_seasonal_equals_pymannkendall(pixels):
    x = series(pixels, 46)
    found = mann_kendall_grouped(fold(x, 4), interval=False)
    oracle = functools.partial(pymannkendall.seasonal_test, period=4)
    assert differing(found, oracle, x) == []


@pytest.mark.parametrize("pixels", SIZES)
def test_correlated_seasonal_equals_pymannkendall(pixels):
    x = series(pixels, 46)
    x[:, ::5] = np.where(np.isnan(x[:, ::5]), 0.25, x[:, ::5])
    x = np.where(np.isnan(x) & (np.arange(46) % 4 != 1), 0.5, x)
    found = mann_kendall_grouped(fold(x, 4), correlated=True, interval=False)
    keep = np.asarray(found.code) == Code.OK
    assert keep.mean() > 0.9
    found = jax.tree.map(lambda a: np.asarray(a)[keep], found)
    oracle = functools.partial(pymannkendall.correlated_seasonal_test, period=4)
    assert differing(found, oracle, x[keep]) == []


@pytest.mark.parametrize("pixels", SIZES)
@pytest.mark.parametrize(
    ("oracle", "correlated"),
    [
        (pymannkendall.regional_test, False),
        (pymannkendall.multivariate_test, False),
        (pymannkendall.correlated_multivariate_test, True),
    ],
)
def test_stations_equal_pymannkendall(oracle, correlated, pixels):
    x = series(4 * pixels, 12, seed=7).reshape(pixels, 4, 12).transpose(0, 2, 1)
    found = mann_kendall_grouped(x, correlated=correlated, interval=False)
    keep = np.asarray(found.code) == Code.OK
    assert keep.mean() > 0.8
    found = jax.tree.map(lambda a: np.asarray(a)[keep], found)
    assert differing(found, oracle, x[keep]) == []


@pytest.mark.parametrize("pixels", SIZES)
def test_line_and_interval_equal_scipy_at_real_dates(pixels):
    rng = np.random.default_rng(5)
    dates = np.datetime64("2015-03-01") + np.sort(rng.choice(2500, 37, replace=False))
    times = decimal_years(dates) - 2015
    x = series(pixels, 37)
    found = theil_sen(x, times)
    for i, row in enumerate(x):
        there = ~np.isnan(row)
        expected = theilslopes(row[there], times[there], 0.95)
        assert found.slope[i] == expected.slope
        assert found.slope_lo[i] == expected.low_slope
        assert found.slope_hi[i] == expected.high_slope
        assert found.intercept[i] == pytest.approx(expected.intercept, rel=1e-9, abs=1e-12)


def test_two_observations_at_one_time_as_scipy():
    x = series(60, 37, seed=9)
    times = TIMES // 2
    found = theil_sen(x, times)
    for i, row in enumerate(x):
        there = ~np.isnan(row)
        expected = theilslopes(row[there], times[there], 0.95)
        assert found.slope[i] == expected.slope
        assert (found.slope_lo[i], found.slope_hi[i]) == (expected.low_slope, expected.high_slope)


def test_slopes_of_very_different_size_are_selected_exactly():
    rng = np.random.default_rng(2)
    x = rng.standard_t(0.5, size=(60, 37)) ** 3
    found = theil_sen(x, TIMES)
    expected = [theilslopes(row, TIMES, 0.95) for row in x]
    assert np.asarray(found.code).tolist() == [Code.OK] * 60
    assert np.asarray(found.slope).tolist() == [e.slope for e in expected]
    assert np.asarray(found.slope_hi).tolist() == [e.high_slope for e in expected]


def test_false_discoveries_equal_scipy():
    rng = np.random.default_rng(0)
    p = np.where(rng.random((20, 30)) < 0.2, rng.random((20, 30)) / 1000, rng.random((20, 30)))
    p[0] = 0.03  # ties
    holes = rng.random(p.shape) < 0.1
    q, kept = false_discovery(np.where(holes, np.nan, p), 0.05)
    expected = false_discovery_control(p[~holes])
    np.testing.assert_allclose(np.asarray(q)[~holes], expected, rtol=1e-12)
    assert np.isnan(np.asarray(q)[holes]).all()
    assert not np.asarray(kept)[holes].any()
    assert np.asarray(kept)[~holes].tolist() == (expected <= 0.05).tolist()
