"""The decoder by itself: packing, cache, dtypes. Its numbers are checked in tests/parity."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import ConfigError, LlamaConfig, MeshConfig, RopeScaling
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import KVCache, cache_mask, causal_segment_mask

FSDP_TENSOR = RULES["fsdp_tensor"]

CONFIG = LlamaConfig(
    vocab_size=20, width=16, layers=3, heads=4, kv_heads=2, mlp_dim=24, max_length=32
)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 6, 16)), jnp.float32)


def made(config: LlamaConfig, *, remat: Remat = "none") -> Llama:
    """The model with random variables (norms too), without the time of its initialisers."""
    build = nnx.eval_shape(lambda: Llama(config, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(build)
    rng = np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def llama(**changes: object) -> Llama:
    return made(dataclasses.replace(CONFIG, **changes))


def ints(*rows: list[int]) -> jax.Array:
    return jnp.asarray(rows, jnp.int32)


@nnx.jit
def forward(model: Llama, x: jax.Array, segment: jax.Array, position: jax.Array) -> jax.Array:
    return model(x, causal_segment_mask(segment, position), position)


@nnx.jit
def cached(
    model: Llama, x: jax.Array, valid: jax.Array, position: jax.Array, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    cache = cache.claim(valid)
    return model(x, cache_mask(cache.length, x.shape[1], cache.valid), position, cache)


ORDER = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32)[None], (2, 6))
ONE = jnp.ones((2, 6), jnp.int32)


@pytest.mark.parametrize("tied", [True, False])
def test_paths_and_shapes(tied: bool) -> None:
    shapes = {k: v.shape for k, v in flat(nnx.state(llama(tie_embeddings=tied))).items()}
    wanted = {
        "embed/embedding": (20, 16),
        "layers/attention/k/kernel": (3, 16, 8),
        "layers/attention/o/kernel": (3, 16, 16),
        "layers/attention/q/kernel": (3, 16, 16),
        "layers/attention/v/kernel": (3, 16, 8),
        "layers/mlp/down/kernel": (3, 24, 16),
        "layers/mlp/gate/kernel": (3, 16, 24),
        "layers/mlp/up/kernel": (3, 16, 24),
        "layers/norm1/scale": (3, 16),
        "layers/norm2/scale": (3, 16),
        "norm/scale": (16,),
    }
    assert shapes == wanted if tied else shapes == wanted | {"lm_head/kernel": (16, 20)}


def test_it_is_a_decoder() -> None:
    assert isinstance(llama(), Decoder)


def test_packed_examples_equal_each_alone() -> None:
    model = llama()
    packed = forward(
        model, X, ints([1, 1, 1, 2, 2, 0], [1] * 6), ints([0, 1, 2, 0, 1, 0], [*range(6)])
    )
    first = forward(model, X[:1, :3], ONE[:1, :3], ORDER[:1, :3])
    second = forward(model, X[:1, 3:5], ONE[:1, :2], ORDER[:1, :2])
    np.testing.assert_allclose(packed[:1, :3], first, atol=1e-5)
    np.testing.assert_allclose(packed[:1, 3:5], second, atol=1e-5)


def test_no_token_sees_the_future() -> None:
    model = llama()
    changed = X.at[:, 4].add(1.0)
    a, b = forward(model, X, ONE, ORDER), forward(model, changed, ONE, ORDER)
    np.testing.assert_array_equal(a[:, :4], b[:, :4])
    assert not np.allclose(a[:, 4:], b[:, 4:])


def test_paths_of_what_the_other_families_add() -> None:
    full = llama(qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True, head_dim=6)
    shapes = {k: v.shape for k, v in flat(nnx.state(full)).items()}
    assert {k: v for k, v in shapes.items() if "bias" in k or "_norm" in k} == {
        "layers/attention/k/bias": (3, 12),
        "layers/attention/k_norm/scale": (3, 6),
        "layers/attention/o/bias": (3, 16),
        "layers/attention/q/bias": (3, 24),
        "layers/attention/q_norm/scale": (3, 6),
        "layers/attention/v/bias": (3, 12),
        "layers/mlp/down/bias": (3, 16),
        "layers/mlp/gate/bias": (3, 24),
        "layers/mlp/up/bias": (3, 24),
    }
    mesh = make_mesh(MeshConfig(2, 2, 2))
    placed = flat(resolve({"decoder": nnx.to_pure_dict(nnx.state(full))}, FSDP_TENSOR, mesh))
    assert placed.keys() == {f"decoder/{k}" for k in shapes}


def test_a_window_forgets_by_position() -> None:
    """Three layers of window 2: a token reads three positions back and no further."""
    windowed = llama(sliding_window=2)
    a = forward(windowed, X, ONE, ORDER)
    b = forward(windowed, X.at[:, 1].add(1.0), ONE, ORDER)
    changed = np.abs(np.asarray(a - b)).max(axis=(0, 2)) > 0
    assert changed.tolist() == [False, True, True, True, True, False]
    wide = forward(llama(sliding_window=6), X, ONE, ORDER)
    np.testing.assert_array_equal(wide, forward(llama(), X, ONE, ORDER))


def test_padding_takes_no_room_in_a_window() -> None:
    model = llama(sliding_window=2)
    wanted = forward(model, X[:, :4], ONE[:, :4], ORDER[:, :4])
    order = np.array([0, 4, 1, 2, 5, 3])
    valid = jnp.asarray(np.broadcast_to(order < 4, (2, 6)))
    position = jnp.asarray(np.broadcast_to(np.where(order < 4, order, 0), (2, 6)), jnp.int32)
    got, _ = cached(model, X[:, order], valid, position, model.empty_cache(2, 6, jnp.float32))
    np.testing.assert_allclose(got[:, order < 4], wanted, atol=1e-5)
    whole = forward(model, X[:, order], valid.astype(jnp.int32), position)
    np.testing.assert_allclose(whole[:, order < 4], wanted, atol=1e-5)


def test_sizes_that_no_decoder_has_are_refused() -> None:
    dynamic = RopeScaling("dynamic", 2.0)
    for changes in (
        {"head_dim": 5},
        {"kv_heads": 3},
        {"sliding_window": 0},
        {"layers": -1},
        {"vocab_size": 2**40},
        {"head_dim": 2, "rope_scaling": dynamic},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ConfigError, match="not read by this scaling"):
        RopeScaling("dynamic", 2.0, original_max_position_embeddings=8)
    assert dataclasses.replace(CONFIG, rope_scaling=dynamic).positions == 64


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("first", [1, 4])
def test_cached_decode_equals_the_uncached_forward(first: int, window: int | None) -> None:
    model = llama(sliding_window=window)
    wanted = forward(model, X, ONE, ORDER)
    cache = model.empty_cache(2, 9, jnp.float32)
    valid = jnp.ones((2, 6), bool)
    got, cache = cached(model, X[:, :first], valid[:, :first], ORDER[:, :first], cache)
    parts = [got]
    for i in range(first, 6):
        at = slice(i, i + 1)
        got, cache = cached(model, X[:, at], valid[:, at], ORDER[:, at], cache)
        parts.append(got)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), wanted, atol=1e-5)
    assert cache.length.tolist() == [6, 6]


def test_padding_in_the_cache_changes_nothing() -> None:
    model = llama()
    wanted = forward(model, X[:, :4], ONE[:, :4], ORDER[:, :4])
    order = np.array([0, 4, 1, 2, 5, 3])  # rows 4 and 5 stand in as padding, in the middle
    valid = jnp.asarray(np.broadcast_to(order < 4, (2, 6)))
    position = jnp.asarray(np.broadcast_to(np.where(order < 4, order, 0), (2, 6)), jnp.int32)
    cache = model.empty_cache(2, 6, jnp.float32)
    got, _ = cached(model, X[:, order], valid, position, cache)
    np.testing.assert_allclose(got[:, order < 4], wanted, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_compute_and_float32_logits(tied: bool) -> None:
    model = llama(tie_embeddings=tied)
    hidden = forward(model, X.astype(jnp.bfloat16), ONE, ORDER)
    assert hidden.dtype == jnp.bfloat16
    logits = model.logits(hidden)
    assert logits.shape == (2, 6, 20)
    assert logits.dtype == jnp.float32
    exact = model.logits(forward(model, X, ONE, ORDER))
    np.testing.assert_allclose(logits, exact, rtol=0.1, atol=0.15)


def test_a_bfloat16_cache_serves_both() -> None:
    model = llama()
    cache = model.empty_cache(2, 6, jnp.bfloat16)
    got, cache = cached(model, X, jnp.ones((2, 6), bool), ORDER, cache)
    assert cache.slots.k.dtype == jnp.bfloat16
    np.testing.assert_allclose(got, forward(model, X, ONE, ORDER), atol=0.1)


def test_every_parameter_has_a_gradient() -> None:
    def loss(model: Llama) -> jax.Array:
        x = X + model.embed(ORDER)
        hidden = model(x, causal_segment_mask(ONE, ORDER), ORDER)
        return jnp.square(model.logits(hidden)).sum()

    for path, value in flat(nnx.jit(nnx.grad(loss))(made(CONFIG, remat="full"))).items():
        assert (np.abs(value) > 1e-8).any(), path
