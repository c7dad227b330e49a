"""What trends must not depend on, the codes of pixels without an answer, and refusals."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import (
    Code,
    bucket,
    false_discovery,
    fill_up,
    fold,
    in_pieces,
    mann_kendall,
    mann_kendall_grouped,
    theil_sen,
)
from rsvlm_jax.timeseries.pairs import slope_measure

METHODS = ("original", "hamed_rao", "yue_wang", "pre_whitening", "trend_free")
T = 14
TIMES = np.arange(T, dtype=np.float32)


def quarters(pixels: int = 5) -> st.SearchStrategy[np.ndarray]:
    """Series of quarters, exact in float32, ties in plenty; NaN is a gap."""
    one = st.one_of(st.just(np.nan), st.integers(-40, 40).map(lambda i: i / 4))
    rows = st.lists(one, min_size=pixels * T, max_size=pixels * T)
    return rows.map(lambda v: np.array(v, np.float32).reshape(pixels, T))


def fives(compute, x: np.ndarray, times: np.ndarray = TIMES):
    """Five series at a time: the shape of all tests here, since compiling is what takes long."""
    found = [compute(x[i : i + 5], times) for i in range(0, len(x), 5)]
    return jax.tree.map(lambda *a: np.concatenate(a), *found)


def same(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


few = settings(max_examples=15)


@pytest.mark.parametrize("method", ["original", "trend_free"])
@few
@given(x=quarters(), seed=st.integers(0, 99))
def test_the_order_of_observations_does_not_matter(method, x, seed):
    order = np.random.default_rng(seed).permutation(T)
    found = mann_kendall(x, TIMES, method=method)
    same(found, mann_kendall(x[:, order], TIMES[order], method=method))


@few
@given(x=quarters(), seed=st.integers(0, 99))
def test_the_order_of_two_platforms_at_one_time_does_not_matter(x, seed):
    order = np.random.default_rng(seed).permutation(T)
    times = TIMES // 2
    found = mann_kendall(x, times, method="pre_whitening")
    same(found, mann_kendall(x[:, order], times[order], method="pre_whitening"))


def test_variants_see_the_mean_of_observations_at_one_time():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(5, T)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    pairs = x.reshape(5, -1, 2)
    mean = np.where(np.isnan(pairs).any(2), np.nansum(pairs, 2), pairs.mean(2))
    one = np.full_like(x, np.nan)
    one[:, ::2] = np.where(np.isnan(pairs).all(2), np.nan, mean)
    found = mann_kendall(x, TIMES // 2, method="pre_whitening")
    expected = mann_kendall(one, TIMES // 2, method="pre_whitening")
    assert (np.asarray(found.code) == Code.OK).all()
    np.testing.assert_array_equal(found.s, expected.s)
    np.testing.assert_array_equal(found.var_s, expected.var_s)
    np.testing.assert_array_equal(found.n, np.isfinite(x).sum(1))


def test_an_interval_is_as_wide_as_the_variance_is_corrected():
    x = np.random.default_rng(8).normal(size=(5, T)).astype(np.float32).cumsum(1)
    plain = mann_kendall(x, TIMES)
    found = mann_kendall(x, TIMES, method="hamed_rao")
    root = np.sqrt(np.asarray(found.var_s) / np.asarray(plain.var_s))
    assert (np.nan_to_num(root, nan=1) != 1).any()
    for end in ("slope_lo", "slope_hi"):
        half = np.asarray(getattr(plain, end)) - plain.slope
        np.testing.assert_allclose(np.asarray(getattr(found, end)) - found.slope, half * root,
                                   rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize("method", ["original", "trend_free"])
@few
@given(x=quarters())
def test_masking_equals_a_gap_and_masked_values_are_not_read(method, x):
    mask = np.isfinite(x)
    found = mann_kendall(x, TIMES, method=method)
    same(found, mann_kendall(np.where(mask, x, 1e9).astype("f4"), TIMES, mask, method=method))


@few
@given(x=quarters())
def test_dropping_equals_masking(x):
    keep = np.isin(np.arange(T), (2, 3, 7, 12), invert=True)
    masked = mann_kendall(x, TIMES, np.isfinite(x) & keep)
    same(masked, mann_kendall(x[:, keep], TIMES[keep]))


@few
@given(x=quarters())
def test_padding_and_times_of_every_pixel_do_not_matter(x):
    found = theil_sen(x, TIMES)
    same(found, theil_sen(*fill_up(x, TIMES)))
    same(found, theil_sen(x, np.tile(TIMES, (len(x), 1))))


@few
@given(x=quarters())
def test_twice_the_values_have_twice_the_slope(x):
    one, two = mann_kendall(x, TIMES), mann_kendall(2 * x, TIMES)
    for name in ("slope", "intercept", "slope_lo", "slope_hi"):
        np.testing.assert_array_equal(2 * np.asarray(getattr(one, name)), getattr(two, name))
    for name in ("p", "z", "s", "n", "code"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("method", METHODS)
def test_float32_is_float64_to_1e_5(method):
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(60, T)) + 0.1 * TIMES).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    compute = functools.partial(mann_kendall, method=method)
    single = fives(compute, x)
    with jax.enable_x64(True):
        double = fives(compute, x.astype(float), TIMES.astype(float))
    turned = ~np.isclose(single.var_s, double.var_s, rtol=1e-4, equal_nan=True)
    assert method != "hamed_rao" or turned.mean() <= 0.1
    for name in ("slope", "intercept", "p", "tau", "slope_lo", "slope_hi"):
        a, b = np.asarray(getattr(single, name), float), np.asarray(getattr(double, name))
        off = np.abs(a - b) > 1e-5
        if method == "hamed_rao" and name in ("p", "slope_lo", "slope_hi"):
            # The two observations of the median slope tie once it is removed: a bit decides the
            # variance, and what follows from it.
            off &= ~turned
        assert not off.any(), name
    np.testing.assert_array_equal(single.code, double.code)


def test_every_pixel_without_an_answer_has_a_code():
    rows = {
        Code.OK: np.arange(T) % 5,
        Code.TOO_FEW: np.where(np.arange(T) < 3, np.arange(T), np.nan),
        Code.CONSTANT: np.full(T, 0.3),
        Code.ALL_MASKED: np.full(T, np.nan),
    }
    x = np.stack([*rows.values(), rows[Code.OK]]).astype(np.float32)
    for compute in (mann_kendall, functools.partial(mann_kendall, method="trend_free")):
        found = jax.tree.map(lambda a: a[:4], compute(x, TIMES))
        assert np.asarray(found.code).tolist() == [int(code) for code in rows]
        for leaf, field in zip(jax.tree.leaves(found), found.__dataclass_fields__, strict=True):
            if field not in ("n", "code"):
                assert np.isnan(np.asarray(leaf)[1:]).all(), field
                assert np.isfinite(np.asarray(leaf)[0]), field
    grouped = mann_kendall_grouped(fold(x[:4], 2), correlated=True)
    assert np.asarray(grouped.code).tolist() == [int(code) for code in rows]


def test_all_observations_at_one_time_are_too_few():
    found = theil_sen(np.tile(TIMES, (5, 1)), np.zeros(T, np.float32))
    assert (int(found.code[0]), np.isnan(found.slope[0])) == (Code.TOO_FEW, True)


def test_slopes_beyond_the_largest_number_do_not_converge():
    """Where most differences overflow, so does the median: no answer, and a code for it."""
    x = np.repeat(np.float32([-3e38, 3e38]), T // 2)
    found = theil_sen(np.stack([x, TIMES, x, TIMES, x]), TIMES)
    assert np.asarray(found.code)[:2].tolist() == [Code.NOT_CONVERGED, Code.OK]
    assert np.isnan(found.slope[0])


def test_a_corrected_variance_that_is_not_positive_is_undefined():
    x = np.array([[0, 1] * 7], np.float32) + 0.01 * TIMES**2
    found = mann_kendall(x, TIMES, method="yue_wang", lags=1)
    assert int(found.code[0]) == Code.UNDEFINED
    assert np.isnan(found.p[0])
    assert np.isfinite(found.slope[0])


def test_any_number_of_pixels_and_dates_by_one_program():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, T)).astype(np.float32)
    whole = fives(mann_kendall, x)
    kept = jax.tree.map(lambda a: a[:18], whole)  # the last piece is not full
    same(in_pieces(mann_kendall, x[:18], TIMES, pixels=5, threads=2), kept)
    shapes = set()

    def seen(values, times, mask):
        shapes.add((values.shape, times.shape, None if mask is None else mask.shape))
        return theil_sen(values, times, mask)

    for pixels in (1, 5, 17):
        for length in (13, 14, 15, 16):
            in_pieces(seen, x[:1].repeat(pixels, 0)[:, :1].repeat(length, 1),
                      np.arange(length, dtype=np.float32), pixels=5)  # fmt: skip
    assert len(shapes) == 1
    empty = in_pieces(mann_kendall, x[:0], TIMES, pixels=5)
    assert empty.p.shape == (0,)


def test_nothing_of_all_pairs_is_stored():
    """Temporary memory of a pass: a few blocks, not T^2."""
    rows = 241
    x = jax.ShapeDtypeStruct((rows, 1, 8), np.float32)
    t = jax.ShapeDtypeStruct((rows, 1, 1), np.float32)
    m = jax.ShapeDtypeStruct((8,), np.float32)
    run = jax.jit(lambda x, t, m: slope_measure(x, t)(m))
    memory = run.lower(x, t, m).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * rows * 8 * 4


def test_buckets_hold_and_waste_little():
    sizes = [bucket(n) for n in range(1, 2000)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert all(size <= 1.2 * n + 3 for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 70


def test_without_tests_there_is_no_discovery():
    q, kept = false_discovery(np.full((3, 4), np.nan, np.float32))
    assert np.isnan(np.asarray(q)).all()
    assert not np.asarray(kept).any()


X = np.zeros((2, T), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: theil_sen(X[0], TIMES), DataError, "axes"),
        (lambda: theil_sen(X.astype(int), TIMES), DataError, "float32 or float64"),
        (lambda: theil_sen(X, TIMES[1:]), DataError, "times do not fit"),
        (lambda: theil_sen(X, TIMES.astype("M8[D]")), DataError, "decimal_years"),
        (lambda: theil_sen(X, TIMES, X), DataError, "mask"),
        (lambda: theil_sen(X.astype(float), TIMES), DataError, "enable_x64"),
        (lambda: theil_sen(X, TIMES, alpha=1.0), ConfigError, "alpha"),
        (lambda: theil_sen(X, TIMES, least=1), ConfigError, "least"),
        (lambda: mann_kendall(X, TIMES, method="other"), ConfigError, "hamed_rao"),
        (lambda: mann_kendall(X, TIMES, detrend="other"), ConfigError, "order"),
        (lambda: mann_kendall(X, TIMES, lags=2), ConfigError, "lags"),
        (lambda: mann_kendall_grouped(X), DataError, "cycles"),
        (lambda: mann_kendall_grouped(fold(X, 2), after=(0.0,)), ConfigError, "after"),
        (lambda: fold(X, 0), ConfigError, "period"),
        (lambda: false_discovery(X, 0.0), ConfigError, "alpha"),
        (lambda: in_pieces(theil_sen, X, TIMES, pixels=0), ConfigError, "pixels=0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(untyped, call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
