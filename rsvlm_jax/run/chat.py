"""Talking to a model: sessions of several turns, with pictures or with places of a cube.

    ImageChat(speaker)      LLaVA and its kin, and language models: turns, streamed
    CubeChat(loaded)        a run that reads cubes: questions about a place

`rsvlm chat` is a loop around either. An ImageChat keeps keys and values of the turns so far, so a
turn costs its own tokens and not the whole conversation again::

    slots   USER: <image> What? ASSISTANT: Ships.  </s>USER: How many? ASSISTANT:
            ------------- kept ------------------ | ----------- read now -------

What is kept is what the new prompt begins with, token for token: the words of an answer may come
out of the tokenizer in other pieces than they were said in, and are then read again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import ConfigError, DataError, GenerationConfig
from rsvlm_jax.data.chat import Row
from rsvlm_jax.data.messages import IMAGE, Message, count_images, escape
from rsvlm_jax.generate import stream
from rsvlm_jax.nn import KVCache

from .cubes import find_cube
from .load import load
from .pretrained import Pretrained
from .speak import GREEDY, Picture, Speaker, rounded, stripped
from .trained import Loaded

STEP = 512
"""Slots that the cache of a conversation grows by."""


class ImageChat:
    """A conversation with a model of images and text.

    Args:
      picture_of: draws a cube as a picture and says what it shows (`visit`); None: cubes are
        refused.
    """

    def __init__(
        self,
        speaker: Speaker,
        *,
        config: GenerationConfig = GREEDY,
        system: str | None = None,
        picture_of: Callable[[str, tuple[int, int] | None], tuple[np.ndarray, str]] | None = None,
    ) -> None:
        _check_beams(config)
        self.speaker = speaker
        self.config = config
        self._picture_of = picture_of
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Begin anew, with another system message or that of the template."""
        self.messages: list[Message] = [] if system is None else [Message("system", system)]
        self._pictures: list[np.ndarray] = []  # of the conversation, as the tower reads them
        self._waiting: list[np.ndarray] = []  # for the next question
        self._ids: list[int] = []  # what stands in the valid slots of the cache
        self._cache: KVCache | None = None

    def look(self, picture: Picture, name: str) -> str:
        """Take up a picture; it goes along with the next question.

        Raises:
          DataError: it cannot be read. ConfigError: the model reads none.
        """
        if self.speaker.processor.image is None:
            raise ConfigError("the model reads no images", where=self.speaker.model.path)
        self._waiting.append(self.speaker.processor.pixels(picture))
        return f"looking at {name}"

    def visit(self, cube: str, at: tuple[int, int] | None) -> str:
        """Take up a cube as a picture: its clearest date in the colours of its first frame."""
        if self._picture_of is None:
            raise ConfigError("this chat draws no cubes", where="visit", found=cube)
        picture, shows = self._picture_of(cube, at)
        return self.look(picture, shows)

    def ask(self, question: str) -> Iterator[str]:
        """The answer, in pieces. It becomes part of the conversation when the last is taken.

        An answer that is left half taken is part of it as far as it was taken. An empty one is not,
        nor is its question: a conversation has no empty turns. Its pictures wait for the next.

        Raises:
          DataError, ConfigError: an empty question, or a conversation longer than the model's
            context; the conversation is then as before.
        """
        if not question.strip():
            raise DataError("an empty question", where="ask", expected="some words")
        # A question that writes <image> itself says where its pictures stand.
        marks = "" if count_images(question) else f"{IMAGE}\n" * len(self._waiting)
        messages = [*self.messages, Message("user", marks + question)]
        pictures = [*self._pictures, *self._waiting]
        row = self.speaker.encode(messages, len(pictures))
        model = self.speaker.model
        positions = model.decoder.config.positions
        left = positions - len(row.ids)
        if left < 1:
            raise DataError(
                "the conversation is longer than the model's context", where="ask",
                expected=f"< {positions} tokens", found=len(row.ids),
                remedy="begin anew (/reset)",
            )  # fmt: skip
        config = dataclasses.replace(
            self.config, max_new_tokens=min(self.config.max_new_tokens, left)
        )
        pieces = self._stream(row, pictures, config)

        said: list[str] = []
        try:
            for piece in stripped(pieces):
                said.append(piece)
                yield piece
        except Exception:
            said.clear()
            raise
        finally:
            pieces.close()
            if said:
                self._pictures, self._waiting = pictures, []
                self.messages = [*messages, Message("assistant", escape("".join(said)))]

    def _stream(
        self, row: Row, pictures: list[np.ndarray], config: GenerationConfig
    ) -> Generator[str, None, None]:
        model, processor = self.speaker.model, self.speaker.processor
        kept = self._kept(row)
        images = sum(i == processor.image_token for i in row.ids[:kept]) // processor.per_image
        rest = Row(row.ids[kept:], row.weight[kept:], row.images - images)
        length = rounded(len(rest.ids))
        cache = self._room(kept, length + config.max_new_tokens)
        batch = processor.batch([rest], [pictures[images:]], side="left", length=length)
        prefix, valid = model.embed_prompts(batch)
        words = [-1 if i == processor.image_token else i for i in row.ids]
        config, ends = self.speaker.ending(config)
        chunks = stream(
            model.decoder, prefix, valid, config=config, eos=ends,
            banned=self.speaker.barred, prompt_tokens=jnp.asarray([words], jnp.int32), cache=cache,
            keep_cache=True, decode=processor.decode,
        )  # fmt: skip
        said: list[int] = []
        try:
            for chunk in chunks:
                said += chunk.tokens[0, : chunk.length[0]].tolist()
                yield (chunk.text or ("",))[0]
        except BaseException:
            self._ids, self._cache = [], None  # its loop may be under way: read again
            raise
        made = chunks.result
        assert made.cache is not None
        self._ids = [*row.ids, *said]
        self._cache = made.cache

    def _kept(self, row: Row) -> int:
        """Tokens at the beginning of a prompt that stand in the cache; at least one is read.

        An image is kept whole or not at all.
        """
        same = 0
        for a, b in zip(self._ids, row.ids[:-1], strict=False):
            if a != b:
                break
            same += 1
        image = self.speaker.processor.image_token
        while 0 < same < len(row.ids) and row.ids[same] == image == row.ids[same - 1]:
            same -= 1
        return same

    def _room(self, kept: int, more: int) -> KVCache:
        """The cache with `kept` tokens and `more` slots behind them."""
        model = self.speaker.model
        if self._cache is None or kept == 0:
            slots = -(-more // STEP) * STEP
            return model.decoder.empty_cache(1, slots, model.dtype)
        valid = np.asarray(self._cache.valid[0])
        used = int(np.flatnonzero(valid)[kept - 1]) + 1
        cache = self._cache.rewound(jnp.int32(used))
        return cache.grown(-(-(used + more) // STEP) * STEP)


class CubeChat:
    """Questions to a run that reads cubes, about one place at a time. Each stands for itself."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._batch: Any = None

    def reset(self, system: str | None = None) -> None:
        """Leave the place. The model knows no system message."""
        if system is not None:
            raise ConfigError(
                "the model was trained without a system message", where="reset", found=system[:40]
            )
        self._batch = None

    def look(self, picture: Picture, name: str) -> str:
        """Refused: the model reads band sets with their dates, not pictures."""
        raise ConfigError(
            "the model reads cubes, not pictures", where=name, remedy="/cube PATH ROW COL"
        )

    def visit(self, cube: str, at: tuple[int, int] | None) -> str:
        """Go to a window of a cube, by the row and column of its upper left pixel.

        Raises:
          CubeError, DataError: no such cube, no such place, or bands that the model does not read.
        """
        row, col = (0, 0) if at is None else at
        self._batch = self.loaded.window(find_cube(cube), row, col)
        return f"at row {row}, column {col} of {cube}"

    def ask(self, question: str) -> Iterator[str]:
        """The answer, whole: its number is known when the model has read all of it."""
        if self._batch is None:
            raise ConfigError("no place yet", where="ask", remedy="/cube PATH ROW COL")
        (answer,) = self.loaded.chat(question, self._batch)
        yield answer.text


def open_session(
    path: str | os.PathLike[str],
    *,
    config: GenerationConfig = GREEDY,
    system: str | None = None,
    picture_of: Callable[[str, tuple[int, int] | None], tuple[np.ndarray, str]] | None = None,
    **options: Any,
) -> ImageChat | CubeChat:
    """A session with what stands in a directory; `options` as `rsvlm_jax.load`.

    Raises:
      CheckpointError: nothing that talks. ConfigError: an option that is not of its kind.
    """
    _check_beams(config)
    options = {k: v for k, v in options.items() if v is not None}
    loaded = load(Path(path), **options)
    if isinstance(loaded, Pretrained):
        speaker = Speaker(loaded, loaded.processor)
        return ImageChat(speaker, config=config, system=system, picture_of=picture_of)
    session = CubeChat(loaded)
    if system is not None:
        session.reset(system)
    return session


def _check_beams(config: GenerationConfig) -> None:
    if config.num_beams > 1:
        raise ConfigError(
            "beams are known only at the end", where="chat", expected="num_beams = 1",
            found=config.num_beams,
        )  # fmt: skip
