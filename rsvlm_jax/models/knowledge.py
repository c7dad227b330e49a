"""Knowledge tokens: which hidden states of the language model a head reads.

    <s> <image>*N  What is the tree cover ? \\n  The tree cover is <reg> <reg> . </s>     Q = 2
                                        |  |    |                 |     |
    "reg"                               |  |    |                 1     2     those of the block
    "answer"                            |  |    1 1 1 1 1 ....... 2 2 2 2     means of Q parts of it
    "last"                              1  2                                  before the answer

REO-VLM (arXiv 2412.16583) derives "knowledge embeddings" from hidden states and does not say which.
In all three readings a sample has knowledge if its `<reg>` block is complete: an answer without a
number has none. A row that holds several packed examples speaks of the first. Not here: the reverse
projection, which is the head's.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from rsvlm_jax.config import DataError
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

Kind = Literal["reg", "answer", "last"]


def read(
    hidden: Float[Array, "B L D"],
    is_reg: Bool[Array, "B L"],
    count: int,
    kind: Kind = "reg",
    answer: Int[Array, " B"] | None = None,
) -> tuple[Float[Array, "B Q D"], Bool[Array, " B"]]:
    """Q knowledge tokens and which samples have them; 0 and False for the others.

    Args:
      is_reg: the `<reg>` tokens of the example that is spoken of.
      count: Q.
      answer: where its answer begins; -1: it has none. "reg" needs it not.

    Raises:
      DataError: no `answer` for "answer" or "last".
    """
    rank = jnp.cumsum(is_reg, axis=1, dtype=jnp.int32)
    complete = rank[:, -1] >= count
    if kind == "reg":
        wanted = jnp.arange(1, count + 1, dtype=jnp.int32)[None, :, None]
        found = is_reg[:, None, :] & (rank[:, None, :] == wanted)
        knowledge = jnp.take_along_axis(hidden, found.argmax(axis=2)[:, :, None], axis=1)
        return _or_nothing(knowledge, complete)
    if answer is None:
        raise DataError(
            "the batch does not say where answers begin",
            where="Batch.answer",
            expected=f"positions [B], for HeadConfig.knowledge {kind!r}",
            found=None,
        )
    first = jnp.asarray(answer)
    if kind == "last":
        complete &= first >= count
        at = jnp.maximum(first[:, None] - count + jnp.arange(count, dtype=jnp.int32)[None], 0)
        return _or_nothing(jnp.take_along_axis(hidden, at[:, :, None], axis=1), complete)
    last = jnp.argmax(is_reg & (rank == count), axis=1).astype(jnp.int32)
    complete &= (first >= 0) & (first <= last)
    return _or_nothing(_means(hidden, first, last + 1, count), complete)


def _means(
    hidden: Float[Array, "B L D"], first: Int[Array, " B"], end: Int[Array, " B"], count: int
) -> Float[Array, "B Q D"]:
    """Means over `count` parts of first .. end - 1, as equal as they come; they overlap by one
    position where the length does not divide, and repeat where it is less than `count`."""
    part = jnp.arange(count, dtype=jnp.int32)[None, :]
    length = jnp.maximum(end - first, 1)[:, None]
    low = first[:, None] + part * length // count
    high = first[:, None] - (-(part + 1) * length // count)
    at = jnp.arange(hidden.shape[1], dtype=jnp.int32)[None, None, :]
    inside = ((at >= low[:, :, None]) & (at < high[:, :, None])).astype(jnp.float32)
    share = inside / jnp.maximum(inside.sum(axis=2, keepdims=True), 1.0)
    return jnp.einsum("bql,bld->bqd", share, hidden.astype(jnp.float32)).astype(hidden.dtype)


def _or_nothing(knowledge: Array, complete: Array) -> tuple[Array, Array]:
    return jnp.where(complete[:, None, None], knowledge, jnp.zeros_like(knowledge)), complete
