"""Stacked blocks: equal to a loop, compiled once whatever the depth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax import nn
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)


class Block(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.norm = nn.LayerNorm(4, rngs=rngs)
        self.linear = nn.Linear(4, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jnp.tanh(self.linear(self.norm(x)))


def make(n: int) -> Block:
    return nn.stack(lambda r: Block(rngs=r), n, nnx.Rngs(0))


def apply(layers: Block, x: jax.Array, *, remat: Remat = "none") -> jax.Array:
    return nn.scan(layers, lambda layer, x: (layer(x), None), x, remat=remat)[0]


def test_parameters_have_a_leading_axis_and_differ_between_blocks() -> None:
    shapes = {k: v.shape for k, v in flat(nnx.state(make(3))).items()}
    assert shapes == {
        "linear/bias": (3, 4),
        "linear/kernel": (3, 4, 4),
        "norm/bias": (3, 4),
        "norm/scale": (3, 4),
    }
    kernel = make(3).linear.kernel[...]
    assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scan_equals_a_loop(remat: Remat) -> None:
    layers = make(3)
    graphdef, state = nnx.split(layers)
    wanted = X
    for i in range(3):
        wanted = nnx.merge(graphdef, jax.tree.map(lambda p, i=i: p[i], state))(wanted)
    np.testing.assert_allclose(apply(layers, X, remat=remat), wanted, rtol=1e-6, atol=1e-6)


def test_remat_changes_no_gradient() -> None:
    graphdef, state = nnx.split(make(3))

    def loss(state: nnx.State, remat: Remat) -> jax.Array:
        return jnp.square(apply(nnx.merge(graphdef, state), X, remat=remat)).sum()

    plain, again = (
        flat(jax.jit(jax.grad(loss), static_argnums=1)(state, remat)) for remat in ("none", "full")
    )
    for path, g in plain.items():
        assert (np.asarray(g) != 0).any(), path
        np.testing.assert_allclose(g, again[path], rtol=1e-5, atol=1e-6)


def test_slices_and_outputs_are_by_block() -> None:
    def block(layer: Block, x: jax.Array, gain: jax.Array) -> tuple[jax.Array, jax.Array]:
        return layer(x), gain * 2

    _, ys = nn.scan(make(3), block, X, jnp.asarray([1.0, 2.0, 3.0]))
    assert ys.tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("n", [2, 9])
def test_the_program_does_not_grow_with_depth(n: int) -> None:
    graphdef, state = nnx.split(make(n))
    program = jax.make_jaxpr(lambda s, x: apply(nnx.merge(graphdef, s), x))(state, X)
    assert str(program).count("tanh") == 1
