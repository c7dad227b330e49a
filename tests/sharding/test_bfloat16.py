"""`VLMConfig.dtype="bfloat16"`: master weights, losses and what is summed for them stay float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rsvlm_jax.config import MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.nn import Linear
from rsvlm_jax.nn.linear import matmul, spread
from rsvlm_jax.train import TrainState, create, make_loss_step, total

STEPS = 20


@pytest.fixture(scope="module")
def run():
    """The nano model, its connector and language head included, and its step."""
    made = dataclasses.replace(nano.config(), dtype="bfloat16")
    exp = dataclasses.replace(nano.experiment(ema=0.9), model=made)
    state, step = nano.start(exp, MeshConfig(), of=made, total=STEPS)
    program = jax.make_jaxpr(step.jitted)(state, nano.batch(0))
    rows = []
    for _ in range(STEPS):
        state, metrics = step(state, nano.batch(0))
        rows.append(jax.device_get(metrics))
    return state, rows, program


def test_twenty_steps_fall(run):
    losses = [float(row["loss"]) for row in run[1]]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]
    assert not any(row["skipped"] for row in run[1])


def test_weights_moments_averages_and_losses_are_float32(run):
    state, rows, _ = run
    for name in ("params", "opt_state", "ema", "stats"):
        for path, x in flat(getattr(state, name)).items():
            assert x.dtype == (jnp.int32 if not x.shape and "count" in path else jnp.float32), path
    assert {x.dtype for x in rows[0].values()} == {np.dtype(np.float32)}


def test_the_first_loss_is_that_of_float32_but_for_rounding(run):
    exp = nano.experiment()
    graphdef, params, stats = create(nano.model, seed=0)
    state = TrainState(jnp.int32(0), jnp.int32(0), params, stats, {})
    measure = make_loss_step(graphdef, exp, make_mesh(MeshConfig()), state)
    want = total(measure(params, stats, nano.batch(0)), exp.losses)
    assert float(run[1][0]["loss"]) == pytest.approx(float(want), rel=0.02)
    assert float(run[1][0]["loss"]) != float(want)


def test_the_products_are_bfloat16_and_the_gradients_are_summed_in_float32(run):
    """Whatever sum or product has the shape of a parameter, or of one of its layers."""
    state, _, program = run
    shapes = {x.shape for x in jax.tree.leaves(state.params)}
    shapes |= {x.shape[1:] for p, x in flat(state.params).items() if "layers" in p or "blocks" in p}
    products = 0
    for equation in _equations(program):
        if equation.primitive.name not in ("dot_general", "reduce_sum", "scatter-add"):
            continue
        out = equation.outvars[0].aval
        if out.shape in shapes:
            assert out.dtype == jnp.float32, equation
        products += equation.primitive.name == "dot_general" and out.dtype == jnp.bfloat16
    assert products > 50


def _equations(program: Any) -> Iterator[Any]:
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=_is_program):
            if _is_program(inner):
                yield from _equations(inner)


def _is_program(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def test_a_gradient_over_many_samples_does_not_stop_growing():
    """In bfloat16 a sum of ones ends at 256."""
    x = jnp.ones((3, 4096, 8), jnp.bfloat16)
    layer = Linear(8, 4, rngs=nano.nnx.Rngs(0))
    kernel, bias = layer.kernel[...], layer.bias[...]

    def loss(kernel, bias):
        y = matmul(x, kernel) + spread(bias, (3, 4096, 4), jnp.bfloat16)
        return y.astype(jnp.float32).sum()

    of_kernel, of_bias = jax.grad(loss, (0, 1))(kernel, bias)
    np.testing.assert_array_equal(of_kernel, 3 * 4096.0)
    np.testing.assert_array_equal(of_bias, 3 * 4096.0)
    assert of_kernel.dtype == of_bias.dtype == jnp.float32


def test_the_slope_of_the_input_is_that_of_the_rounded_kernel():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.bfloat16)
    g = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    value, pull = jax.vjp(lambda x, k: matmul(x, k, jnp.float32), x, kernel)
    rounded = kernel.astype(jnp.bfloat16)
    want = jnp.matmul(x, rounded, preferred_element_type=jnp.float32)
    np.testing.assert_array_equal(value, want)
    of_x, of_kernel = pull(g)
    assert (of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    as_floats = [np.asarray(a, np.float64) for a in (x, rounded, g)]
    np.testing.assert_allclose(
        of_kernel, np.einsum("bli,blo->io", as_floats[0], as_floats[2]), rtol=0.02, atol=0.02
    )
    np.testing.assert_allclose(
        np.asarray(of_x, np.float64), as_floats[2] @ as_floats[1].T, rtol=0.02, atol=0.02
    )
