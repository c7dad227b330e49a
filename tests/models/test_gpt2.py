"""GPT-2 by itself: packing, cache, positions. Its numbers are checked in tests/parity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import ConfigError, GenerationConfig, GPT2Config, MeshConfig
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core import flat
from rsvlm_jax.generate import generate
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.models.gpt2 import GPT2
from rsvlm_jax.models.language import language_model
from rsvlm_jax.nn import KVCache, cache_mask, causal_segment_mask

CONFIG = GPT2Config(vocab_size=20, width=16, layers=3, heads=4, mlp_dim=24, max_length=8)
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 16)), jnp.float32)
ORDER = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32)[None], (2, 6))
ONE = jnp.ones((2, 6), jnp.int32)


def made(*, remat: Remat = "none") -> GPT2:
    build = nnx.eval_shape(lambda: language_model(CONFIG, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(build)
    rng = np.random.default_rng(1)
    values = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), state)
    model = nnx.merge(graphdef, values)
    assert isinstance(model, GPT2)
    return model


@nnx.jit
def forward(model: GPT2, x: jax.Array, segment: jax.Array, position: jax.Array) -> jax.Array:
    return model(x, causal_segment_mask(segment, position), position)


@nnx.jit
def cached(
    model: GPT2, x: jax.Array, valid: jax.Array, position: jax.Array, cache: KVCache
) -> tuple[jax.Array, KVCache]:
    cache = cache.claim(valid)
    return model(x, cache_mask(cache.length, x.shape[1], cache.valid), position, cache)


def test_paths_shapes_and_placement() -> None:
    model = made()
    assert isinstance(model, Decoder)
    shapes = {k: v.shape for k, v in flat(nnx.state(model)).items()}
    wanted = {
        "embed/embedding": (20, 16),
        "position/embedding": (8, 16),
        "norm/scale": (16,),
        "norm/bias": (16,),
        "layers/mlp/fc1/kernel": (3, 16, 24),
        "layers/mlp/fc1/bias": (3, 24),
        "layers/mlp/fc2/kernel": (3, 24, 16),
        "layers/mlp/fc2/bias": (3, 16),
    }
    wanted |= {f"layers/norm{i}/{n}": (3, 16) for i in (1, 2) for n in ("scale", "bias")}
    wanted |= {f"layers/attention/{n}/kernel": (3, 16, 16) for n in "qkvo"}
    wanted |= {f"layers/attention/{n}/bias": (3, 16) for n in "qkvo"}
    assert shapes == wanted
    mesh = make_mesh(MeshConfig(2, 2, 2))
    tree = {"decoder": nnx.to_pure_dict(nnx.state(model))}
    placed = flat(resolve(tree, RULES["fsdp_tensor"], mesh))
    assert placed.keys() == {f"decoder/{k}" for k in shapes}


def test_packed_examples_equal_each_alone() -> None:
    model = made()
    segment = jnp.asarray([[1, 1, 1, 2, 2, 0], [1] * 6], jnp.int32)
    position = jnp.asarray([[0, 1, 2, 0, 1, 0], [*range(6)]], jnp.int32)
    packed = forward(model, X, segment, position)
    first = forward(model, X[:1, :3], ONE[:1, :3], ORDER[:1, :3])
    second = forward(model, X[:1, 3:5], ONE[:1, :2], ORDER[:1, :2])
    np.testing.assert_allclose(packed[:1, :3], first, atol=1e-5)
    np.testing.assert_allclose(packed[:1, 3:5], second, atol=1e-5)


def test_positions_are_learned_and_end() -> None:
    model = made()
    here, there = (forward(model, X, ONE, ORDER + shift) for shift in (0, 2))
    assert np.isfinite(here).all()
    assert not np.allclose(here, there)
    assert np.isnan(forward(model, X, ONE, ORDER + 3)[:, 5]).all()  # position 8 of 0 .. 7
    with pytest.raises(
        ConfigError, match=r"more positions .* prompt \+ max_new_tokens <= 8; found 6 \+ 3"
    ):
        generate(model, X, jnp.ones((2, 6), bool), config=GenerationConfig(max_new_tokens=3), eos=2)


@pytest.mark.parametrize("first", [1, 4])
def test_cached_decode_equals_the_uncached_forward(first: int) -> None:
    model = made()
    wanted = forward(model, X, ONE, ORDER)
    cache = model.empty_cache(2, 7, jnp.float32)
    valid = jnp.ones((2, 6), bool)
    got, cache = cached(model, X[:, :first], valid[:, :first], ORDER[:, :first], cache)
    parts = [got]
    for i in range(first, 6):
        at = slice(i, i + 1)
        got, cache = cached(model, X[:, at], valid[:, at], ORDER[:, at], cache)
        parts.append(got)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), wanted, atol=1e-5)


def test_bfloat16_compute_and_float32_logits() -> None:
    model = made()
    hidden = forward(model, X.astype(jnp.bfloat16), ONE, ORDER)
    assert hidden.dtype == jnp.bfloat16
    logits = model.logits(hidden)
    assert logits.dtype == jnp.float32
    exact = model.logits(forward(model, X, ONE, ORDER))
    np.testing.assert_allclose(logits, exact, rtol=0.1, atol=0.15)


def test_every_parameter_has_a_gradient() -> None:
    def loss(model: GPT2) -> jax.Array:
        hidden = model(X + model.embed(ORDER), causal_segment_mask(ONE, ORDER), ORDER)
        return jnp.square(model.logits(hidden)).sum()

    for path, value in flat(nnx.jit(nnx.grad(loss))(made(remat="full"))).items():
        used = value[:6] if path == "position/embedding" else value
        if path != "layers/attention/k/bias":  # shifts all scores of a query alike
            assert (np.abs(used) > 1e-8).any(), path
