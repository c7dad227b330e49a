"""What generation gives: token ids with what belongs to them, and the block of `<reg>` in it."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.nn import KVCache


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
      tokens: end tokens from `length` on.
      length: tokens before the end token, or before what stands behind a stop string, or
        `max_new_tokens` where neither came.
      score: sum of the log-probabilities that the decoder gives these tokens, the end token
        included where one came. The decoder's own: neither temperature nor filters are in it, nor
        masks or penalties, but in beam search, which ranks by penalised ones.
      hidden: after the final norm, at each generated token (that is, after it was read); zeros
        from `length` on. None unless asked for.
      cache: of prompt and text, for what is said next; the end token is not in it. None unless
        asked for.
    """

    tokens: Int[Array, "B new"]
    length: Int[Array, " B"]
    score: Float[Array, " B"]
    hidden: Float[Array, "B new D"] | None = None
    cache: KVCache | None = None


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The next tokens of every sample, on the host.

    Attributes:
      tokens: end tokens where a sample has no more to say.
      length: how many of them are text.
      done: samples of which nothing more comes.
      text: what was added to each sample's text; only where a `decode` was given.
    """

    tokens: Int[np.ndarray, "B n"]
    length: Int[np.ndarray, " B"]
    done: Bool[np.ndarray, " B"]
    text: tuple[str, ...] | None = None


def reg_block(
    generated: Generated, reg: tuple[int, int]
) -> tuple[Float[Array, "B Q D"], Bool[Array, " B"]]:
    """Hidden states at the `<reg>` block, and which samples have one; zeros where there is none.

    Args:
      reg: as given to `generate`.
    """
    token, size = reg
    states = generated.hidden
    assert states is not None  # `generate` keeps them wherever it was given `reg`
    at = generated.tokens == token
    has = at.sum(axis=1) >= size
    if generated.tokens.shape[1] < size:
        b, _, d = states.shape
        return jnp.zeros((b, size, d), states.dtype), has
    slot = jnp.argmax(at, axis=1)[:, None] + jnp.arange(size)[None, :]
    block = jnp.take_along_axis(states, slot[:, :, None], axis=1, mode="clip")
    return jnp.where(has[:, None, None], block, jnp.zeros_like(block)), has
