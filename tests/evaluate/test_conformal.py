"""Intervals hold what they promise, and a fold never calibrates itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import DataError
from rsvlm_jax.evaluate.conformal import cross_conformal, cross_crps, interval, quantile
from rsvlm_jax.metrics import crps_empirical, ratio


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [(9, 0.1, 9), (19, 0.1, 18), (99, 0.1, 90), (100, 0.1, 91), (19, 0.5, 10), (4, 0.2, 4)],
)
def test_quantile_is_the_finite_sample_one(n, alpha, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert quantile(scores, alpha) == rank


def test_too_few_scores_promise_nothing():
    assert quantile(np.arange(8.0), 0.1) == np.inf
    lo, hi = interval(np.array([0.5]), None, np.arange(8.0), 0.1, (0.0, 1.0))
    assert (lo[0], hi[0]) == (0.0, 1.0)


def test_alpha_must_be_a_share():
    with pytest.raises(DataError, match=r"not a share in alpha; expected 0 < alpha < 1; found 90"):
        quantile(np.ones(3), 90.0)


@given(seed=st.integers(0, 2**16), alpha=st.sampled_from([0.05, 0.1, 0.2, 0.5]))
@settings(max_examples=40, deadline=None)
def test_scores_of_a_sample_are_covered_by_their_own_quantile(seed, alpha):
    rng = np.random.default_rng(seed)
    y, mean = rng.normal(size=(2, 60))
    scale = rng.uniform(0.5, 2, 60)
    lo, hi = interval(mean, scale, np.abs(y - mean) / scale, alpha)
    assert np.mean((lo <= y) & (y <= hi)) >= 1 - alpha


def test_cross_conformal_coverage_is_nominal_on_exchangeable_folds():
    rng = np.random.default_rng(3)
    n = 5000
    scale = rng.uniform(0.2, 2.0, n)
    y = scale * rng.normal(size=n)
    fold = rng.integers(0, 5, n)
    lo, hi, _ = cross_conformal(y, np.zeros(n), scale, fold, 0.1)
    inside = (lo <= y) & (y <= hi)
    assert inside.mean() == pytest.approx(0.9, abs=0.015)
    # Normalised: coverage is as good where the noise is small as where it is large.
    assert inside[scale < 0.5].mean() == pytest.approx(0.9, abs=0.03)
    lo, hi, _ = cross_conformal(y, np.zeros(n), None, fold, 0.1)
    inside = (lo <= y) & (y <= hi)
    assert inside.mean() == pytest.approx(0.9, abs=0.015)
    assert inside[scale < 0.5].mean() > 0.97


def test_a_fold_takes_no_part_in_its_own_calibration():
    rng = np.random.default_rng(0)
    y, fold = rng.normal(size=100), np.repeat(np.arange(5), 20)
    _, hi, scores = cross_conformal(y, np.zeros(100), None, fold, 0.1)
    far = np.where(fold == 2, y * 1000, y)
    _, hi2, scores2 = cross_conformal(far, np.zeros(100), None, fold, 0.1)
    np.testing.assert_array_equal(hi[fold == 2], hi2[fold == 2])
    assert (hi2[fold != 2] > hi[fold != 2]).all()
    np.testing.assert_array_equal(scores[fold != 2], scores2[fold != 2])


def test_ends_are_clipped_to_the_bounds_and_nan_stays_nan():
    mean = np.array([[0.05, 0.5], [0.99, np.nan]], np.float32)
    lo, hi = interval(mean, None, np.full(30, 0.2), 0.1, (0.0, 1.0))
    np.testing.assert_allclose(lo, [[0.0, 0.3], [0.79, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(hi, [[0.25, 0.7], [1.0, np.nan]], rtol=1e-6)
    assert lo.dtype == hi.dtype == np.float32


def test_unknown_targets_get_an_interval_and_give_no_score():
    y = np.array([0.0, 1.0, np.nan] * 20)
    lo, hi, scores = cross_conformal(y, np.zeros(60), None, np.arange(60) % 4, 0.1)
    assert np.isfinite(lo).all()
    assert np.isfinite(hi).all()
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(y))


def test_one_fold_is_refused():
    with pytest.raises(DataError, match=r"no other fold .* at least 2 folds; found 1"):
        cross_conformal(np.ones(9), np.ones(9), None, np.zeros(9, int), 0.1)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_a_spread_that_is_not_positive_is_refused(bad):
    scale = np.array([1.0, bad, 1.0])
    with pytest.raises(
        DataError, match=r"spread is not positive in scale; expected > 0; found 1 of 3"
    ):
        interval(np.zeros(3), scale, np.ones(30), 0.1)


def test_lengths_must_agree():
    with pytest.raises(DataError, match=r"do not fit together.*\(3,\), \(4,\), \(3,\)"):
        cross_conformal(np.ones(3), np.ones(4), None, np.arange(3), 0.1)


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.5)])
def test_cross_crps_is_the_empirical_crps_of_the_other_folds(bounds):
    rng = np.random.default_rng(5)
    y, mean = rng.normal(size=(2, 40))
    y = np.clip(y, -1, 1.5)
    scale, fold = rng.uniform(0.5, 2, 40), np.arange(40) % 4
    found = cross_crps(y, mean, scale, fold, bounds)
    for i in (0, 13, 39):
        s = ((y - mean) / scale)[fold != fold[i]]
        x = mean[i] + scale[i] * s
        x = x if bounds is None else np.clip(x, *bounds)
        assert found[i] == pytest.approx(float(ratio(crps_empirical(y[i : i + 1], x[None]))))


def test_a_spread_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"another shape .* expected \(3,\); found \(1,\)"):
        interval(np.zeros(3), np.ones(1), np.ones(30), 0.1)
