"""A model that says anything, as far as a machine allows it; and small real tokenizers for it.

    logits: new normal numbers for every row and token, whatever was said
    -> tokens that the machine does not allow out, the end in where a text may end -> a draw

No decoder runs, so ten thousand texts of a hard case cost a second.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from rsvlm_jax.core.shapes import Array, Int
from rsvlm_jax.generate.machine import TokenMachine

END = "</s>"


@functools.partial(jax.jit, static_argnames=("rows", "max_new"))
def babble(
    machine: TokenMachine,
    key: Array,
    eos: Int[Array, ""],
    limit: Int[Array, ""],
    *,
    rows: int,
    max_new: int,
) -> tuple[Int[Array, "B new"], Int[Array, " B"]]:
    """Random texts: tokens, `eos` from their end on, and their lengths.

    Args:
      key: of the draws.
      eos: the end token.
      limit: tokens of a text at most; `max_new` or less.
    """
    vocab = machine.token_class.shape[0]
    is_end = jnp.arange(vocab) == eos

    def step(carry: tuple[Array, Array], left: Array) -> tuple[tuple[Array, Array], Array]:
        state, done = carry
        drawn = jax.random.normal(jax.random.fold_in(key, left), (rows, vocab))
        ends = machine.may_end(state)[:, None] & is_end[None, :]
        fits = machine.allowed(state, left) | ends
        token = jnp.argmax(jnp.where(fits, drawn, -jnp.inf), axis=1).astype(jnp.int32)
        done = done | (token == eos) | (left < 1)
        token = jnp.where(done, eos, token)
        return (jnp.where(done, state, machine.step(state, token)), done), token

    start = (machine.begin(rows), jnp.zeros((rows,), bool))
    _, tokens = jax.lax.scan(step, start, limit - jnp.arange(max_new, dtype=jnp.int32))
    return tokens.T, (tokens != eos).sum(axis=0, dtype=jnp.int32)


def byte_level_bpe(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    """As GPT-2's: letters stand for bytes, "Ġ" for the space."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(made, texts, size, [END], alphabet)
    return made


def sentencepiece_bpe(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    """As Llama's: U+2581 for the space, one of them before a text, bytes where no piece is."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    _train(made, texts, size, ["<unk>", "<s>", END, *fallback], [])
    file = json.loads(made.to_str())
    file["added_tokens"] = [t for t in file["added_tokens"] if t["content"] not in fallback]
    return tokenizers.Tokenizer.from_str(json.dumps(file))


def unigram(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    """As T5's: no bytes, so a character that was not trained cannot be written."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<unk>", END], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


def _train(
    made: tokenizers.Tokenizer,
    texts: Iterable[str],
    size: int,
    first: list[str],
    letters: list[str],
) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=first, initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
