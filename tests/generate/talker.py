"""A tiny random decoder that says something, and ways to ask it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import GenerationConfig, LlamaConfig
from rsvlm_jax.generate import Generated, Stream, generate, stream
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import causal_segment_mask

CONFIG = LlamaConfig(
    vocab_size=24,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    mlp_dim=24,
    max_length=48,
)
EOS, IMAGE, REG = 2, 22, 23
NEW = 8
RNG = np.random.default_rng(5)
PREFIX = jnp.asarray(RNG.standard_normal((3, 5, 16)), jnp.float32)
ALL = jnp.ones((3, 5), bool)


def made(kind: type[Llama], seed: int) -> Llama:
    """A decoder with random variables, without the time of running its initialisers."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: kind(CONFIG, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def split(asked: dict[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
    """Fields of the GenerationConfig, and the rest."""
    fields = GenerationConfig.__dataclass_fields__
    config = {k: v for k, v in asked.items() if k in fields}
    rest = {k: v for k, v in asked.items() if k not in fields}
    return GenerationConfig(**{"max_new_tokens": NEW, **config}), {"eos": EOS, **rest}


def say(
    model: Llama, prefix: jax.Array = PREFIX, valid: jax.Array = ALL, **asked: Any
) -> Generated:
    config, rest = split(asked)
    return generate(model, prefix, valid, config=config, **rest)


def say_on(
    model: Llama, prefix: jax.Array = PREFIX, valid: jax.Array = ALL, **asked: Any
) -> Stream:
    config, rest = split(asked)
    return stream(model, prefix, valid, config=config, **rest)


def silence(model: Llama, *tokens: int) -> tuple[int, ...]:
    """All ids but these: what to ban so that the model can say nothing else."""
    return tuple(i for i in range(model.config.vocab_size) if i not in tokens)


@nnx.jit
def uncached(model: Llama, x: jax.Array, segment: jax.Array) -> tuple[jax.Array, jax.Array]:
    position = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32)[None], segment.shape)
    hidden = model(x, causal_segment_mask(segment, position), position)
    return hidden, model.logits(hidden)
