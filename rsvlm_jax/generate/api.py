"""`generate` and `stream`: what a decoder says after a prompt, at once or in pieces."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import ConfigError, GenerationConfig
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.nn import KVCache

from .beam import search
from .chunks import Stream
from .engine import go_on, result, start
from .machine import TokenMachine
from .request import Request, make_request
from .result import Generated
from .text import Decode, TextStream

GREEDY = GenerationConfig()


def generate(
    decoder: Decoder,
    prefix: Float[Array, "B L D"],
    prefix_valid: Bool[Any, "B L"],
    *,
    config: GenerationConfig = GREEDY,
    eos: int | tuple[int, ...],
    reg: tuple[int, int] | None = None,
    banned: tuple[int, ...] = (),
    prompt_tokens: Int[Any, "B N"] | None = None,
    machine: TokenMachine | None = None,
    cache: KVCache | None = None,
    cache_length: int | None = None,
    keep_hidden: bool = False,
    keep_cache: bool = False,
    decode: Decode | None = None,
) -> Generated:
    """What the decoder says after a prompt, until an end token or `config.max_new_tokens`.

    Greedy, drawn, or by beam search, as `config` says; of equal scores the lower id.

    Args:
      decoder: read only.
      prefix: embedded prompt; its dtype is the compute dtype. At least one position of every
        sample must be valid.
      prefix_valid: False at padding and at visual tokens that are missing.
      eos: the end token; or several, each of which ends the text and the first of which fills what
        is left of it; or none, `()`.
      reg: id of the `<reg>` token and Q, the size of its block; hidden states are kept then. Not
        with beams nor with a machine.
      banned: ids that are never emitted (`<image>`).
      prompt_tokens: ids of the prompt (and of what stood before it in `cache`), -1 where there is
        none, for the repetition penalty; without them it looks at the answer alone.
      machine: what the text has to look like; it ends only where the machine may, so there are no
        stop strings beside one.
      cache: of what was said before: the text goes on after it. It is not changed.
      cache_length: slots of a new cache; `L + max_new_tokens` unless given.
      keep_hidden: fill `Generated.hidden`. Not with beams.
      keep_cache: fill `Generated.cache`. Not with beams.
      decode: ids to text, needed for `config.stop`. A text ends with the token that completes a
        stop string (`text_of` cuts it to the letter). Beams do not know of stop strings: the best
        hypothesis is cut, and its score remains that of the whole.

    Raises:
      ConfigError: a prompt without a token, a cache too small, a longer text than the decoder's
        positions, ids outside its vocabulary, a machine that no text fits, or what does not go
        together.
    """
    _check_stop(config, decode, machine)
    request = make_request(
        decoder, prefix, prefix_valid, config=config, eos=eos, reg=reg, banned=banned,
        prompt_tokens=prompt_tokens, machine=machine, cache=cache, cache_length=cache_length,
        keep_hidden=keep_hidden, keep_cache=keep_cache,
    )  # fmt: skip
    if config.num_beams > 1:
        found = search(request, config.length_penalty, config.early_stopping)
        return _cut(request, found, decode, config.stop)
    if config.stop:
        return Stream(request, None, decode, config.stop).result
    state, view = start(request)
    if request.plan.reads:
        state, view = go_on(request, state, request.plan.reads)
    return result(request, state, view)


def stream(
    decoder: Decoder,
    prefix: Float[Array, "B L D"],
    prefix_valid: Bool[Any, "B L"],
    *,
    chunk: int | None = None,
    config: GenerationConfig = GREEDY,
    eos: int | tuple[int, ...],
    reg: tuple[int, int] | None = None,
    banned: tuple[int, ...] = (),
    prompt_tokens: Int[Any, "B N"] | None = None,
    machine: TokenMachine | None = None,
    cache: KVCache | None = None,
    cache_length: int | None = None,
    keep_hidden: bool = False,
    keep_cache: bool = False,
    decode: Decode | None = None,
) -> Stream:
    """`generate` in pieces: an iterator over `Chunk`s, whose `.result` is then the whole.

    Tokens, text and result are those of `generate`, whatever the size of the chunks.

    Args:
      chunk: tokens of a chunk at most; the first is one token. None: 8, and twice as many after
        each chunk that came within 10 ms.
      decode: ids to text: fills `Chunk.text`, and is needed for `config.stop`.
      config, eos, ...: as `generate`.

    Raises:
      ConfigError: as `generate`; and beams, which are known only at the end.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError("not a size", where="stream(chunk)", expected="1 or more", found=chunk)
    if config.num_beams > 1:
        raise ConfigError(
            "beams are known only at the end", where="stream(config.num_beams)", expected=1,
            found=config.num_beams, remedy="use generate",
        )  # fmt: skip
    _check_stop(config, decode, machine)
    request = make_request(
        decoder, prefix, prefix_valid, config=config, eos=eos, reg=reg, banned=banned,
        prompt_tokens=prompt_tokens, machine=machine, cache=cache, cache_length=cache_length,
        keep_hidden=keep_hidden, keep_cache=keep_cache,
    )  # fmt: skip
    return Stream(request, chunk, decode, config.stop)


def _check_stop(
    config: GenerationConfig, decode: Decode | None, machine: TokenMachine | None
) -> None:
    if config.stop and machine is not None:
        raise ConfigError(
            "a stop string would cut what a machine keeps whole", where="generate(config.stop)",
            expected="none with a machine", found=config.stop,
        )  # fmt: skip
    if config.stop and decode is None:
        raise ConfigError(
            "stop strings are found in text", where="generate(decode)", expected="ids to text",
            found=None, remedy="give the tokenizer's decode",
        )  # fmt: skip


def _cut(
    request: Request, found: Generated, decode: Decode | None, stop: tuple[str, ...]
) -> Generated:
    """Tokens and length without what stands behind a stop string."""
    if decode is None or not stop:
        return found
    tokens, length = np.array(found.tokens), np.array(found.length)
    for row, end in enumerate(length):
        text = TextStream(decode, stop)
        text.feed(tokens[row, :end].tolist())
        if text.stopped:
            length[row] = text.tokens
            tokens[row, text.tokens :] = request.rules.eos
    return dataclasses.replace(found, tokens=jnp.asarray(tokens), length=jnp.asarray(length))
