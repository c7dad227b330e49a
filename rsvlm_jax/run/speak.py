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

from rsvlm_jax.config import ConfigError, DataError, GenerationConfig
from rsvlm_jax.core.shapes import Array, Int
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.chat import ChatProcessor, Row
from rsvlm_jax.data.messages import Message, escape
from rsvlm_jax.generate import (
    Ranked,
    TokenMachine,
    encode_prefix,
    generate,
    rank,
    stream,
    text_of,
)
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
          machine: what the answers have to look like; see `machine`. No stop strings beside it.
          ready: the pictures are those of `ChatProcessor.pixels` already.
          shared: the same pictures everywhere: they, and the words that all begin with, are read
            once for all conversations.

        Raises:
          DataError: a conversation or a picture that cannot be, or a prompt that leaves no room
            for an answer.
        """
        if not conversations:
            return []
        looked = [()] * len(conversations) if pictures is None else pictures
        _check_pictures("answer", conversations, looked)
        rows = [self.prompt(c, len(p), config) for c, p in zip(conversations, looked, strict=True)]
        config, ends = self.ending(config, machine)
        cache, words = None, None
        if shared:
            cache, rows, looked, words = self._after_shared(rows, looked, ready, config)
        pixels = looked if ready else [[self.processor.pixels(p) for p in some] for some in looked]
        batch = self.batch(rows, pixels, room=config.max_new_tokens)
        prefix, valid = self.model.embed_prompts(batch)
        made = generate(
            self.model.decoder, prefix, valid, config=config, eos=ends, banned=self.barred,
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
        row = self.prompt(conversation, len(pictures), config)
        config, ends = self.ending(config)
        pixels = [[self.processor.pixels(p) for p in pictures]]
        batch = self.batch([row], pixels, room=config.max_new_tokens)
        prefix, valid = self.model.embed_prompts(batch)
        chunks = stream(
            self.model.decoder, prefix, valid, config=config, eos=ends,
            banned=self.barred, prompt_tokens=words_of(batch), decode=self.processor.decode,
        )  # fmt: skip
        return stripped(chunk.text[0] for chunk in chunks if chunk.text is not None)

    def rank(
        self,
        conversations: Sequence[str | Sequence[Message]],
        labels: Sequence[str],
        pictures: Sequence[Sequence[Picture]] | None = None,
        *,
        ready: bool = False,
    ) -> Ranked:
        """How likely each label is as the answer to each conversation, its end included.

        Nothing is generated: the prompts are read once, and the tokens that training would
        supervise in each label after them.

        Args:
          conversations, pictures, ready: as `answer`.

        Returns:
          log-likelihoods [conversations, labels], of whole labels and by token.

        Raises:
          DataError: as `answer`. ConfigError: no labels.
        """
        looked = [()] * len(conversations) if pictures is None else pictures
        _check_pictures("rank", conversations, looked)
        answers = [self._label(label) for label in labels]
        config = GenerationConfig(max_new_tokens=max((len(a) for a in answers), default=1))
        rows = [self.prompt(c, len(p), config) for c, p in zip(conversations, looked, strict=True)]
        pixels = looked if ready else [[self.processor.pixels(p) for p in some] for some in looked]
        batch = self.batch(rows, pixels, room=config.max_new_tokens)
        return rank(self.model.decoder, *self.model.embed_prompts(batch), answers)

    def _label(self, label: str) -> list[int]:
        """Ids of an answer as they follow a prompt, its end included."""
        asked = [Message("user", "?")]
        before = self.processor.encode(asked, images=0).ids
        row = self.processor.encode([*asked, Message("assistant", escape(label))], images=0)
        if row.ids[: len(before)] != before:
            raise ConfigError(
                "the answer changes the tokens before it",
                where=f"template {self.processor.template}", found=repr(label),
            )  # fmt: skip
        learnt = [i for i, weight in enumerate(row.weight) if weight]
        return row.ids[len(before) : learnt[-1] + 1]

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

    def prompt(
        self, conversation: str | Sequence[Message], pictures: int, config: GenerationConfig
    ) -> Row:
        """As `encode`, with room for the answer.

        Raises:
          DataError: too little is left of the context.
        """
        row = self.encode(conversation, pictures)
        positions = self.model.decoder.config.positions
        if len(row.ids) + config.max_new_tokens > positions:
            raise DataError(
                "the prompt leaves no room for the answer", where="conversation",
                expected=f"at most {positions} tokens with {config.max_new_tokens} for the answer",
                found=len(row.ids),
                remedy="ask in fewer words, with fewer images, or set max_new_tokens lower",
            )  # fmt: skip
        return row

    def batch(
        self, rows: Sequence[Row], pixels: Sequence[Sequence[np.ndarray]], *, room: int
    ) -> Batch:
        """Prompts padded on the left, `room` positions left for the answer."""
        longest = max(len(row.ids) for row in rows)
        length = min(rounded(longest), max(self.model.decoder.config.positions - room, longest))
        return self.processor.batch(rows, pixels, side="left", length=length)

    @property
    def barred(self) -> tuple[int, ...]:
        image = self.processor.image_token
        return () if image is None else (image,)

    def ending(
        self, config: GenerationConfig, machine: TokenMachine | None = None
    ) -> tuple[GenerationConfig, tuple[int, ...]]:
        """The config with the stop strings of the template, and the ids that end an answer.

        A stop string that is a special token becomes such an id. Under a machine, which says
        itself where a text ends, the template's own strings are left out.

        Raises:
          ConfigError: one that no answer can hold (`ChatProcessor.check_stop`).
        """
        stop = self.processor.check_stop(config.stop)
        if machine is not None:
            stop = tuple(word for word in stop if word in config.stop)
        ends = (*self.processor.ends, *self.model.ends, *self.processor.stop_ids(config.stop))
        return dataclasses.replace(config, stop=stop), tuple(dict.fromkeys(ends))


def _check_pictures(where: str, conversations: Sequence[Any], looked: Sequence[Any]) -> None:
    if len(looked) != len(conversations):
        raise ConfigError(
            "pictures of other conversations", where=f"{where}(pictures)",
            expected=f"{len(conversations)} lists", found=len(looked),
        )  # fmt: skip


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
