"""From scores to a token: penalty, filters, the draw. Scores are [B,V] float32, -inf: never.

    scores -> penalise -> (masks, `rules`) -> / temperature -> top-k -> top-p -> min-p -> draw

Order and meaning are those of transformers' logits processors, with one difference: of tokens with
exactly the same score a filter keeps all or none. Nothing is sorted: a threshold among V scores is
found in 32 passes over them, bit by bit, which is many times faster than sorting on a CPU.

A draw depends on the seed, the row and the step, and on nothing else in the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import GenerationConfig
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which steps of the way are in the program at all: structure, not numbers."""

    draws: bool
    top_k: bool
    top_p: bool
    min_p: bool
    penalty: bool

    @classmethod
    def of(cls, config: GenerationConfig) -> Filters:
        draws = config.temperature > 0
        return cls(
            draws=draws,
            top_k=draws and config.top_k > 0,
            top_p=draws and config.top_p < 1,
            min_p=draws and config.min_p > 0,
            penalty=config.repetition_penalty != 1,
        )


_TINY = float(np.finfo(np.float32).tiny)

Host = Array | np.ndarray
"""Numbers made on the host go into a program as they are; inside it they are traced."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """The numbers of a `GenerationConfig`. Arrays, so that others need no other program.

    `tail` is 1 - top_p.
    """

    temperature: Float[Host, ""]
    top_k: Int[Host, ""]
    tail: Float[Host, ""]
    min_p: Float[Host, ""]
    penalty: Float[Host, ""]
    seed: Int[Host, ""]

    @classmethod
    def of(cls, config: GenerationConfig) -> Sampling:
        return cls(
            # A smaller one is 0 as float32, or is taken for it.
            temperature=np.asarray(max(config.temperature, _TINY), np.float32),
            top_k=np.asarray(min(config.top_k, 2**31 - 1), np.int32),
            tail=np.asarray(1.0 - config.top_p, np.float32),
            min_p=np.asarray(config.min_p, np.float32),
            penalty=np.asarray(config.repetition_penalty, np.float32),
            seed=np.asarray(config.seed % 2**31, np.int32),
        )


def penalise(
    scores: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: Float[Array, ""]
) -> Float[Array, "B V"]:
    """Scores of the tokens that were seen, divided where positive and multiplied where negative."""
    less = jnp.where(scores < 0, scores * penalty, scores / penalty)
    return jnp.where(seen, less, scores)


def filtered(
    scores: Float[Array, "B V"], filters: Filters, sampling: Sampling
) -> Float[Array, "B V"]:
    """Scores over the temperature, -inf where a filter takes a token out."""
    scores = scores / sampling.temperature
    code = _code(scores)
    if filters.top_k:
        k = jnp.clip(sampling.top_k, 1, scores.shape[1])
        kth = _largest(lambda t: (code >= t[:, None]).sum(axis=1, dtype=jnp.int32) >= k, code)
        scores = jnp.where(code >= kth[:, None], scores, -jnp.inf)
    if filters.top_p:
        share = jax.nn.softmax(scores, axis=1)
        floor = _largest(
            lambda t: jnp.where(code < t[:, None], share, 0.0).sum(axis=1) <= sampling.tail, code
        )
        kept = (code >= floor[:, None]) | (code == code.max(axis=1, keepdims=True))
        scores = jnp.where(kept, scores, -jnp.inf)
    if filters.min_p:
        share = jax.nn.softmax(scores, axis=1)
        floor = sampling.min_p * share.max(axis=1, keepdims=True)
        scores = jnp.where(share >= floor, scores, -jnp.inf)
    return scores


def draw(
    scores: Float[Array, "B V"],
    filters: Filters,
    sampling: Sampling,
    step: Int[Array, ""],
) -> Int[Array, " B"]:
    """One token a row, by inversion of the distribution that the filters leave.

    Towards temperature 0 it is the most probable one, whatever the seed.

    Args:
      step: of the token within its text.
    """
    # Relative to the best: what is divided by a tiny temperature keeps its precision.
    scores = filtered(scores - scores.max(axis=1, keepdims=True), filters, sampling)
    key = jax.random.key(sampling.seed)
    row = jnp.arange(scores.shape[0], dtype=jnp.int32)
    at = jax.vmap(
        lambda r: jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, r), step))
    )(row)
    below = jnp.cumsum(jnp.exp(scores), axis=1)
    # Never past the last token that has a share, whatever the sum was rounded to.
    point = jnp.minimum(at * below[:, -1], jnp.nextafter(below[:, -1], jnp.float32(0)))
    token = (below <= point[:, None]).sum(axis=1, dtype=jnp.int32)
    return jnp.minimum(token, np.int32(scores.shape[1] - 1))


def best(scores: Float[Array, "B V"]) -> Int[Array, " B"]:
    """The highest score; ties: the lower id. In two plain passes, which XLA's argmax is not."""
    at = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]
    top = scores == scores.max(axis=1, keepdims=True)
    return jnp.where(top, at, np.int32(scores.shape[1] - 1)).min(axis=1)


def _code(scores: Array) -> Array:
    """Scores as unsigned integers in the same order."""
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0.0, scores), jnp.uint32)
    high = jnp.uint32(1 << 31)
    return jnp.where(bits >= high, ~bits, bits | high)


def _largest(passes: Callable[[Array], Array], code: Array) -> Array:
    """The largest code of each row [B] that passes a test which every smaller one passes."""

    def bit(i: Array, found: Array) -> Array:
        more = found | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(passes(more), more, found)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros(code.shape[:1], jnp.uint32))
