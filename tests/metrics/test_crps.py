"""CRPS of known distributions against the integral that defines it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rsvlm_jax.metrics import Tail, crps_chain, crps_gaussian, crps_laplace, crps_normal, ratio

X = np.linspace(-40, 60, 400001)
Y = np.array([0.3, -2.0, 5.0, 11.0])
LOC, SCALE = np.array([0.0, 1.0, 4.0, 2.0]), np.array([1.0, 0.5, 2.0, 3.0])
BOUNDS = [(-np.inf, np.inf), (0.0, np.inf), (-1.0, 6.0)]
LIBRARIES = pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])


def integral(y: float, below: np.ndarray, low: float, high: float) -> float:
    """By its definition, of a distribution function given at `X`."""
    below = np.where(low > X, 0.0, np.where(high <= X, 1.0, below))
    return float(np.trapezoid((below - (y <= X)) ** 2, X))


@LIBRARIES
@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize(
    ("score", "law"), [(crps_normal, stats.norm), (crps_laplace, stats.laplace)]
)
def test_closed_forms_are_the_integral_also_between_bounds(library, low, high, score, law):
    expected = [
        integral(y, law.cdf(X, m, s), low, high) for y, m, s in zip(Y, LOC, SCALE, strict=True)
    ]
    found = score(*(library.asarray(a.astype(np.float32)) for a in (Y, LOC, SCALE)), low, high)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_of_a_normal_distribution_it_is_the_mean_that_is_known():
    expected = ratio(crps_gaussian(Y, LOC, SCALE))
    assert crps_normal(Y, LOC, SCALE).mean() == pytest.approx(float(expected), rel=1e-12)


@LIBRARIES
@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("mass", [0.0, 0.1])
def test_a_chain_is_the_integral_with_its_tails_and_between_bounds(library, low, high, mass):
    knots = np.array([[-1.0, 0.0, 0.5, 7.0], [2.0, 2.0, 3.0, 4.0], [1.0, 4.0, 5.0, 6.0],
                      [-3.0, -1.0, 8.0, 9.0]])  # fmt: skip
    below = np.tile([mass, 0.3, 0.8, 1 - mass], (4, 1))
    length = np.array([0.5, 1.0, 2.0, 3.0])

    def cdf(i: int) -> np.ndarray:
        # Of two knots in one place the later counts from there on.
        inner = np.interp(X, knots[i] + 1e-9 * np.arange(4), below[i], left=0, right=1)
        if not mass:
            return inner
        first = mass * np.exp(np.minimum(X - knots[i, 0], 0) / length[i])
        last = 1 - mass * np.exp(-np.maximum(X - knots[i, -1], 0) / length[i])
        return np.where(knots[i, 0] > X, first, np.where(knots[i, -1] < X, last, inner))

    expected = [integral(y, cdf(i), low, high) for i, y in enumerate(Y)]
    given = [library.asarray(a.astype(np.float32)) for a in (Y, knots, below)]
    tail = Tail(mass, library.asarray(length.astype(np.float32)))
    found = crps_chain(*given, (tail, tail), low, high)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=3e-4)


def test_a_point_scores_the_absolute_error():
    y = np.array([1.0, 3.0])
    found = crps_chain(y, np.array([[2.0, 2.0], [3.0, 3.0]]), np.array([[0.0, 1.0]] * 2))
    np.testing.assert_allclose(found, [1.0, 0.0])
