"""Scores of intervals and distributions against brute force and closed forms."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from rsvlm_jax.metrics import (
    binomial_interval,
    crps_empirical,
    crps_gaussian,
    crps_quantiles,
    interval_score,
    picp,
    pinball,
    ratio,
    width,
)

LIBRARIES = pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])


def value(pair) -> float:
    return float(ratio(pair))


@LIBRARIES
def test_coverage_and_width_count_ends_as_inside_and_skip_gaps(library):
    y = library.asarray(np.array([0.0, 1.0, 2.0, np.nan, 9.0], np.float32))
    lo = library.asarray(np.array([0.0, 0.0, 2.5, 0.0, np.nan], np.float32))
    hi = library.asarray(np.array([1.0, 1.0, 3.0, 1.0, np.nan], np.float32))
    keep = library.asarray(np.array([True, True, True, True, False]))
    hits, n = picp(y, lo, hi, keep)
    assert (float(hits), float(n)) == (2.0, 3.0)
    assert value(width(lo, hi, keep & ~library.isnan(y))) == pytest.approx(2.5 / 3)


@LIBRARIES
def test_interval_score_by_hand(library):
    y, lo, hi = (library.asarray(np.array(a, np.float32)) for a in ([5, -1], [0, 0], [2, 2]))
    # (2 + 20 * 3 + 2 + 20 * 1) / 2 at alpha = 0.1
    assert value(interval_score(y, lo, hi, 0.1)) == pytest.approx(42.0)


@LIBRARIES
def test_gaussian_crps_is_the_integral_of_its_definition(library):
    y, mean, scale = (
        np.array([0.3, -2.0, 5.0]),
        np.array([0.0, 1.0, 4.0]),
        np.array([1.0, 0.5, 2.0]),
    )

    def integral(y, m, s):
        left = quad(lambda x: norm.cdf(x, m, s) ** 2, -30, y)[0]
        return left + quad(lambda x: norm.sf(x, m, s) ** 2, y, 40)[0]

    expected = np.mean([integral(*row) for row in zip(y, mean, scale, strict=True)])
    f = [library.asarray(a.astype(np.float32)) for a in (y, mean, scale)]
    assert value(crps_gaussian(*f)) == pytest.approx(expected, rel=1e-5)


@LIBRARIES
def test_a_spread_of_zero_scores_the_absolute_error(library):
    y, m, s = (library.asarray(np.array(a, np.float32)) for a in ([1, 3], [2, 3], [0, 0]))
    assert value(crps_gaussian(y, m, s)) == pytest.approx(0.5)


@given(
    y=st.floats(-5, 5),
    samples=st.lists(st.floats(-5, 5), min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_empirical_crps_is_the_energy_form(y, samples):
    x = np.array(samples)
    expected = np.abs(x - y).mean() - np.abs(x[:, None] - x[None]).mean() / 2
    found = value(crps_empirical(np.array([y]), x[None]))
    assert found == pytest.approx(expected, abs=1e-9)
    assert found >= -1e-12


@LIBRARIES
def test_empirical_and_quantile_crps_approach_the_closed_form(library):
    levels = (np.arange(400) + 0.5) / 400
    y = np.array([0.5, 2.0], np.float32)
    q = np.broadcast_to(norm.ppf(levels), (2, 400)).astype(np.float32)
    exact = value(crps_gaussian(y, np.zeros(2), np.ones(2)))
    assert value(crps_empirical(library.asarray(y), library.asarray(q))) == pytest.approx(
        exact, rel=5e-3
    )
    assert value(
        crps_quantiles(library.asarray(y), library.asarray(q), list(levels))
    ) == pytest.approx(exact, rel=5e-3)


def test_quantile_crps_refuses_uneven_levels():
    with pytest.raises(ValueError, match="levels must be"):
        crps_quantiles(np.zeros(1), np.zeros((1, 2)), [0.05, 0.95])


def test_pinball_is_least_at_the_true_quantile():
    y = np.random.default_rng(0).exponential(size=4000)
    scores = [
        value(pinball(y, np.full((4000, 1), q), [0.8])) for q in np.quantile(y, [0.7, 0.8, 0.9])
    ]
    assert scores[1] == min(scores)


@pytest.mark.parametrize("score", [crps_gaussian, picp])
def test_parts_of_a_score_add_up(score):
    rng = np.random.default_rng(1)
    y, a, b = rng.normal(size=(3, 40))
    b = a + np.abs(b) + 0.1
    whole, weight = score(y, a, b)
    parts = [score(y[s], a[s], b[s]) for s in (slice(0, 7), slice(7, 40))]
    assert sum(p[0] for p in parts) == pytest.approx(whole)
    assert sum(p[1] for p in parts) == weight == 40


@pytest.mark.parametrize(("k", "n"), [(0, 10), (9, 10), (130, 143), (10, 10)])
def test_binomial_interval_is_clopper_pearson(k, n):
    low, high = binomial_interval(k, n)
    # By definition: at each end the observed count is just in a 2.5 % tail.
    if k > 0:
        assert binom.sf(k - 1, n, low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0.0
    if k < n:
        assert binom.cdf(k, n, high) == pytest.approx(0.025, rel=1e-6)
    else:
        assert high == 1.0


def test_binomial_interval_of_nothing_is_nan():
    assert np.isnan(binomial_interval(0, 0)).all()
