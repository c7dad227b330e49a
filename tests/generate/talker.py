"""A tiny random decoder that says something, and ways to ask it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import GenerationConfig, LlamaConfig
from rsvlm_jax.generate import Generated, Stream, TokenMachine, generate, stream
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


def log_probability(model: Llama, prefix: jax.Array, tokens: list[int]) -> float:
    """Of a text after a prompt [1,L,D], without a cache."""
    x = jnp.concatenate([prefix, model.embed(jnp.asarray([tokens], jnp.int32))], axis=1)
    _, logits = uncached(model, x, jnp.ones(x.shape[:2], jnp.int32))
    said = jax.nn.log_softmax(logits[0, prefix.shape[1] - 1 : -1])
    return float(said[jnp.arange(len(tokens)), jnp.asarray(tokens)].sum())


def machine(
    *words: tuple[int, ...], rows: int = CONFIG.vocab_size, end: bool = True
) -> TokenMachine:
    """A machine that writes one of some words (tuples of tokens)."""
    states: dict[tuple[int, ...], int] = {(): 0}
    for word in words:
        for n in range(1, len(word) + 1):
            states.setdefault(word[:n], len(states))
    classes = np.zeros(rows, np.int32)
    for i, token in enumerate(sorted({token for word in words for token in word})):
        classes[token] = i + 1
    following = np.full((len(states), classes.max() + 1), -1, np.int32)
    need = np.full(len(states), 2**30, np.int32)
    for prefix, state in states.items():
        if prefix:
            following[states[prefix[:-1]], classes[prefix[-1]]] = state
        if end:
            rest = [len(word) - len(prefix) for word in words if word[: len(prefix)] == prefix]
            need[state] = min(rest, default=2**30)
    return TokenMachine(
        jnp.asarray(classes), jnp.asarray(following), jnp.asarray(need), jnp.int32(0)
    )
