"""Breaks of several bands: against pyxccd on real Landsat pixels, and on series with known ones."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from data_zarr import open_cube
from data_zarr.samples import sample_path
from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import Code, decimal_years, detect_breaks, in_pieces

SAMPLES = {
    "landsat_ard_pixels": ("landsat_c1_sr6", "landsat_c1_bt"),
    "landsat_wa_pixel": ("landsat_cfmask_sr6", "landsat_cfmask_bt"),
}
DAYS = 30
"""That a break or an end may differ from the oracle's."""


def landsat() -> list[tuple[np.ndarray, ...]]:
    """Of every shipped pixel: days, reflectances x 10000 and temperature, clear, all that pyxccd
    takes: within its ranges."""
    pixels = []
    for name, (optical, thermal) in SAMPLES.items():
        cube = open_cube(sample_path(name))
        dates = cube.bandsets[optical].dates
        values, valid = cube.reader(optical).read(0, 0, dates.shape[1], 1)
        heat, warm = cube.reader(thermal).read(0, 0, dates.shape[1], 1)
        for i in range(dates.shape[1]):
            known = ~np.isnat(dates[:, i])
            x = np.concatenate([values[known, :, i, 0], heat[known, :, i, 0]], 1).astype(np.int64)
            clear = valid[known, :, i, 0].all(1) & warm[known, :, i, 0].all(1)
            clear &= ((x[:, :6] > 0) & (x[:, :6] < 10_000)).all(1)
            pixels.append((dates[known, i].astype("M8[D]"), x, clear))
    return pixels


def test_segments_agree_with_pyxccd_on_the_shipped_landsat_pixels():
    from pyxccd import cold_detect

    pixels = landsat()
    assert len(pixels) == 4
    length = max(len(days) for days, _, _ in pixels)
    values = np.full((4, length, 6), np.nan, np.float32)
    years = np.full((4, length), np.nan)
    mask = np.zeros((4, length), bool)
    for i, (days, x, clear) in enumerate(pixels):
        values[i, : len(days)], mask[i, : len(days)] = x[:, :6], clear
        years[i, : len(days)] = decimal_years(days)
    found = detect_breaks(values, years, mask, bands=(1, 2, 3, 4, 5), screen=(1, 4), segments=12)
    assert (np.asarray(found.code) == Code.OK).all()
    sure = np.asarray(found.confirmed)
    near, total = 0, 0
    for i, (days, x, clear) in enumerate(pixels):
        order = np.argsort(days, kind="stable")
        ordinal = days[order].astype(int) + 719_163
        theirs = cold_detect(ordinal, *x[order].T, np.where(clear[order], 0, 4))
        for segment in theirs:
            broke = segment["change_prob"] == 100
            day = segment["t_break" if broke else "t_end"] - 719_163
            year = decimal_years(np.array([day]).astype("M8[D]"))[0]
            ours = np.where(sure[i], found.date[i], np.nan) if broke else np.asarray(found.end[i])
            near += bool((np.abs(ours - year) <= DAYS / 365.25).any())
        total += len(theirs)
    assert total >= 15
    assert near >= 0.9 * total


P, T = 8, 208
YEARS = 2008 + np.arange(T) / 23.0
BROKE = 2012.5
SHIFT = np.array([300, -500, 400], np.float32)


def series() -> np.ndarray:
    """Three bands of sigma 60, a fifth missing; the first half of the pixels breaks."""
    rng = np.random.default_rng(1)
    wave = np.cos(2 * np.pi * YEARS)[:, None] * np.array([100, 300, 200])
    x = np.array([800, 3000, 1500]) + wave + 60 * rng.normal(size=(P, T, 3))
    x[: P // 2] += SHIFT * (YEARS >= BROKE)[:, None]
    x[rng.random((P, T)) < 0.2] = np.nan
    return x.astype(np.float32)


X = series()
detect = functools.partial(detect_breaks, segments=3)


@pytest.fixture(scope="module")
def whole():
    return jax.tree.map(np.asarray, detect(X, YEARS))


def test_breaks_are_found_where_they_are(whole):
    half = P // 2
    assert (whole.code == Code.OK).all()
    assert whole.count.tolist() == [2] * half + [1] * half
    assert whole.confirmed.sum(1).tolist() == [1] * half + [0] * half
    assert (np.abs(whole.date[:half, 0] - BROKE) < 0.15).all()
    assert np.isnan(whole.date[half:, 0]).all()
    np.testing.assert_allclose(whole.magnitude[:half, 0], np.tile(SHIFT, (half, 1)), atol=120)
    np.testing.assert_allclose(whole.rmse[:, 0], 60, rtol=0.35)
    seen = np.isfinite(X).all(2).sum(1)
    assert (whole.n.sum(1) >= 0.9 * seen).all()
    assert (whole.n.sum(1) <= seen).all()
    truth = np.zeros(X.shape) + [800, 3000, 1500] + SHIFT * (YEARS >= BROKE)[:, None]
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
    twice = in_pieces(detect, np.concatenate([X[::-1], X]), YEARS, pixels=P)
    same(jax.tree.map(lambda a: a[P:], twice), whole)
    same(jax.tree.map(lambda a: a[:P][::-1], twice), whole)


def test_twice_the_values_have_twice_the_magnitude(whole):
    two = detect(2 * X, YEARS, penalty=40.0)
    for name in ("magnitude", "coefficients", "rmse"):
        np.testing.assert_array_equal(2 * getattr(whole, name), getattr(two, name))
    for name in ("start", "end", "date", "n", "count", "code"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(two, name))


def test_every_pixel_without_segments_has_a_code():
    x = X.copy()
    x[0] = np.nan
    x[1, 23:] = np.nan
    x[2] = 5
    x[3] = 1000 * np.random.default_rng(0).standard_t(1, size=x[3].shape)
    found = detect(x, YEARS)
    assert np.asarray(found.code).tolist()[:3] == [Code.ALL_MASKED, Code.TOO_FEW, Code.CONSTANT]
    assert np.isnan(np.asarray(found.start)[:3]).all()
    assert not np.asarray(found.n)[:3].any()


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
