"""Point metrics against scikit-learn and SciPy, and the promise that parts add up."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from rsvlm_jax.metrics import RegressionSums, by_bin, ratio, regression_sums, regression_table

NAMES = ("n", "rmse", "mae", "bias", "r2", "rrmse", "r")


def floats(table: dict) -> dict[str, float]:
    return {k: float(v) for k, v in table.items()}


def sample(n: int = 200, seed: int = 0, offset: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(offset, 2.0, n)
    return y, 0.8 * y + rng.normal(0.5, 1.0, n)


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("offset", [0.0, 3.0, 2000.0])
def test_agrees_with_scikit_learn_and_scipy(library, offset):
    y, p = (a.astype(np.float32) for a in sample(offset=offset))
    p = p + np.float32(0.2 * offset)  # undo the slope at the mean: a model, not nonsense
    found = floats(regression_table(library.asarray(y), library.asarray(p)))
    expected = {
        "n": 200,
        "rmse": root_mean_squared_error(y, p),
        "mae": mean_absolute_error(y, p),
        "bias": float(np.mean(p.astype(float) - y)),
        "r2": r2_score(y, p),
        "rrmse": root_mean_squared_error(y, p) / abs(float(np.mean(y, dtype=float))),
        "r": pearsonr(y.astype(float), p.astype(float)).statistic,
    }
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-5)


def test_bias_is_predicted_minus_observed():
    assert regression_table(np.array([1.0, 2.0]), np.array([2.0, 3.0]))["bias"] == 1.0


def test_r2_is_not_the_squared_correlation():
    y = np.arange(10.0)
    found = regression_table(y, 2 * y)
    assert found["r"] == pytest.approx(1.0)
    assert found["r2"] == pytest.approx(r2_score(y, 2 * y))
    assert found["r2"] < 0


@pytest.mark.parametrize("value", [0.1, 1.0, -7.3])
def test_constant_observations_have_no_r2(value):
    found = regression_table(np.full(7, value), np.linspace(0, 1, 7))
    assert np.isnan(found["r2"])
    assert np.isnan(found["r"])
    assert np.isfinite(found["rmse"])


def test_constant_predictions_have_r2_but_no_r():
    y, _ = sample()
    found = regression_table(y, np.full(y.shape, y.mean()))
    assert found["r2"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(found["r"])


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_values_are_nan_not_an_error(n):
    found = regression_table(np.ones(n), np.zeros(n))
    assert found["n"] == n
    assert np.isnan(found["r2"])
    assert np.isnan(found["rmse"]) == (n == 0)


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
def test_nan_targets_and_masked_values_take_no_part(library):
    y, p = sample(50)
    keep = np.arange(50) % 3 > 0
    gaps = np.where(np.arange(50) % 7 == 0, np.nan, y)
    rubbish = np.where(keep, p, np.nan)
    known = keep & np.isfinite(gaps)
    f = functools.partial(library.asarray, dtype=np.float32)
    found = regression_table(f(gaps), f(rubbish), library.asarray(keep))
    expected = regression_table(f(y[known]), f(p[known]))
    for k in NAMES:
        assert float(found[k]) == pytest.approx(float(expected[k]), rel=1e-5, abs=1e-6), k


def test_a_nan_prediction_of_a_known_target_is_not_hidden():
    found = regression_table(np.array([1.0, 2.0]), np.array([1.0, np.nan]))
    assert found["n"] == 2
    assert np.isnan(found["rmse"])


def test_weights_count_as_repetitions():
    y, p = sample(20)
    times = np.arange(20) % 4
    found = regression_table(y, p, times.astype(float))
    expected = regression_table(np.repeat(y, times), np.repeat(p, times))
    assert floats(found) == pytest.approx(floats(expected), rel=1e-12)


@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=40, deadline=None)
def test_any_partition_gives_the_figures_of_the_whole(seed, cuts):
    y, p = sample(60, seed)
    parts = [
        regression_sums(a, b)
        for a, b in zip(np.split(y, sorted(cuts)), np.split(p, sorted(cuts)), strict=True)
    ]
    whole = regression_table(y, p)
    found = functools.reduce(RegressionSums.__add__, parts).metrics()
    assert floats(found) == pytest.approx(floats(whole), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [64, 61], ids=["even", "padded"])
def test_eight_devices_give_the_figures_of_one(n):
    y, p = (a.astype(np.float32) for a in sample(n, offset=100.0))
    center = np.float32(100)
    pad = -n % 8
    weight = np.r_[np.ones(n, bool), np.zeros(pad, bool)]
    y8, p8 = np.r_[y, np.full(pad, 1e6, np.float32)], np.r_[p, np.full(pad, np.nan, np.float32)]
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
    spec = jax.sharding.PartitionSpec("d")

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spec,) * 3, out_specs=jax.sharding.PartitionSpec()
    )
    def sums(y, p, w):
        return jax.tree.map(lambda x: jax.lax.psum(x, "d"), regression_sums(y, p, w))

    found = sums(jnp.asarray(y8) - center, jnp.asarray(p8) - center, jnp.asarray(weight))
    expected = regression_table(y, p)
    for k, v in found.metrics(center=center).items():
        assert float(v) == pytest.approx(float(expected[k]), rel=1e-5, abs=1e-6), k


def test_gradients_stay_finite_behind_the_mask():
    y = jnp.array([1.0, jnp.nan, 3.0])

    def loss(p):
        s = regression_sums(y, p, jnp.array([True, True, False]))
        return ratio((s.sse, s.n))

    grad = jax.grad(loss)(jnp.array([2.0, jnp.inf, jnp.nan]))
    np.testing.assert_allclose(grad, [2.0, 0.0, 0.0])


def test_bins_show_saturation():
    y = np.linspace(0, 400, 401)
    rows = by_bin(y, np.clip(y, 50, 250), [0.0, 100.0, 200.0, 400.0])
    assert [r["n"] for r in rows] == [100, 100, 201]
    assert rows[0]["bias"] > 0
    assert rows[1]["bias"] == 0
    assert rows[2]["bias"] < 0


def test_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match=r"two shapes .*\(3,\) and \(3, 1\)"):
        regression_sums(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="the weight has shape"):
        regression_sums(np.zeros(3), np.zeros(3), np.ones(1))


def test_ratio_of_nothing_is_nan():
    assert np.isnan(ratio((np.float64(0), np.float64(0))))
    assert np.isnan(ratio((jnp.float32(0), jnp.float32(0))))
