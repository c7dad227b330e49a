"""BFAST-monitor against nrt, with gaps, in float64; its properties, codes and refusals."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import Code, decimal_years, monitor_breaks

PIXELS, T, SINCE = 24, 130, 2018.0
RNG = np.random.default_rng(3)
DATES = np.datetime64("2014-01-09") + np.sort(RNG.choice(2500, T, replace=False))
YEARS = decimal_years(DATES)


def series() -> np.ndarray:
    """A season and a trend, 40 % missing; the second half of the pixels drops in 2019."""
    rng = np.random.default_rng(8)
    x = 0.5 + 0.01 * (YEARS - 2014) + 0.15 * np.cos(2 * np.pi * (YEARS - 0.55))
    x = x + 0.04 * rng.normal(size=(PIXELS, T))
    x[PIXELS // 2 :] -= 0.1 * (YEARS > 2019.2)
    return np.where(rng.random(x.shape) < 0.4, np.nan, x)


X = series()


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def oracle(window: float, alpha: float, trend: bool):
    """nrt's detector with our regressors (its years end on the 31st of December, a day early), and
    with the residuals of its history in the sign of those it compares them with."""
    from nrt.monitor.mosum import MoSum

    class Ours(MoSum):
        def build_design_matrix(self, dataarray, trend=True, harmonic_order=2):
            return self.regressors(dataarray.time.values)

        def _regressors(self, date):
            return self.regressors(np.array([date], "M8[ns]"))

        def regressors(self, dates):
            years = decimal_years(dates)
            waves = [f(2 * np.pi * k * years) for k in (1, 2) for f in (np.cos, np.sin)]
            line = [years - 2014] if self.trend else []
            return np.stack([np.ones_like(years), *line, *waves], 1)

        def _fit(self, *args, **kwargs):
            beta, residuals = super()._fit(*args, **kwargs)
            return beta, -residuals

    return Ours(trend=trend, harmonic_order=2, sensitivity=alpha, h=window)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("window", "alpha", "trend"), [(0.25, 0.05, True), (0.5, 0.01, True), (1.0, 0.025, False)]
)
def test_mosum_equals_nrt(window, alpha, trend):
    x = X if trend else X - 0.01 * (YEARS - 2014)
    cube = xr.DataArray(
        x.T.reshape(T, 4, PIXELS // 4), dims=("time", "y", "x"),
        coords={"time": DATES.astype("M8[ns]"), "y": np.arange(4), "x": np.arange(PIXELS // 4)},
    )  # fmt: skip
    theirs = oracle(1 if window == 1 else window, alpha, trend)
    history = YEARS < SINCE
    theirs.fit(cube[history], method="OLS")
    for step in cube[~history]:
        theirs.monitor(step.values, pd.Timestamp(step.time.values).to_pydatetime())
    found = monitor_breaks(x, YEARS, since=SINCE, window=window, alpha=alpha, trend=trend)
    assert (np.asarray(found.code) == Code.OK).all()
    day = theirs.detection_date.ravel().astype(int)
    broke = theirs.mask.ravel() == 3
    assert 0 < broke.sum() < PIXELS
    np.testing.assert_array_equal(np.isfinite(found.date), broke)
    expected = decimal_years(day[broke].astype("M8[D]"))
    np.testing.assert_allclose(np.asarray(found.date)[broke], expected, atol=1e-9)
    np.testing.assert_allclose(found.process, theirs.process.ravel(), atol=2e-5)
    np.testing.assert_allclose(found.boundary, theirs.boundary.ravel(), rtol=1e-6)
    np.testing.assert_allclose(found.sigma, theirs.sigma.ravel(), rtol=1e-5)
    np.testing.assert_array_equal(found.history, theirs.histsize.ravel())


@pytest.mark.filterwarnings("ignore:np.dot")
@pytest.mark.usefixtures("_float64")
def test_the_stable_history_equals_nrt():
    from nrt.fit_methods import roc_stable_fit
    from nrt.utils_efp import _cusum_rec_test_crit

    x = X - 0.15 * (np.linspace(2013.5, 2017.5, PIXELS)[:, None] > YEARS)
    past = YEARS < SINCE
    design = [np.ones(T), YEARS - 2014]
    design += [f(2 * np.pi * YEARS) for f in (np.cos, np.sin)]
    days = DATES.astype(int)
    crit = _cusum_rec_test_crit(0.05)
    _, _, stable, start = roc_stable_fit(
        np.stack(design, 1)[past], x.T[past], days[past], 0.05, crit
    )
    found = monitor_breaks(x, YEARS, since=SINCE, harmonics=1, history="roc")
    np.testing.assert_array_equal(np.asarray(found.code) == Code.OK, stable)
    expected = decimal_years(start[stable].astype(int).astype("M8[D]"))
    np.testing.assert_allclose(np.asarray(found.start)[stable], expected, atol=1e-9)
    assert len(np.unique(expected)) > 3


def same(a, b, rtol=0.0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=rtol)


def test_order_gaps_and_padding_do_not_matter():
    x = X.astype(np.float32)
    whole = monitor_breaks(x, YEARS, since=SINCE)
    assert (np.isfinite(whole.date)).sum() >= PIXELS // 2
    order = np.random.default_rng(0).permutation(T)
    same(monitor_breaks(x[:, order], YEARS[order], since=SINCE), whole, 1e-6)
    mask = np.isfinite(x)
    hidden = np.where(mask, x, 1e9).astype(np.float32)
    same(monitor_breaks(hidden, np.tile(YEARS, (PIXELS, 1)), mask, since=SINCE), whole, 1e-4)
    two = monitor_breaks(2 * x, YEARS, since=SINCE)
    np.testing.assert_array_equal(two.date, whole.date)
    np.testing.assert_array_equal(two.magnitude, 2 * np.asarray(whole.magnitude))


def test_two_of_one_time_may_be_in_either_order():
    x = np.nan_to_num(X, nan=X[np.isfinite(X)].mean()).astype(np.float32)
    years = np.repeat(YEARS[::2], 2)[:T]  # all but the last are twice
    order = np.random.default_rng(1).permutation(T)
    whole = monitor_breaks(x, years, since=SINCE)
    same(monitor_breaks(x[:, order], years[order], since=SINCE), whole, 1e-6)


def test_every_pixel_that_is_not_monitored_has_a_code():
    x = np.tile(X[:1].astype(np.float32), (PIXELS, 1))  # a shape that is compiled already
    x[0] = np.nan
    x[1, YEARS > SINCE - 3.6] = np.nan
    x[2, YEARS >= SINCE] = np.nan
    x[3, YEARS < SINCE] = 1
    found = monitor_breaks(x, YEARS, since=SINCE)
    codes = [Code.ALL_MASKED, Code.TOO_FEW, Code.TOO_FEW, Code.CONSTANT, Code.OK]
    assert np.asarray(found.code)[:5].tolist() == codes
    assert np.isnan(np.asarray(found.process)[:4]).all()


F32 = X.astype(np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: monitor_breaks(F32[0], YEARS, since=SINCE), DataError, "axes"),
        (lambda: monitor_breaks(F32, YEARS, since=SINCE, harmonics=0), ConfigError, "1 to 4"),
        (lambda: monitor_breaks(F32, YEARS, since=SINCE, window=0.3), ConfigError, "0.3"),
        (lambda: monitor_breaks(F32, YEARS, since=SINCE, alpha=0.06), ConfigError, "critical"),
        (lambda: monitor_breaks(F32, YEARS, since=SINCE, history="x"), ConfigError, "roc"),
        (lambda: monitor_breaks(F32, YEARS, since=SINCE, least=3), ConfigError, "7 or more"),
    ],
)
def test_what_cannot_be_monitored_is_refused_in_one_line(untyped, call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
