"""Given answers, ranked by their likelihood after a prompt.

    prefix [B,L,D] -> read once -> log p(first token), and keys and values of the prompt
       of each sample: N answers [N,M] as rows that share them -> log p of the other tokens
    total, mean  f32[B,N]

All answers of a sample are one batch; lists of different length are padded to a power of two, so
that few programs serve all. What ends an answer counts only where the caller puts it there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.nn import KVCache, SharedPrefix, cache_mask

from .engine import read_prompt
from .request import apart


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Ranked:
    """Log-likelihoods of N answers to B prompts.

    Attributes:
      total: the sum over an answer's tokens.
      mean: the same for each of its tokens, which does not favour short answers.
    """

    total: Float[Array, "B N"]
    mean: Float[Array, "B N"]


def rank(
    decoder: Decoder,
    prefix: Float[Array, "B L D"],
    prefix_valid: Bool[Any, "B L"],
    answers: Sequence[Sequence[int]],
) -> Ranked:
    """How likely each answer is after each prompt. The prompts are read once.

    Args:
      decoder: read only.
      prefix: embedded prompts; its dtype is the compute dtype.
      prefix_valid: False at padding, anywhere.
      answers: token ids, an end token at their end if that is to count.

    Raises:
      ConfigError: no answer or an empty one, an id outside the vocabulary, a prompt without a
        token, or more positions than the decoder has.
    """
    _check(decoder, np.asarray(prefix_valid), answers)
    length = np.asarray([len(a) for a in answers], np.int32)
    width = 1 << int(length.max() - 1).bit_length()
    tokens = np.zeros((len(answers), width), np.int32)
    for row, answer in zip(tokens, answers, strict=True):
        row[: len(answer)] = answer
    graphdef, tree, leaves = apart(decoder)
    valid = jnp.asarray(prefix_valid)
    return _rank(graphdef, tree, leaves, prefix, valid, jnp.asarray(tokens), jnp.asarray(length))


def _check(decoder: Decoder, valid: np.ndarray, answers: Sequence[Sequence[int]]) -> None:
    config = decoder.config
    if not answers:
        raise ConfigError("nothing to rank", where="rank(answers)", expected="answers", found=0)
    for i, answer in enumerate(answers):
        where = f"rank(answers[{i}])"
        if not len(answer):
            raise ConfigError("an empty answer", where=where, expected="tokens", found=0)
        for token in answer:
            if not 0 <= token < config.vocab_size:
                raise ConfigError(
                    "no such token", where=where, expected=f"0 .. {config.vocab_size - 1}",
                    found=token,
                )  # fmt: skip
    count = valid.sum(axis=1)
    if not count.all():
        raise ConfigError(
            "a prompt without a token", where=f"rank(prefix_valid[{np.argmin(count)}])",
            expected="one or more valid positions", found=0,
        )  # fmt: skip
    longest = max(len(a) for a in answers)
    if count.max() + longest > config.positions:
        raise ConfigError(
            "more positions than the decoder was made for", where="rank(answers)",
            expected=f"prompt + answer <= {config.positions}", found=f"{count.max()} + {longest}",
        )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1))
def _rank(
    graphdef: Any,
    tree: Any,
    leaves: list[Array],
    prefix: Array,
    valid: Array,
    tokens: Array,
    length: Array,
) -> Ranked:
    decoder: Decoder = nnx.merge(graphdef, jax.tree.unflatten(tree, leaves))
    hidden, position, cache = read_prompt(decoder, prefix.shape[1], prefix, valid, None)
    first = _log_likelihood(decoder, hidden, tokens[None, :, 0])
    if tokens.shape[1] == 1:
        return Ranked(first, first)

    def others(row: Array) -> Array:
        return _others(decoder, cache, row, position[row], tokens, length, prefix.dtype)

    rows = jnp.arange(prefix.shape[0], dtype=jnp.int32)
    total = first + jax.lax.map(others, rows)
    return Ranked(total, total / length[None, :].astype(jnp.float32))


def _others(
    decoder: Decoder,
    cache: KVCache,
    row: Int[Array, ""],
    start: Int[Array, ""],
    tokens: Int[Array, "N M"],
    length: Int[Array, " N"],
    dtype: Any,
) -> Float[Array, " N"]:
    """Log-likelihood of all tokens of the answers but the first, after the prompt of one row."""
    one = cache.rows(row[None])
    prompt = SharedPrefix(one.slots, one.valid, one.position)
    answers, read = tokens.shape[0], tokens.shape[1] - 1
    step = jnp.broadcast_to(jnp.arange(read, dtype=jnp.int32), (answers, read))
    counts = step + 1 < length[:, None]  # token `step + 1` is there, and read up to before it
    own = prompt.cache(answers, read).claim(counts)
    mask = cache_mask(own.length, read, own.valid)
    x = decoder.embed(tokens[:, :-1]).astype(dtype)
    hidden, _ = decoder(x, mask, start + step, own)
    said = _log_likelihood(decoder, hidden, tokens[:, 1:])
    return jnp.where(counts, said, 0.0).sum(axis=1)


def _log_likelihood(
    decoder: Decoder, hidden: Float[Array, "B #M D"], tokens: Int[Array, "#B M"]
) -> Float[Array, "B M"]:
    """Of tokens after hidden states, float32."""
    scores = decoder.logits(hidden)
    norm = jax.nn.logsumexp(scores, axis=2)
    shape = (scores.shape[0], tokens.shape[1])
    if scores.shape[1] == 1:  # one state, several tokens that may follow it
        taken = jnp.take_along_axis(scores[:, 0], jnp.broadcast_to(tokens, shape), axis=1)
    else:
        taken = jnp.take_along_axis(scores, tokens[:, :, None], axis=2)[..., 0]
    return taken - norm
