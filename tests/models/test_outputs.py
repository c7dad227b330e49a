"""Every output of a head as a distribution: masses, quantiles, mean, draws and density agree."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import FAST
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rsvlm_jax.config import HeadConfig
from rsvlm_jax.models.heads import Histogram, Laplace, Ordinal, Quantiles
from rsvlm_jax.models.heads.outputs import distribution, has_bins, numbers
from rsvlm_jax.models.heads.predictive import forward
from rsvlm_jax.models.heads.support import ranges_of, support_of

OUTPUTS = ("gaussian", "laplace", "quantiles", "histogram", "ordinal")
B, K = 3, 2
LEVELS = np.linspace(0.003, 0.997, 61)
STEP = 1e-3
DENSE = (np.arange(1000) + 0.5) / 1000
BOUNDS = 1.8, 2.3
Y = jnp.asarray([[1.5, 2.2], [2.0, 2.6], [3.0, -1.0]])
TRAINING = np.random.default_rng(7).normal(size=(K, 500))


def config(output: str, transform: str = "zscore") -> HeadConfig:
    return HeadConfig(output=output, transform=transform, bins=12, targets=K)


def made(raw, output: str, transform: str = "zscore", std: float = 0.3):
    of = config(output, transform)
    line = lambda x: jnp.full((K,), x, jnp.float32)  # noqa: E731
    units = {
        "target_mean": line(2.0), "target_std": line(std), "low": line(-jnp.inf),
        "high": line(jnp.inf), "transform": transform,
    }  # fmt: skip
    bins = None
    if has_bins(of):
        found = [support_of(z, of) for z in TRAINING]
        bins = tuple(jnp.asarray([getattr(f, n) for f in found], jnp.float32) for n in
                     ("edges", "share"))  # fmt: skip
    return distribution(raw, of, units, bins)


@functools.cache
def summary(output: str, transform: str):
    """One program: quantiles, their density and slope, mean, spread, draws; dense quantiles and the
    CRPS at `Y`, of the distribution and of the same between `BOUNDS`."""

    def read(raw, key):
        one = made(raw, output, transform)

        def at(q):
            y = one.quantile(q)
            slope = (one.quantile(q + STEP) - one.quantile(q - STEP)) / (2 * STEP)
            return y, one.nll(y), jnp.log(slope)

        found = jax.lax.map(at, jnp.asarray(LEVELS, jnp.float32))
        low, high = (jnp.full((K,), x) for x in BOUNDS)
        scores = one.crps(Y), dataclasses.replace(one, low=low, high=high).crps(Y)
        dense = jax.vmap(one.quantile)(jnp.asarray(DENSE, jnp.float32))
        return *found, one.mean, one.spread, one.sample(key, 2000), dense, scores

    return jax.jit(read, compiler_options=FAST)


def raw_of(seed: int, output: str, size: float = 1.0) -> jax.Array:
    shape = (B, K, numbers(config(output)))
    return jnp.asarray(size * np.random.default_rng(seed).normal(size=shape), jnp.float32)


EACH = pytest.mark.parametrize("output", OUTPUTS)
PAIRS = pytest.mark.parametrize(
    ("output", "transform"),
    [
        *((output, "zscore") for output in OUTPUTS),
        ("gaussian", "sqrt"),
        ("laplace", "asinh"),
        ("quantiles", "log1p"),
        ("histogram", "sqrt"),
        ("ordinal", "asinh"),
    ],
)


@PAIRS
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([0.1, 1.0, 3.0]))
def test_quantiles_rise_and_agree_with_density_mean_and_draws(output, transform, seed, size):
    raw = raw_of(seed, output, size)
    if output in ("gaussian", "laplace"):  # the mean of exp(u) is finite
        raw = jnp.clip(raw, -2, 2)
    *found, scores = summary(output, transform)(raw, jax.random.key(0))
    quantiles, nll, slope, mean, spread, draws, dense = map(np.asarray, found)
    span = quantiles[-1] - quantiles[0]
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=0) >= -1e-6 * span).all()
    assert (spread > 0).all()
    # The density is one over the slope of the quantiles; between pieces the slope is that of both.
    assert np.median(np.abs(nll - slope), axis=0).max() < 0.05
    for b in range(B):
        for k in range(K):
            u = np.interp(draws[:, b, k], quantiles[:, b, k], LEVELS)
            assert stats.kstest(u, stats.uniform.cdf).statistic < 0.06
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * error + 1e-4 * span).all()
    # The CRPS is twice the pinball loss over all levels.
    for score, q in zip(scores, (dense, np.clip(dense, *BOUNDS)), strict=True):
        level, off = DENSE[:, None, None], np.asarray(Y)[None] - q
        expected = 2 * np.maximum(level * off, (level - 1) * off).mean(axis=0)
        np.testing.assert_allclose(score, expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("output", ["gaussian", "laplace"])
@pytest.mark.parametrize("transform", ["log1p", "sqrt", "asinh"])
def test_means_of_closed_form_are_those_of_the_quantiles(output, transform):
    one = made(jnp.asarray([[[-6.0, 0.2]] * K, [[-1.0, -1.0]] * K, [[1.0, 0.5]] * K]), output,
               transform)  # fmt: skip
    levels = jnp.asarray((np.arange(20000) + 0.5) / 20000, jnp.float32)
    expected = jax.jit(lambda q: jax.lax.map(one.free_quantile, q).mean(axis=0))(levels)
    np.testing.assert_allclose(one.free_mean(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("output", ["quantiles", "histogram", "ordinal"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([0.0, 1.0, 10.0, 60.0]))
def test_masses_sum_to_one_and_knots_rise(output, seed, size):
    one = made(raw_of(seed, output, size), output)
    total = np.exp(np.asarray(one.log_masses, np.float64)).sum(axis=-1) + sum(one.tails)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    assert (np.diff(one.knots, axis=-1) > 0).all()


@EACH
def test_an_untrained_output_is_the_training_distribution(output):
    one = made(jnp.zeros((B, K, numbers(config(output)))), output, std=2.0)
    # A Laplace distribution of scale 1 has a narrower middle and a larger deviation.
    wanted = {"laplace": 2.0 * 1.1479}.get(output, 2.0)
    np.testing.assert_allclose(one.spread, wanted, rtol=0.1)
    np.testing.assert_allclose(one.median, 2.0, atol=0.3)


@PAIRS
def test_the_score_pulls_towards_the_target(output, transform):
    """A few steps of gradient descent on raw numbers: the median goes to a constant target."""
    wanted = jnp.asarray([[1.5, 3.0]] * B, jnp.float32)

    def loss(raw):
        one = made(raw, output, transform, std=0.5)
        z = one.standardise(wanted)
        return (one.score(z) + 0.5 * jnp.square(one.point - z)).sum()

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(raw):
        return jax.lax.fori_loop(0, 300, lambda _, r: r - 0.1 * jax.grad(loss)(r), raw)

    raw = run(raw_of(0, output, 0.1))
    assert float(loss(raw)) < float(loss(raw_of(0, output, 0.1)))
    one = made(raw, output, transform, std=0.5)
    z = (np.asarray(forward(one.median, transform)) - 2.0) / 0.5
    aim = (np.asarray(forward(wanted, transform)) - 2.0) / 0.5
    lowest, highest = (-3.0, 3.0) if has_bins(config(output)) else (-np.inf, np.inf)
    assert np.abs(z - np.clip(aim, lowest, highest)).max() < 0.6


@EACH
def test_gradients_are_finite_beside_targets_that_are_not_numbers(output):
    y = jnp.asarray([[1.0, jnp.nan]] * B)

    def loss(raw):
        one = made(raw, output)
        valid = jnp.isfinite(y)
        z = one.standardise(jnp.where(valid, y, 0.0))
        return jnp.where(valid, one.score(z) + one.nll(jnp.where(valid, y, 0.0)), 0.0).sum()

    for size in (0.0, 1.0, 40.0):
        assert np.isfinite(jax.jit(jax.grad(loss))(raw_of(1, output, size))).all()


def test_laplace_against_scipy():
    one = made(jnp.asarray([[[0.3, 0.1]] * K] * B), "laplace")
    assert isinstance(one, Laplace)
    loc, scale = float(one.loc[0, 0]) * 0.3 + 2, float(one.scale[0, 0]) * 0.3
    expected = stats.laplace(loc, scale)
    for q in (0.01, 0.5, 0.9):
        np.testing.assert_allclose(one.quantile(q)[0, 0], expected.ppf(q), rtol=1e-5)
    found = one.nll(jnp.full((B, K), 2.5))
    np.testing.assert_allclose(found[0, 0], -expected.logpdf(2.5), rtol=1e-5)


def test_quantiles_are_interpolated_and_tails_go_on_with_their_slope():
    one = made(raw_of(3, "quantiles"), "quantiles")
    assert isinstance(one, Quantiles)
    values = np.asarray(one.values * 0.3 + 2.0)
    for i, level in enumerate(one.levels):
        np.testing.assert_allclose(one.quantile(level), values[..., i], rtol=1e-5)
    middle = (one.levels[3] + one.levels[4]) / 2
    np.testing.assert_allclose(one.quantile(middle), values[..., 3:5].mean(axis=-1), rtol=1e-5)
    first, step = one.levels[0], 1e-4
    inside = one.quantile(first + step) - one.quantile(first)
    outside = one.quantile(first) - one.quantile(first - step)
    np.testing.assert_allclose(inside, outside, rtol=0.05)
    tail = np.asarray(values[..., 0] - one.quantile(first / 10))
    slope = (values[..., 1] - values[..., 0]) / (one.levels[1] - first)
    np.testing.assert_allclose(tail, np.log(10) * first * slope, rtol=1e-3)


@pytest.mark.parametrize("z", [-50.0, -3.0, 0.0, 2.9, 50.0])
def test_what_a_histogram_learns_sums_to_one_also_outside_its_support(z):
    one = made(raw_of(0, "histogram"), "histogram")
    assert isinstance(one, Histogram)
    wanted = np.asarray(one.wanted(jnp.full((B, K), z)))
    np.testing.assert_allclose(wanted.sum(axis=-1), 1.0, rtol=1e-5)
    assert (wanted >= 0).all()
    edges = np.asarray(one.edges)
    centre, width = 0.5 * (edges[:, 1:] + edges[:, :-1]), edges[0, 1] - edges[0, 0]
    inside = np.clip(z, edges[:, 0] + width, edges[:, -1] - width)
    assert np.abs((wanted * centre).sum(axis=-1) - inside).max() < width
    assert np.isfinite(one.score(jnp.full((B, K), z))).all()


def test_ordinal_bins_hold_equal_shares_and_survive_ties():
    z = np.concatenate([np.zeros(400), np.random.default_rng(0).exponential(size=100)])
    z = (z - z.mean()) / z.std()
    found = support_of(z, config("ordinal"))
    assert (np.diff(found.edges) > 0).all()
    assert found.share.min() > 0
    plain = support_of(TRAINING[0], config("ordinal"))
    assert plain.share.max() < 2.5 * plain.share.min()
    one = made(jnp.zeros((B, K, numbers(config("ordinal")))), "ordinal")
    assert isinstance(one, Ordinal)
    share = np.asarray([support_of(z, config("ordinal")).share for z in TRAINING])
    np.testing.assert_allclose(np.exp(one.log_bins)[0], share, rtol=0.05)


def test_targets_outside_the_support_are_counted():
    z = np.concatenate([np.linspace(-1, 1, 9990), [40.0] * 3, [-40.0] * 2])
    assert support_of(z, config("histogram")).outside == 5
    assert support_of(np.linspace(-1, 1, 50), config("histogram")).outside == 0


def test_value_ranges_hold_equal_shares():
    edges = ranges_of(TRAINING[0], 4)
    count = np.histogram(TRAINING[0], [-np.inf, *edges, np.inf])[0]
    assert count.min() > 0.7 * count.max()
