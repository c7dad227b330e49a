"""Intervals hold what they promise, and a fold never calibrates itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rsvlm_jax.config import DataError
from rsvlm_jax.evaluate.conformal import (
    cross_conformal,
    cross_crps,
    cross_quantiles,
    interval,
    likelihood_ratio,
    quantile,
    split_conformal,
    split_quantiles,
)
from rsvlm_jax.metrics import crps_empirical, ratio
from rsvlm_jax.metrics.conformal import CalibrationWarning, check_size, thresholds


def assert_share(hits: np.ndarray, expected: float) -> None:
    """Independent hits agree with a share: it lies in their 99.9 % Clopper-Pearson interval."""
    found = binomtest(int(hits.sum()), hits.size).proportion_ci(0.999)
    assert found.low <= expected <= found.high, (hits.mean(), expected)


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
    y = np.array([0.0, 1.0, np.nan] * 40)
    lo, hi, scores = cross_conformal(y, np.zeros(120), None, np.arange(120) % 4, 0.1)
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


# ---- split calibration: every trial has its own calibration set and one new row -----------------

TRIALS = 1500


def noisy(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Targets around 0 whose spread grows with x: where x is large, errors are."""
    return (0.2 + x) * rng.normal(size=x.shape)


def covered(ends: tuple[np.ndarray, np.ndarray], y: np.ndarray) -> bool:
    return bool((ends[0] <= y).all() and (y <= ends[1]).all())


@pytest.mark.parametrize("scaled", [False, True])
def test_split_calibration_covers_what_it_says(scaled):
    rng = np.random.default_rng(11)
    hits = np.empty(TRIALS, bool)
    for i in range(TRIALS):
        x = rng.uniform(size=100)
        y = noisy(rng, x)
        scale = (1 + x[:99], 1 + x[99:]) if scaled else None
        ends = split_conformal(y[:99], (np.zeros(99), np.zeros(1)), scale, 0.1)
        hits[i] = covered(ends, y[99:])
    assert_share(hits, 0.9)  # exactly, for 99 samples


def test_each_stratum_is_covered_by_its_own_errors_and_all_together_only_in_the_mean():
    rng = np.random.default_rng(12)
    own, pooled = np.empty((TRIALS, 2), bool), np.empty((TRIALS, 2), bool)
    zeros, new = np.zeros(118), np.array([0, 1])
    for i in range(TRIALS):
        forest = np.repeat([0, 1], 59)
        y, new_y = (np.where(f, 5.0, 1.0) * rng.normal(size=len(f)) for f in (forest, new))
        of = zeros, np.zeros(2)
        ends = split_conformal(y, of, None, 0.1, stratum=(forest, new))
        own[i] = (ends[0] <= new_y) & (new_y <= ends[1])
        ends = split_conformal(y, of, None, 0.1)
        pooled[i] = (ends[0] <= new_y) & (new_y <= ends[1])
    assert_share(own[:, 0], 0.9)
    assert_share(own[:, 1], 0.9)
    assert pooled[:, 0].mean() > 0.98
    assert pooled[:, 1].mean() < 0.85


def test_known_likelihood_ratios_cover_a_shifted_place_and_no_weights_do_not():
    rng = np.random.default_rng(13)
    weighted, plain = np.empty(TRIALS, bool), np.empty(TRIALS, bool)
    for i in range(TRIALS):
        x, new = rng.uniform(size=300), rng.beta(3, 1, 1)  # density ratio 3 x^2
        y, new_y = noisy(rng, x), noisy(rng, new)
        of = np.zeros(300), np.zeros(1)
        ends = split_conformal(y, of, None, 0.1, weight=(x**2, new**2))
        weighted[i] = covered(ends, new_y)
        plain[i] = covered(split_conformal(y, of, None, 0.1), new_y)
    # At least 1 - alpha, and by theory little above it where no single weight is large.
    assert binomtest(int(weighted.sum()), TRIALS, 0.9, alternative="less").pvalue > 1e-3
    assert weighted.mean() < 0.925
    assert plain.mean() < 0.86


def test_a_classifier_finds_the_likelihood_ratio_of_a_shifted_place():
    rng = np.random.default_rng(14)
    shift, hits = np.array([0.8, 0.0]), np.empty((60, 40), bool)
    for i in range(len(hits)):
        x, new = rng.normal(size=(800, 2)), rng.normal(size=(40, 2)) + shift
        y, new_y = (np.exp(0.6 * a[:, 0]) * rng.normal(size=len(a)) for a in (x, new))
        weight = likelihood_ratio(x, np.concatenate([new, rng.normal(size=(760, 2)) + shift]))
        of = weight[0], weight[1][:40]
        low, high = split_conformal(y, (np.zeros(800), np.zeros(40)), None, 0.1, weight=of)
        hits[i] = (low <= new_y) & (new_y <= high)
    true = np.exp(x @ shift)
    assert np.corrcoef(np.log(weight[0]), np.log(true))[0, 1] > 0.95
    # The trials are independent, the new rows of one trial are not.
    error = hits.mean(axis=1).std(ddof=1) / np.sqrt(len(hits))
    assert abs(hits.mean() - 0.9) < 3.3 * error


@pytest.mark.parametrize("claimed", [0.3, 3.0])
def test_a_quantile_head_that_is_too_sure_or_too_unsure_is_put_right(claimed):
    rng = np.random.default_rng(15)
    hits, width = np.empty(TRIALS, bool), np.empty(TRIALS)
    for i in range(TRIALS):
        x = rng.uniform(size=100)
        y, end = noisy(rng, x), claimed * (0.2 + x)
        ends = split_quantiles(y[:99], (-end[:99], -end[99:]), (end[:99], end[99:]), 0.1)
        hits[i], width[i] = covered(ends, y[99:]), float(ends[1][0] - ends[0][0])
    assert_share(hits, 0.9)
    assert (width >= 0).all()


def test_equal_weights_are_no_weights_at_every_level():
    rng = np.random.default_rng(0)
    for n in (19, 50, 99, 100):
        scores = rng.normal(size=n)
        for alpha in (0.05, 0.1, 0.2, 0.5):
            ones = np.full(n, 3.0), np.full(2, 3.0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                found = thresholds(scores, alpha, 2, weight=ones)
            np.testing.assert_array_equal(found, quantile(scores, alpha))


def test_ends_that_would_cross_meet_in_the_middle():
    y = np.full(60, 5.0)
    low, high = np.full(60, 0.0), np.full(60, 10.0)
    ends = split_quantiles(y, (low, np.array([4.0])), (high, np.array([5.0])), 0.1, (0.0, 4.2))
    assert [float(e[0]) for e in ends] == [4.2, 4.2]


def test_quantile_heads_across_folds_take_the_scores_of_the_others():
    rng = np.random.default_rng(2)
    y, fold = rng.normal(size=400), np.arange(400) % 4
    lo, hi = np.full(400, -0.5), np.full(400, 0.5)
    found = cross_quantiles(y, lo, hi, fold, 0.1)
    here = fold == 1
    alone = split_quantiles(y[~here], (lo[~here], lo[here]), (hi[~here], hi[here]), 0.1)
    for a, b in zip(found, alone, strict=True):
        np.testing.assert_array_equal(a[here], b)
    assert np.mean((found[0] <= y) & (y <= found[1])) == pytest.approx(0.9, abs=0.02)


def test_bad_input_across_folds_too_few_scores_are_refused_and_few_are_told():
    y, fold = np.random.default_rng(0).normal(size=40), np.arange(40) % 2
    ends, few = (np.full(40, -1.0), np.full(40, 1.0)), r"20 calibration samples"
    with pytest.warns(CalibrationWarning, match=few):
        cross_conformal(y, np.zeros(40), None, fold, 0.1)
    with pytest.warns(CalibrationWarning, match=few):
        cross_quantiles(y, *ends, fold, 0.1)
    with pytest.raises(DataError, match=r"too few .* other folds; expected at least 9 for 90 %"):
        cross_conformal(y[:6], np.zeros(6), None, fold[:6], 0.1)
    with pytest.raises(DataError, match=r"too few .* other folds"):
        cross_quantiles(y[:6], ends[0][:6], ends[1][:6], fold[:6], 0.1)


def test_bad_input_infinite_observations_and_predictions_that_are_none():
    y, held = np.zeros(60), np.zeros(60)
    with pytest.raises(DataError, match=r"calibrate nothing .* found 1 infinite observations, 0 "):
        split_conformal(np.append(y[1:], np.inf), (held, held), None, 0.1)
    with pytest.raises(DataError, match=r"found 0 infinite observations, 2 predictions"):
        split_conformal(y, (np.append(held[1:], np.nan), np.append(held[1:], np.nan)), None, 0.1)


# ---- what cannot be calibrated -------------------------------------------------------------------


@pytest.mark.parametrize(("n", "alpha"), [(8, 0.1), (18, 0.05), (98, 0.01), (0, 0.5)])
def test_fewer_samples_than_the_level_allows_are_refused(n, alpha):
    words = rf"too few calibration samples .* at least {max(n + 1, 1)} for .* found {n}"
    with pytest.raises(DataError, match=words):
        check_size(n, alpha)
    with pytest.raises(DataError, match=words):
        split_conformal(np.zeros(n), (np.zeros(n), np.zeros(1)), None, alpha)


def test_fewer_than_fifty_samples_are_warned_of():
    with pytest.warns(CalibrationWarning, match=r"49 calibration samples \(at least 50"):
        split_conformal(np.zeros(49), (np.zeros(49), np.zeros(1)), None, 0.1)
    split_conformal(np.zeros(50), (np.zeros(50), np.zeros(1)), None, 0.1)


def test_a_stratum_that_was_never_held_out_is_refused_by_name():
    labels = np.repeat(["a", "b"], 60), np.array(["a", "c"])
    with pytest.raises(DataError, match=r"calibration, stratum c; expected at least 9 .* found 0"):
        split_conformal(np.zeros(120), (np.zeros(120), np.zeros(2)), None, 0.1, stratum=labels)


def test_a_row_unlike_all_that_was_held_out_has_no_end():
    of, unlike = (np.zeros(100), np.zeros(2)), (np.ones(100), np.array([1.0, 50.0]))
    ends = split_conformal(np.ones(100), of, None, 0.1, (0.0, 9.0), weight=unlike)
    np.testing.assert_array_equal(ends[1], [1.0, 9.0])
    weight = np.where(np.arange(100) == 0, 1.0, 1e-9), np.ones(2)
    with pytest.warns(CalibrationWarning, match="100 samples the worth of 1.0"):
        split_conformal(np.ones(100), of, None, 0.6, weight=weight)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ((-np.ones(60), np.ones(1)), "no likelihood ratios .* 60 others"),
        ((np.zeros(60), np.zeros(1)), "not all 0; found all 0"),
        ((np.full(60, np.nan), np.ones(1)), "60 others"),
        ((np.ones(59), np.ones(1)), r"a weight for other rows .*\(59,\)"),
    ],
)
def test_weights_that_are_none_are_refused(weight, words):
    with pytest.raises(DataError, match=words):
        split_conformal(np.zeros(60), (np.zeros(60), np.zeros(1)), None, 0.1, weight=weight)


@pytest.mark.parametrize(
    ("held", "new", "words"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), r"do not fit together .*\(5, 2\) and \(5, 3\)"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), "cannot be compared .* 10 not finite"),
        (np.zeros((0, 2)), np.zeros((5, 2)), "0 and 5 rows"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(held, new, words):
    with pytest.raises(DataError, match=words):
        likelihood_ratio(held, new)
