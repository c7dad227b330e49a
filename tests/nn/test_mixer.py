"""The mixer block and its missing tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax import nn


def block() -> nn.MixerBlock:
    """With norms whose bias is not zero, as after training."""
    b = nn.MixerBlock(4, 6, 5, 7, rngs=nnx.Rngs(0))
    b.norm1.bias[...] = jnp.full((6,), 0.5)
    return b


@nnx.jit
def apply(b: nn.MixerBlock, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    return b(x, valid)


X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 6)), jnp.float32)
VALID = jnp.asarray([[True, False, True, True], [False, False, False, False]])


def test_all_valid_equals_no_mask() -> None:
    np.testing.assert_array_equal(apply(block(), X), apply(block(), X, jnp.ones((2, 4), bool)))


def test_missing_tokens_change_no_bit_and_stay_zero() -> None:
    b = block()
    out = apply(b, X, VALID)
    junk = jnp.where(VALID[:, :, None], X, 1e6)
    np.testing.assert_array_equal(out, apply(b, junk, VALID))
    assert (np.asarray(out)[~np.asarray(VALID)] == 0).all()
    assert (np.asarray(out)[0, 0] != 0).all()


def test_tokens_and_channels_are_mixed() -> None:
    moved = X.at[0, 3, 2].add(1.0)
    change = np.abs(np.asarray(apply(block(), moved) - apply(block(), X)))
    assert (change[0] > 0).all()  # every token and channel of the sample
    assert (change[1] == 0).all()  # and of no other


def test_gradients_are_finite_where_all_is_missing() -> None:
    g = jax.jit(jax.grad(lambda x: jnp.square(block()(x, VALID)).sum()))(X)
    assert jnp.isfinite(g).all()
    assert (np.asarray(g)[~np.asarray(VALID)] == 0).all()
