"""`Speaker`: conversations and pictures in, text out.

    messages, pictures --processor--> ids, pixels --model--> embedded prompts --decoder--> text

A batch is one program for all prompts of nearly the same length: prompts are padded on the left to
the next of a few lengths. What the model is (LLaVA, a language model, a run of conversations) is
not asked here, nor what is done with the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import ConfigError, GenerationConfig
from rsvlm_jax.core.shapes import Array, Int
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.chat import ChatProcessor, Row
from rsvlm_jax.data.messages import Message
from rsvlm_jax.generate import TokenMachine, encode_prefix, generate, stream, text_of
from rsvlm_jax.generate.grammar import compile_grammar, token_bytes
from rsvlm_jax.nn import KVCache

from .pretrained import Pretrained

GREEDY = GenerationConfig()

Picture = Any
"""A path, a PIL image or an array u8 [H,W,3]."""


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A model that talks, with its processor.

    Attributes:
      model: numbers, and the ids that end an answer.
      processor: template, preprocessing, tokenizer.
    """

    model: Pretrained
    processor: ChatProcessor

    def answer(
        self,
        conversations: Sequence[str | Sequence[Message]],
        pictures: Sequence[Sequence[Picture]] | None = None,
        *,
        config: GenerationConfig = GREEDY,
        machine: TokenMachine | None = None,
        ready: bool = False,
        shared: bool = False,
    ) -> list[str]:
        """An answer to each conversation, whose last message is the user's.

        Args:
          conversations: a str is one message of the user.
          pictures: of each conversation, in the order of its `<image>`; one alone may be left out
            of the text and stands before it then.
          machine: what the answers have to look like; see `machine`.
          ready: the pictures are those of `ChatProcessor.pixels` already.
          shared: the same pictures everywhere: they, and the words that all begin with, are read
            once for all conversations.

        Raises:
          DataError: a conversation or a picture that cannot be, or a prompt that is too long.
        """
        if not conversations:
            return []
        looked = [()] * len(conversations) if pictures is None else pictures
        if len(looked) != len(conversations):
            raise ConfigError(
                "pictures of other conversations", where="answer(pictures)",
                expected=f"{len(conversations)} lists", found=len(looked),
            )  # fmt: skip
        rows = [self.encode(c, len(p)) for c, p in zip(conversations, looked, strict=True)]
        config = self.stopping(config)
        cache, words = None, None
        if shared:
            cache, rows, looked, words = self._after_shared(rows, looked, ready, config)
        pixels = looked if ready else [[self.processor.pixels(p) for p in some] for some in looked]
        batch = self.batch(rows, pixels, room=config.max_new_tokens)
        prefix, valid = self.model.embed_prompts(batch)
        made = generate(
            self.model.decoder, prefix, valid, config=config, eos=self.ends, banned=self.barred,
            prompt_tokens=words_of(batch) if words is None else words, machine=machine,
            cache=cache, decode=self.processor.decode,
        )  # fmt: skip
        tokens, length = np.asarray(made.tokens), np.asarray(made.length)
        return [
            text_of(t[:n].tolist(), self.processor.decode, config.stop).strip()
            for t, n in zip(tokens, length, strict=True)
        ]

    def _after_shared(
        self,
        rows: Sequence[Row],
        pictures: Sequence[Sequence[Picture]],
        ready: bool,
        config: GenerationConfig,
    ) -> tuple[KVCache, list[Row], list[list[Picture]], Int[Array, "B L"]]:
        """What all begin with, read once: a cache, what is left of the prompts, all words."""
        image, ids = self.processor.image_token, [row.ids for row in rows]
        images = rows[0].images
        kept = same_beginning(ids)
        first = ids[0]
        if any(row.images != images for row in rows) or image in first[kept:]:
            raise ConfigError(
                "pictures that are not shared", where="answer(shared)",
                expected="the same pictures, before anything that differs",
                found=f"{images} images",
            )  # fmt: skip
        pixels = list(pictures[0]) if ready else [self.processor.pixels(p) for p in pictures[0]]
        beginning = Row(first[:kept], [0.0] * kept, images)
        batch = self.batch([beginning], [pixels], room=config.max_new_tokens)
        prefix = encode_prefix(self.model.decoder, *self.model.embed_prompts(batch))
        rest = [Row(row.ids[kept:], row.weight[kept:], 0) for row in rows]
        length = rounded(max(len(row.ids) for row in rest))
        words = np.full((len(rows), kept + length), -1, np.int32)
        for out, row in zip(words, rows, strict=True):
            out[: len(row.ids)] = [-1 if i == image else i for i in row.ids]
        cache = prefix.cache(len(rows), length + config.max_new_tokens)
        return cache, rest, [[] for _ in rest], jnp.asarray(words)

    def stream(
        self,
        conversation: str | Sequence[Message],
        pictures: Sequence[Picture] = (),
        *,
        config: GenerationConfig = GREEDY,
    ) -> Iterator[str]:
        """The answer to one conversation, while it comes; together it is that of `answer`.

        Raises:
          DataError, ConfigError: as `answer`, before the first piece; beams cannot be streamed.
        """
        row = self.encode(conversation, len(pictures))
        pixels = [[self.processor.pixels(p) for p in pictures]]
        batch = self.batch([row], pixels, room=config.max_new_tokens)
        prefix, valid = self.model.embed_prompts(batch)
        chunks = stream(
            self.model.decoder, prefix, valid, config=self.stopping(config), eos=self.ends,
            banned=self.barred, prompt_tokens=words_of(batch), decode=self.processor.decode,
        )  # fmt: skip
        return stripped(chunk.text[0] for chunk in chunks if chunk.text is not None)

    def machine(self, pattern: str) -> TokenMachine:
        """What `answer` takes for answers that match a pattern, whole.

        Args:
          pattern: a regular expression, as `choices`, `box` and `number` of
            `rsvlm_jax.generate.grammar` make them.

        Raises:
          ConfigError: it is not understood, or these tokens cannot write it.
        """
        rows = self.model.decoder.config.vocab_size
        vocabulary = token_bytes(self.processor.tokenizer.text)
        return compile_grammar(pattern, vocabulary, rows=rows)

    # ---- what a session needs too ----------------------------------------------------------------

    def encode(self, conversation: str | Sequence[Message], pictures: int) -> Row:
        """The prompt of a conversation about some pictures."""
        if isinstance(conversation, str):
            conversation = [Message("user", conversation)]
        return self.processor.encode(conversation, images=pictures)

    def batch(
        self, rows: Sequence[Row], pixels: Sequence[Sequence[np.ndarray]], *, room: int
    ) -> Batch:
        """Prompts padded on the left, `room` positions left for the answer."""
        longest = max(len(row.ids) for row in rows)
        length = min(rounded(longest), max(self.model.decoder.config.positions - room, longest))
        return self.processor.batch(rows, pixels, side="left", length=length)

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((*self.processor.ends, *self.model.ends)))

    @property
    def barred(self) -> tuple[int, ...]:
        image = self.processor.image_token
        return () if image is None else (image,)

    def stopping(self, config: GenerationConfig) -> GenerationConfig:
        """With the stop strings of the template.

        Raises:
          ConfigError: one that no answer can hold (`ChatProcessor.check_stop`).
        """
        return dataclasses.replace(config, stop=self.processor.check_stop(config.stop))


def rounded(n: int) -> int:
    """The next of the lengths that prompts are padded to: at most a third, or 127, too long."""
    for length in (16, 24, 32, 48, 64, 96, 128):
        if n <= length:
            return length
    return -(-n // 128) * 128


def same_beginning(ids: Sequence[Sequence[int]]) -> int:
    """Tokens that all of several prompts begin with; of each at least one is left."""
    least = min(len(row) for row in ids) - 1
    first = ids[0]
    return next((i for i in range(least) if any(row[i] != first[i] for row in ids)), least)


def words_of(batch: Batch) -> Int[Array, "B L"]:
    """Ids of the text of a batch [B,L], -1 at padding and at images."""
    said = (np.asarray(batch.segment) > 0) & (np.asarray(batch.image_slot) < 0)
    return jnp.asarray(np.where(said, np.asarray(batch.tokens), -1), jnp.int32)


def stripped(parts: Iterator[str]) -> Iterator[str]:
    """Text in pieces, without white space at its beginning and end."""
    begun, held = False, ""
    for part in parts:
        text = held + (part if begun else part.lstrip())
        begun = begun or bool(text)
        kept = text.rstrip()
        held = text[len(kept) :]
        if kept:
            yield kept
