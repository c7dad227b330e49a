"""The Gaussian predictive against SciPy, in target units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rsvlm_jax.models.heads import Gaussian

MEAN, STD, LOC, SCALE = 4.0, 0.5, 0.3, 0.8


def gaussian(transform, low=-np.inf, high=np.inf, loc=LOC) -> Gaussian:
    one = lambda x: jnp.asarray([x], jnp.float32)  # noqa: E731
    return Gaussian(
        loc=one(loc)[None],
        scale=one(SCALE)[None],
        target_mean=one(MEAN),
        target_std=one(STD),
        low=one(low),
        high=one(high),
        transform=transform,
    )


def reference(transform):
    mean, std = LOC * STD + MEAN, SCALE * STD
    if transform == "zscore":
        return stats.norm(mean, std)
    return stats.lognorm(s=std, scale=np.exp(mean), loc=-1)


TRANSFORMS = pytest.mark.parametrize("transform", ["zscore", "log1p"])


@TRANSFORMS
def test_moments_and_quantiles(transform):
    made, expected = gaussian(transform), reference(transform)
    np.testing.assert_allclose(made.mean[0, 0], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(made.median[0, 0], expected.median(), rtol=1e-5)
    for q in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(made.quantile(q)[0, 0], expected.ppf(q), rtol=1e-5)


@TRANSFORMS
@pytest.mark.parametrize("y", [3.0, 4.2, 60.0])
def test_nll_is_that_of_the_target_units(transform, y):
    found = gaussian(transform).nll(jnp.asarray([[y]], jnp.float32))
    np.testing.assert_allclose(found[0, 0], -reference(transform).logpdf(y), rtol=1e-4)


@TRANSFORMS
def test_samples_have_the_distribution(transform):
    draws = gaussian(transform).sample(jax.random.key(0), 4000)
    assert draws.shape == (4000, 1, 1)
    assert stats.kstest(np.ravel(draws), reference(transform).cdf).pvalue > 1e-3


@TRANSFORMS
def test_bounds_hold_and_keep_inner_quantiles_exact(transform):
    free = gaussian(transform)
    low, high = float(free.quantile(0.2)[0, 0]), float(free.quantile(0.8)[0, 0])
    made = gaussian(transform, low, high)
    for q in (0.01, 0.2, 0.35, 0.7, 0.8, 0.99):
        expected = np.clip(free.quantile(q), low, high)
        np.testing.assert_array_equal(made.quantile(q), expected)
    draws = made.sample(jax.random.key(0), 200)
    assert low <= draws.min() <= draws.max() <= high
    assert gaussian(transform, -1, low).mean[0, 0] == np.float32(low)


@TRANSFORMS
def test_standardise_undoes_the_target_units(transform):
    made = gaussian(transform)
    np.testing.assert_allclose(made.standardise(made.median), made.loc, atol=1e-5)


@TRANSFORMS
def test_passes_through_jit_and_vmap(transform):
    made = jax.jit(lambda x: gaussian(transform, loc=x))(0.3)
    assert made.transform == transform
    np.testing.assert_allclose(made.mean, gaussian(transform).mean, rtol=1e-6)
