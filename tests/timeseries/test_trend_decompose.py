"""STL against statsmodels on regular series, and what it must not depend on with gaps."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from statsmodels.tsa.seasonal import STL

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import Code, decimal_years, decompose

T = 60
TIMES = np.arange(T) / 12.0


def series(pixels: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = 0.3 * rng.normal(size=(pixels, T)) + rng.normal(size=(pixels, 1)) * TIMES
    x += np.sin(2 * np.pi * TIMES) * (1 + 0.2 * TIMES) + 0.4 * np.cos(4 * np.pi * TIMES + 1)
    x[:, 17] += 8.0
    return x


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def gaps():
    """Series with gaps, all seasons seen, and their parts."""
    x = series()
    x[np.random.default_rng(1).random(x.shape) < 0.3] = np.nan
    x[:, :12] = series()[:, :12]
    with jax.enable_x64(True):
        return x, decompose(x, TIMES)


@pytest.mark.parametrize("robust", [False, True])
def test_regular_series_equal_statsmodels(robust):
    x = series()
    found = decompose(x, TIMES, robust=robust)
    for i, row in enumerate(x):
        expected = STL(row, period=12, robust=robust).fit()
        for name in ("trend", "seasonal", "resid", "weights"):
            ours = getattr(found, {"resid": "remainder", "weights": "weight"}.get(name, name))
            np.testing.assert_allclose(ours[i], getattr(expected, name), rtol=0, atol=1e-9)


def same(a, b, **close) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **(close or {"rtol": 0, "atol": 1e-12}))


def test_the_order_of_observations_does_not_matter(gaps):
    x, found = gaps
    order = np.random.default_rng(2).permutation(T)
    turned = decompose(x[:, order], TIMES[order])
    back = jax.tree.map(lambda a: a[:, order] if a.ndim == 2 else a, found)
    same(turned, back)


def test_dropping_equals_masking_masked_values_are_not_read_and_padding_does_not_matter(gaps):
    x, _ = gaps
    keep = np.isin(np.arange(T), (0, 20, 21, 40, 58, 59), invert=True)
    mask = np.isfinite(x) & keep
    masked = decompose(np.where(mask, x, 1e9), TIMES, mask)
    assert np.isfinite(masked.trend).all()
    assert np.isnan(np.asarray(masked.remainder)[:, ~keep]).all()
    fewer = np.pad(x[:, keep], ((0, 0), (0, 6)), constant_values=np.nan)
    times = np.pad(TIMES[keep], (0, 6), constant_values=np.nan)
    dropped = decompose(fewer, times, grid=(0.0, T))
    same(jax.tree.map(lambda a: a[:, keep] if a.ndim == 2 else a, masked),
         jax.tree.map(lambda a: a[:, :-6] if a.ndim == 2 else a, dropped))  # fmt: skip
    assert np.isnan(np.asarray(dropped.trend)[:, -6:]).all()


def test_times_of_every_pixel_do_not_matter(gaps):
    x, found = gaps
    same(decompose(x, np.tile(TIMES, (len(x), 1))), found)


def test_twice_the_values_have_twice_the_parts(gaps):
    x, found = gaps
    twice = decompose(2 * x, TIMES)
    for name in ("trend", "seasonal", "remainder"):
        np.testing.assert_array_equal(2 * np.asarray(getattr(found, name)), getattr(twice, name))
    np.testing.assert_array_equal(found.weight, twice.weight)


def test_the_parts_are_found_again_at_irregular_dates():
    """A line and a cycle at dates of two satellites, half of them missing, with leap years."""
    rng = np.random.default_rng(3)
    dates = np.datetime64("2015-01-05") + np.sort(rng.choice(2900, 260, replace=False))
    times = decimal_years(dates)
    line, cycle = 0.5 + 0.03 * (times - 2019), 0.2 * np.sin(2 * np.pi * times + 0.4)
    x = (line + cycle).astype(np.float32)[None]
    found = decompose(x, times, period=12)
    assert int(found.code[0]) == Code.OK
    inside = slice(20, -20)
    assert np.abs(np.asarray(found.trend[0]) - line)[inside].max() < 0.02
    assert np.abs(np.asarray(found.seasonal[0]) - cycle)[inside].max() < 0.03
    # The mean of a month lies below its peak; no more than that is left.
    assert np.asarray(found.remainder).std() < 0.01


def test_float32_is_float64_to_1e_5():
    x = series().astype(np.float32)
    x[:, 30:40] = np.nan
    single = decompose(x, TIMES)
    double = decompose(x.astype(float), TIMES)
    for name in ("trend", "seasonal", "remainder"):
        np.testing.assert_allclose(getattr(single, name), getattr(double, name), atol=1e-5)


def test_every_pixel_without_an_answer_has_a_code(gaps):
    x = series()
    x[1, 3::12] = np.nan
    x[2] = 0.3
    x[3] = np.nan
    found = jax.tree.map(lambda a: a[:4], decompose(x, TIMES))
    codes = [Code.OK, Code.TOO_FEW, Code.CONSTANT, Code.ALL_MASKED]
    assert np.asarray(found.code).tolist() == codes
    for leaf in (found.trend, found.seasonal, found.remainder, found.weight):
        assert np.isfinite(np.asarray(leaf)[0]).all()
        assert np.isnan(np.asarray(leaf)[1:]).all()


X = np.zeros((2, T), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"seasonal": 8}, ConfigError, "seasonal"),
        ({"trend": 11}, ConfigError, "more than 12"),
        ({"period": 1, "trend": 3}, ConfigError, "period"),
        ({"cycle": 3.0}, DataError, "two cycles"),
        ({"grid": (1.0, 60)}, DataError, "outside of the grid"),
        ({"cycle": 0.0}, ConfigError, "cycle"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, error, words):
    with pytest.raises(error, match=words) as caught:
        decompose(X, TIMES, **options)
    assert "\n" not in str(caught.value)


def test_times_that_are_none_are_refused():
    with pytest.raises(DataError, match="no times"):
        decompose(X, np.full(T, np.nan))


def test_nothing_grows_with_the_square_of_the_dates_times_the_pixels():
    pixels = 2**16
    x = jax.ShapeDtypeStruct((pixels, T), np.float32)
    program = jax.jit(lambda x: decompose(x, TIMES)).lower(x).compile()
    assert program.memory_analysis().temp_size_in_bytes < pixels * T * T


def test_no_pixels_are_no_error():
    assert decompose(X[:0], TIMES).code.shape == (0,)
