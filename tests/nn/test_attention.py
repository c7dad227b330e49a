"""`attend`, `Attention`, RoPE: against NumPy, with masks, groups and missing rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax import nn
from rsvlm_jax.config import RopeScaling
from rsvlm_jax.core import flat
from rsvlm_jax.nn.rope import frequencies

attend = jax.jit(nn.attend)


def values(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def numpy_attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One loop per axis, float64."""
    b, lq, h, dh = q.shape
    out = np.zeros(q.shape)
    for i, j, head in np.ndindex(b, lq, h):
        kv = head // (h // k.shape[2])
        seen = np.flatnonzero(np.broadcast_to(mask, (b, h, lq, k.shape[1]))[i, head, j])
        if len(seen):
            s = k[i, seen, kv] @ q[i, j, head] / np.sqrt(dh)
            p = np.exp(s - s.max())
            out[i, j, head] = (p / p.sum()) @ v[i, seen, kv]
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("mask_heads", [None, 1, 4])
def test_attend_equals_numpy(kv_heads: int, mask_heads: int | None) -> None:
    q, k, v = values(0, 2, 3, 4, 8), values(1, 2, 5, kv_heads, 8), values(2, 2, 5, kv_heads, 8)
    mask = np.ones((2, 1, 3, 5), bool)
    if mask_heads is not None:
        mask = np.random.default_rng(3).random((2, mask_heads, 3, 5)) < 0.6
    out = nn.attend(q, k, v, None if mask_heads is None else jnp.asarray(mask))
    wanted = numpy_attend(*(np.asarray(x, np.float64) for x in (q, k, v)), mask)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)


def test_a_fully_masked_row_gives_zeros_and_finite_gradients() -> None:
    q, k, v = values(0, 1, 2, 2, 4), values(1, 1, 3, 2, 4), values(2, 1, 3, 2, 4)
    mask = jnp.asarray([[[[True, True, False], [False, False, False]]]])

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.square(nn.attend(q, k, v, mask)).sum()

    out = nn.attend(q, k, v, mask)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(q, k, v)
    assert (out[0, 1] == 0).all()
    assert (out[0, 0] != 0).all()
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert (gradients[0][0, 1] == 0).all()  # the masked query
    assert (gradients[2][0, 2] == 0).all()  # the key that nobody reads


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e6))
def test_masked_keys_change_no_bit(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (values(seed + i, 2, 4, 2, 4) for i in range(3))
    valid = jnp.asarray(rng.random((2, 4)) < 0.5)
    junk = jnp.asarray(rng.standard_normal((2, 4, 2, 4)) * scale, jnp.float32)
    swap = valid[:, :, None, None]
    clean = attend(q, k, v, nn.key_mask(valid))
    dirty = attend(q, jnp.where(swap, k, junk), jnp.where(swap, v, junk), nn.key_mask(valid))
    np.testing.assert_array_equal(clean, dirty)


def test_softmax_is_float32_in_bfloat16() -> None:
    # 512 equal keys: probabilities summed in bfloat16 would stop growing at 256 / 512.
    ones = jnp.ones((1, 512, 1, 4), jnp.bfloat16)
    out = nn.attend(ones[:, :1], ones, ones)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1.0, rtol=1e-2)


def test_grouped_heads_equal_repeated_heads() -> None:
    q, k, v = values(0, 1, 3, 4, 2), values(1, 1, 3, 2, 2), values(2, 1, 3, 2, 2)
    repeated = nn.attend(q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2))
    np.testing.assert_allclose(nn.attend(q, k, v), repeated, rtol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_of_attention(bias: bool) -> None:
    layer = nn.Attention(8, 4, 2, bias=bias, rngs=nnx.Rngs(0))
    shapes = {k: v.shape for k, v in flat(nnx.state(layer)).items()}
    wanted = {"q/kernel": (8, 8), "k/kernel": (8, 4), "v/kernel": (8, 4), "o/kernel": (8, 8)}
    if bias:
        wanted |= {"q/bias": (8,), "k/bias": (4,), "v/bias": (4,), "o/bias": (8,)}
    assert shapes == wanted


def test_heads_of_a_width_of_their_own_biases_and_norms() -> None:
    layer = nn.Attention(
        8, 3, 1, head_dim=6, bias=True, o_bias=False, qk_norm=1e-6, rngs=nnx.Rngs(0)
    )
    assert {k: v.shape for k, v in flat(nnx.state(layer)).items()} == {
        "q/kernel": (8, 18),
        "k/kernel": (8, 6),
        "v/kernel": (8, 6),
        "o/kernel": (18, 8),
        "q/bias": (18,),
        "k/bias": (6,),
        "v/bias": (6,),
        "q_norm/scale": (6,),
        "k_norm/scale": (6,),
    }
    x = values(0, 2, 5, 8)
    assert layer(x).shape == (2, 5, 8)
    # Normalised before the product: scores, and so the weights, do not grow with q and k.
    louder = nnx.clone(layer)
    louder.q.kernel[...] = 100 * layer.q.kernel[...]
    louder.k.kernel[...] = 100 * layer.k.kernel[...]
    np.testing.assert_allclose(louder(x), layer(x), rtol=1e-3, atol=1e-4)


def test_cross_attention_reads_the_memory_only() -> None:
    layer = nn.Attention(8, 2, rngs=nnx.Rngs(0))
    x, memory = values(0, 1, 2, 8), values(1, 1, 5, 8)
    out = layer(x, memory=memory)
    assert out.shape == (1, 2, 8)
    shuffled = layer(x, memory=memory[:, ::-1])  # a set: order does not matter
    np.testing.assert_allclose(out, shuffled, atol=1e-6)
    assert not np.allclose(out, layer(x, memory=memory + 1))


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(0, 500), a=st.integers(0, 20), b=st.integers(0, 20))
def test_rope_products_depend_on_distance_only(shift: int, a: int, b: int) -> None:
    q, k = values(0, 1, 1, 1, 8), values(1, 1, 1, 1, 8)

    def product(i: int, j: int) -> jax.Array:
        at = [jnp.full((1, 1), p, jnp.int32) for p in (i, j)]
        return jnp.vdot(nn.rope(q, at[0], 1e4), nn.rope(k, at[1], 1e4))

    np.testing.assert_allclose(product(a, b), product(a + shift, b + shift), atol=2e-3)


def test_rope_turns_halves_by_the_angles_of_the_paper() -> None:
    x = jnp.asarray([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 4)  # pair 0 is features 0 and 2
    out = nn.rope(x, jnp.full((1, 1), 3, jnp.int32), 100.0)
    np.testing.assert_allclose(out[0, 0, 0], [np.cos(3), 0, np.sin(3), 0], atol=1e-6)
    x = jnp.asarray([0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)  # pair 1 turns by theta^(-1/2)
    out = nn.rope(x, jnp.full((1, 1), 3, jnp.int32), 100.0)
    np.testing.assert_allclose(out[0, 0, 0], [0, np.cos(0.3), 0, np.sin(0.3)], atol=1e-6)


def test_rope_keeps_lengths_and_leaves_position_zero_alone() -> None:
    x = values(0, 2, 3, 2, 6)
    np.testing.assert_array_equal(nn.rope(x, jnp.zeros((2, 3), jnp.int32), 1e4), x)
    turned = nn.rope(x, jnp.full((2, 3), 77, jnp.int32), 1e4)
    norms = [np.linalg.norm(v, axis=-1) for v in (turned, x)]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_linear_scaling_divides_positions() -> None:
    x, at = values(0, 1, 3, 2, 8), jnp.asarray([[4, 8, 12]], jnp.int32)
    slow = nn.rotate(x, nn.turns(at, 8, 1e4, RopeScaling("linear", 4.0)))
    np.testing.assert_allclose(slow, nn.rope(x, at // 4, 1e4), atol=1e-5)


def test_llama3_scaling_keeps_short_wavelengths_and_divides_long_ones() -> None:
    """Wavelengths 2 pi 10^i: kept below 64 / 4, divided above 64 / 1, interpolated between."""
    scaling = RopeScaling("llama3", 8.0, original_max_position_embeddings=64)
    share = (64 / (2 * np.pi * 10) - 1) / (4 - 1)
    between = 0.1 * (share + (1 - share) / 8)
    wanted = [1.0, between, 0.01 / 8, 0.001 / 8]
    np.testing.assert_allclose(frequencies(8, 1e4, scaling), wanted, rtol=1e-6)


def test_dynamic_scaling_begins_beyond_the_length_of_pretraining() -> None:
    """Each row by its own longest position; at twice the length and factor 2 the base is 3 NTK."""
    scaling = RopeScaling("dynamic", 2.0)
    at = jnp.asarray([[0, 1, 7], [0, 1, 15]], jnp.int32)
    turned = nn.turns(at, 8, 100.0, scaling, 8)
    plain = nn.turns(at, 8, 100.0)
    np.testing.assert_allclose(turned.sin[0], plain.sin[0], atol=1e-6)
    longer = nn.turns(at, 8, 100.0 * 3 ** (8 / 6))
    np.testing.assert_allclose(turned.sin[1], longer.sin[1], atol=1e-5)
