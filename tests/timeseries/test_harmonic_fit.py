"""Harmonic fits against statsmodels and scikit-learn in float64, with gaps; what they depend on."""

from __future__ import annotations

import functools
import warnings

import jax
import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import Lasso

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import Code, decimal_years, harmonic_fit, in_pieces

PIXELS, T, K = 12, 61, 2
RNG = np.random.default_rng(11)
DATES = np.datetime64("2015-11-02") + np.sort(RNG.choice(1900, T, replace=False))
YEARS = decimal_years(DATES)


def series(seed: int = 0, pixels: int = PIXELS) -> np.ndarray:
    """Reflectances x 10000: a season, a trend, noise with outliers, a third missing."""
    rng = np.random.default_rng(seed)
    level, slope, size, day = rng.normal(size=(4, pixels, 1)) * [[[500]], [[40]], [[200]], [[3]]]
    x = 2000 + level + slope * (YEARS - 2018) + size * np.cos(2 * np.pi * YEARS + day)
    x = x + 50 * rng.standard_t(2, size=x.shape)
    return np.where(rng.random(x.shape) < 0.3, np.nan, x)


def design(years: np.ndarray = YEARS, trend: bool = True) -> np.ndarray:
    waves = [f(2 * np.pi * k * years) for k in range(1, K + 1) for f in (np.cos, np.sin)]
    line = [years - 2000] if trend else []
    return np.stack([np.ones_like(years), *line, *waves], 1)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def close(found, expected, rtol=1e-9):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("trend", [True, False])
def test_least_squares_equals_statsmodels(trend):
    x = series()
    found = harmonic_fit(x, YEARS, harmonics=K, trend=trend, covariance=True)
    own = np.tile(YEARS, (PIXELS, 1))
    assert (np.asarray(found.code) == Code.OK).all()
    each = harmonic_fit(x, own, harmonics=K, trend=trend, covariance=True)
    keep = [0, 1, *range(2, 2 + 2 * K)] if trend else [0, *range(2, 2 + 2 * K)]
    for i, row in enumerate(x):
        there = ~np.isnan(row)
        fit = sm.OLS(row[there], design(trend=trend)[there]).fit()
        for ours in (found, each):
            close(np.asarray(ours.coefficients)[i, keep], fit.params)
            close(np.asarray(ours.stderr)[i, keep], fit.bse)
            close(np.asarray(ours.covariance)[i][np.ix_(keep, keep)], fit.cov_params())
            close(ours.rmse[i], np.sqrt(fit.mse_resid))
            close(np.asarray(ours.residuals(x, YEARS))[i, there], fit.resid, 1e-8)
            assert int(ours.n[i]) == there.sum()


@pytest.mark.usefixtures("_float64")
def test_huber_equals_statsmodels():
    x = series(1)
    found = harmonic_fit(x, YEARS, harmonics=K, method="huber")
    assert (np.asarray(found.code) == Code.OK).all()
    for i, row in enumerate(x):
        there = ~np.isnan(row)
        model = sm.RLM(row[there], design()[there], M=sm.robust.norms.HuberT())
        fit = model.fit(maxiter=200, tol=1e-11, conv="coefs", cov="H1")
        close(found.coefficients[i], fit.params, 1e-8)
        close(found.stderr[i], fit.bse, 1e-8)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("penalty", [0.0, 5.0, 20.0, 1e5])
def test_lasso_equals_scikit_learn(penalty):
    x = series(2)
    found = harmonic_fit(x, YEARS, harmonics=K, method="lasso", penalty=penalty)
    assert (np.asarray(found.code) == Code.OK).all()
    for i, row in enumerate(x):
        there = ~np.isnan(row)
        a = design()[there][:, 1:]
        mean, sd = a.mean(0), a.std(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = Lasso(penalty, max_iter=100_000, tol=1e-14).fit((a - mean) / sd, row[there])
        slopes = fit.coef_ / sd
        expected = np.concatenate([[fit.intercept_ - mean @ slopes], slopes])
        close(found.coefficients[i], expected, 1e-8)
        np.testing.assert_array_equal(np.asarray(found.coefficients)[i, 1:] == 0, slopes == 0)


def test_float32_is_float64_to_1e_5():
    x = series(3).astype(np.float32)
    at = np.linspace(2015, 2023, 40)
    for method in ("ols", "huber", "lasso"):
        single = harmonic_fit(x, YEARS, harmonics=K, method=method)
        with jax.enable_x64(True):
            double = harmonic_fit(x.astype(float), YEARS, harmonics=K, method=method)
            expected = np.asarray(double.predict(at))
            rmse = np.asarray(double.rmse)
        assert single.coefficients.dtype == np.float32
        np.testing.assert_allclose(np.asarray(single.predict(at)), expected, rtol=1e-5, atol=0.02)
        np.testing.assert_allclose(single.rmse, rmse, rtol=1e-5)


X32 = series(4).astype(np.float32)
fit = functools.partial(harmonic_fit, harmonics=K)


def nearly(a, b, rtol=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        y = np.asarray(y)
        np.testing.assert_allclose(np.asarray(x), y, rtol=rtol, atol=rtol * np.nanmax(np.abs(y)))


def test_order_dropping_and_padding_do_not_matter():
    whole = fit(X32, YEARS)
    order = np.random.default_rng(0).permutation(T)
    nearly(fit(X32[:, order], YEARS[order]), whole)
    nearly(in_pieces(fit, X32, YEARS, pixels=5), whole)
    keep = np.arange(T) % 5 != 0
    more = T - keep.sum()  # dropped, and filled up to a shape that is compiled already
    fewer = np.pad(X32[:, keep], ((0, 0), (0, more)), constant_values=np.nan)
    times = np.pad(YEARS[keep], (0, more), constant_values=np.nan)
    nearly(fit(X32, YEARS, np.isfinite(X32) & keep), fit(fewer, times))
    mask = np.isfinite(X32)
    hidden = fit(np.where(mask, X32, 1e9).astype("f4"), YEARS, mask)
    for a, b in zip(jax.tree.leaves(hidden), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", ["ols", "huber", "lasso"])
def test_twice_the_values_have_twice_the_coefficients(method):
    one = fit(X32, YEARS, method=method, penalty=20.0)
    two = fit(2 * X32, YEARS, method=method, penalty=40.0)
    np.testing.assert_array_equal(2 * np.asarray(one.coefficients), two.coefficients)
    np.testing.assert_array_equal(2 * np.asarray(one.rmse), two.rmse)


def test_a_wave_of_leap_years_is_found_to_the_day():
    """A wave that ends with every year, of 365 days or of 366, is fitted without a rest."""
    dates = np.arange("2015-01-01", "2021-01-01", 9, dtype="M8[D]")
    year = dates.astype("M8[Y]")
    share = (dates - year).astype(int) / (((year + 1).astype("M8[D]") - year).astype(int))
    x = (10 + np.cos(2 * np.pi * (share - 0.25)))[None].astype(np.float32)
    found = harmonic_fit(x, decimal_years(dates), harmonics=1)
    np.testing.assert_allclose(found.coefficients[0], [10, 0, 0, 1], atol=3e-6)
    np.testing.assert_allclose(found.amplitude[0], [1], atol=3e-6)
    assert found.rmse[0] < 1e-5


def test_where_a_fit_stands_does_not_move_it():
    a, b = fit(X32, YEARS, origin=2000.0), fit(X32, YEARS, origin=2017.5)
    at = np.array([2016.3, 2030.0, np.nan])
    np.testing.assert_allclose(a.predict(at)[:, :2], b.predict(at)[:, :2], rtol=1e-5)
    assert np.isnan(a.predict(at)[:, 2]).all()
    np.testing.assert_allclose(a.intercept, b.intercept, rtol=2e-4)
    np.testing.assert_array_equal(a.slope, b.slope)


def test_every_pixel_without_a_fit_has_a_code():
    x = np.tile(X32[:1], (PIXELS, 1))
    x[0] = np.nan
    x[1, np.flatnonzero(np.isfinite(x[1]))[2 + 2 * K :]] = np.nan
    x[2] = 7
    found = fit(x, YEARS)
    assert np.asarray(found.code)[:3].tolist() == [Code.ALL_MASKED, Code.TOO_FEW, Code.CONSTANT]
    assert np.isnan(np.asarray(found.coefficients)[:3]).all()
    assert np.isnan(found.rmse[:3]).all()
    x[3], x[3, 5] = 0, 1  # all but one are met: their spread says nothing of that one
    assert int(fit(x, YEARS, method="huber").code[3]) == Code.NOT_CONVERGED
    one_day = np.floor(YEARS) + 0.5
    assert (np.asarray(fit(X32, one_day).code) == Code.UNDEFINED).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fit(X32[0], YEARS), DataError, "axes"),
        (lambda: fit(X32, DATES), DataError, "decimal_years"),
        (lambda: harmonic_fit(X32, YEARS, harmonics=5), ConfigError, "1 to 4"),
        (lambda: fit(X32, YEARS, method="other"), ConfigError, "huber"),
        (lambda: fit(X32, YEARS, least=6), ConfigError, "7 or more"),
        (lambda: fit(X32, YEARS, penalty=-1.0), ConfigError, "penalty"),
        (lambda: fit(X32, YEARS, penalty=np.inf), ConfigError, "penalty"),
        (lambda: fit(X32, YEARS, method="lasso", covariance=True), ConfigError, "covariance"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(untyped, call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
