"""Breaks of several bands: against pyxccd on real Landsat pixels, and on series with known ones."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from experiments.bench import trend_agreement
from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import Code, detect_breaks, in_pieces


def test_segments_agree_with_pyxccd_on_the_shipped_landsat_pixels():
    found = {f.name: f for f in trend_agreement.figures()}
    assert found["trend_agreement.segments"].value >= 15
    assert found["trend_agreement.theirs"].value >= 0.9
    assert found["trend_agreement.ours"].value >= 0.9


def test_each_end_agrees_with_one_other_at_most():
    ours, theirs = np.array([2000.0, 2000.05, 2010.0]), np.array([2000.02, 2005.0, 2010.09])
    assert trend_agreement.pairs(ours, theirs) == 1
    assert trend_agreement.pairs(theirs, ours) == 1


P, T = 8, 208
YEARS = 2008 + np.arange(T) / 23.0
BROKE = 2012.5
SHIFT = np.array([300, -500, 400], np.float32)


def series() -> np.ndarray:
    """Three bands of sigma 60, a fifth missing; the first half of the pixels breaks. And three
    pixels more: all missing, too few, constant."""
    rng = np.random.default_rng(1)
    wave = np.cos(2 * np.pi * YEARS)[:, None] * np.array([100, 300, 200])
    x = np.array([800, 3000, 1500]) + wave + 60 * rng.normal(size=(P, T, 3))
    x[: P // 2] += SHIFT * (YEARS >= BROKE)[:, None]
    x[rng.random((P, T)) < 0.2] = np.nan
    few = np.where(np.arange(T)[:, None] < 23, x[0], np.nan)
    more = [np.full_like(x[0], np.nan), few, np.full_like(x[0], 5)]
    return np.concatenate([x, np.stack(more)]).astype(np.float32)


X = series()
detect = functools.partial(detect_breaks, segments=3)


@pytest.fixture(scope="module")
def whole():
    return jax.tree.map(np.asarray, detect(X, YEARS))


def test_breaks_are_found_where_they_are(whole):
    whole, seen = jax.tree.map(lambda a: a[:P], whole), np.isfinite(X[:P]).all(2).sum(1)
    half = P // 2
    assert (whole.code == Code.OK).all()
    assert whole.count.tolist() == [2] * half + [1] * half
    assert whole.confirmed.sum(1).tolist() == [1] * half + [0] * half
    assert (np.abs(whole.date[:half, 0] - BROKE) < 0.15).all()
    assert np.isnan(whole.date[half:, 0]).all()
    np.testing.assert_allclose(whole.magnitude[:half, 0], np.tile(SHIFT, (half, 1)), atol=120)
    np.testing.assert_allclose(whole.rmse[:, 0], 60, rtol=0.35)
    assert (whole.n.sum(1) >= 0.9 * seen).all()
    assert (whole.n.sum(1) <= seen).all()
    truth = np.zeros((P, T, 3)) + [800, 3000, 1500] + SHIFT * (YEARS >= BROKE)[:, None]
    truth += np.cos(2 * np.pi * YEARS)[:, None] * np.array([100, 300, 200])
    value = np.asarray(whole.predict(YEARS))[:half]
    known = np.isfinite(value)
    assert known.mean() > 0.9
    # The LASSO shrinks a wave by up to 20 sqrt(2).
    assert np.abs(value - truth[:half])[known].mean() < 40


def same(a, b, rtol=0.0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=rtol)


def test_float64_finds_the_same(whole):
    with jax.enable_x64(True):
        double = jax.tree.map(np.asarray, detect(X.astype(np.float64), YEARS))
    assert double.rmse.dtype == np.float64
    for name in ("count", "code", "n"):
        np.testing.assert_array_equal(getattr(double, name), getattr(whole, name))
    np.testing.assert_allclose(double.date, whole.date, atol=1e-3)
    np.testing.assert_allclose(double.rmse, whole.rmse, rtol=2e-4)
    np.testing.assert_allclose(double.magnitude, whole.magnitude, atol=0.05)


def test_order_gaps_and_pieces_do_not_matter(whole):
    order = np.random.default_rng(0).permutation(T)
    same(detect(X[:, order], YEARS[order]), whole)
    mask = np.isfinite(X).all(2)
    same(detect(np.where(mask[:, :, None], X, 1e9).astype(np.float32), YEARS, mask), whole)
    twice = in_pieces(detect, np.concatenate([X[::-1], X]), YEARS, pixels=len(X))
    same(jax.tree.map(lambda a: a[len(X) :], twice), whole)
    same(jax.tree.map(lambda a: a[: len(X)][::-1], twice), whole)


def test_of_two_of_one_time_the_order_does_not_tell():
    years = np.repeat(YEARS[::2], 2)[:T]
    order = np.random.default_rng(1).permutation(T)
    same(detect(X[:, order], years[order]), detect(X, years))


def test_twice_the_values_have_twice_the_magnitude(whole):
    two = detect(2 * X, YEARS, penalty=40.0)
    for name in ("magnitude", "coefficients", "rmse"):
        np.testing.assert_array_equal(2 * getattr(whole, name), getattr(two, name))
    for name in ("start", "end", "date", "n", "count", "code"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(two, name))


def test_every_pixel_without_segments_has_a_code(whole):
    assert whole.code[P:].tolist() == [Code.ALL_MASKED, Code.TOO_FEW, Code.CONSTANT]
    assert np.isnan(whole.start[P:]).all()
    assert np.isnan(whole.coefficients[P:]).all()
    assert not whole.n[P:].any()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: detect(X[0], YEARS), DataError, "axes"),
        (lambda: detect(X, YEARS[1:]), DataError, "times do not fit"),
        (lambda: detect(X, YEARS, bands=(0, 3)), ConfigError, "of 0 to 2"),
        (lambda: detect(X, YEARS, bands=(0, 1), screen=(0, 2)), ConfigError, "not tested"),
        (lambda: detect(X, YEARS, alpha=0.0), ConfigError, "alpha"),
        (lambda: detect(X, YEARS, confirm=1), ConfigError, "confirm of 2 to 12"),
    ],
)
def test_what_cannot_be_segmented_is_refused_in_one_line(untyped, call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
