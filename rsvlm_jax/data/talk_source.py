"""Conversations of one split: lengths of all, tokens and pictures of those that are asked for.

    files -> conversations -> TalkSource -> batch(rows, shape)

A conversation whose image cannot be read keeps its place with weight 0 and is recorded in `bad`:
the order of all others, and so a resumed run, does not change. Not here: templates and
preprocessing (`chat`), which conversations stand in which row (`plan`), order and threads (`talk`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rsvlm_jax.config import ConversationConfig, DataError
from rsvlm_jax.core.shapes import Int

from .batch import Batch, Images
from .chat import ChatProcessor
from .conversations import Conversation, held_out, read_conversations
from .fitting import fit_rows
from .gallery import Gallery
from .packing import lay_out
from .pieces import Row
from .plan import Shape
from .samples import BadSample

Split = Literal["train", "held_out"]


class TalkSource:
    """The conversations of one split. Pickles as what was said and paths; holds no open file.

    Attributes:
      config, processor: of the run.
      conversations: of this split; `sample` numbers of a batch are places in it.
      tokens, images: i64[n], of each: tokens with those of images, images.
      turns: i64[n], how many of its messages are used: a longer one is cut after its last answer
        that fits; within the first answer, if that does not.
      weights: f64[n], of its file.
      gallery: of their pictures.
      bad: why a conversation could not be read, by number.
      digest: of all that decides what is read.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        processor: ChatProcessor,
        config: ConversationConfig,
        *,
        weights: Sequence[float] | np.ndarray | None = None,
        tower: str | None = None,
        error_budget: float = 0.1,
    ) -> None:
        """Tokenise all conversations once, for their lengths; pictures are read later.

        Args:
          weights: of each; None: 1.
          tower: digest of the tower that features have to be of (`digest_of`); None: any.
          error_budget: share of unreadable conversations that is borne.

        Raises:
          DataError: no conversations; one whose images do not fit into a row, or of which nothing
            is supervised; features of another tower or preprocessing.
        """
        self.conversations = tuple(conversations)
        if not self.conversations:
            raise DataError("an empty split", where="conversations", expected="one or more")
        self.processor, self.config = processor, config
        fitted = fit_rows(processor, self.conversations, config.length)
        self.turns = np.array([f.turns for f in fitted], np.int64)
        self.tokens = np.array([f.tokens for f in fitted], np.int64)
        self.images = np.array([f.images for f in fitted], np.int64)
        n = len(self.conversations)
        self.weights = np.ones(n) if weights is None else np.asarray(weights, np.float64)
        self.error_budget = error_budget
        paths = {p for c in self.conversations for p in c.paths}
        self.gallery = Gallery(processor, paths, config.features, tower=tower)
        self.bad: dict[int, str] = {}
        self._lock = threading.Lock()
        self.digest = self._digest()

    @classmethod
    def of(
        cls,
        config: ConversationConfig,
        processor: ChatProcessor,
        split: Split,
        *,
        tower: str | None = None,
    ) -> TalkSource:
        """The training or the held-out conversations of a configuration's files.

        Raises:
          DataError, ConfigError: see `read_conversations`, `held_out` and `TalkSource`.
        """
        files = [read_conversations(f, images=config.images) for f, _ in config.files]
        found = [c for file in files for c in file]
        weights = np.repeat([w for _, w in config.files], [len(f) for f in files])
        wanted = held_out(found, config.held_out, config.held_out_by)
        if split == "train":
            wanted = ~wanted
        chosen = [c for c, use in zip(found, wanted, strict=True) if use]
        return cls(chosen, processor, config, weights=weights[wanted], tower=tower)

    def __len__(self) -> int:
        return len(self.conversations)

    def row(self, number: int) -> Row:
        """A conversation's tokens."""
        messages = self.conversations[number].messages[: self.turns[number]]
        return self.processor.encode(messages, length=self.config.length)

    def pictures(self, number: int) -> list[np.ndarray]:
        """What the tower reads of a conversation's images, or has made of them.

        Raises:
          DataError: an image that cannot be read.
        """
        return [self.gallery.read(p) for p in self.conversations[number].paths]

    def batch(
        self,
        rows: Sequence[Sequence[int]],
        shape: Shape,
        numbers: Int[np.ndarray, " b"] | None = None,
    ) -> tuple[Batch, list[BadSample]]:
        """Conversations by row, one or several in each, as a batch.

        Image i of row b is picture `b * shape.images + i`: pictures lie on the device of their
        row. What a row does not use is 0, and no prompt names it.

        Args:
          numbers: of the rows within the whole batch; None: these are all of it.

        Raises:
          DataError: more conversations than the error budget allows could not be read.
        """
        processor = self.processor
        laid = lay_out(
            [[self.row(n) for n in row] for row in rows],
            shape.length,
            vocabulary=processor.vocab_size,
            image_token=processor.image_token,
            per_image=max(1, processor.per_image),  # 0 without images
        )
        gallery = self.gallery
        pictures = np.zeros((len(rows), shape.images, *gallery.shape), gallery.dtype)
        sample = np.full(len(rows), -1, np.int32)
        unread: list[BadSample] = []
        for r, row in enumerate(rows):
            i = 0
            for segment, number in enumerate(row, 1):
                count = int(self.images[number])
                try:
                    for j, picture in enumerate(self.pictures(number)[:count], i):
                        pictures[r, j] = picture
                except DataError as error:
                    laid.weight[r, laid.segment[r] == segment] = 0
                    unread.append(self.sample(number, str(error)))
                    self.record(unread[-1])
                else:
                    sample[r] = number if sample[r] < 0 else sample[r]
                i += count
        index = np.arange(shape.images)
        numbers = np.arange(len(rows)) if numbers is None else numbers
        of = numbers[:, None] * shape.images + index
        of = np.where(index < laid.images[:, None], of, -1).astype(np.int32)
        flat = pictures.reshape(len(rows) * shape.images, *gallery.shape)
        images = None
        if shape.images:
            read = gallery.features is None
            images = Images(flat if read else None, of, features=None if read else flat)
        batch = Batch(
            obs={},
            tokens=laid.tokens,
            segment=laid.segment,
            position=laid.position,
            weight=laid.weight,
            image_slot=laid.image_slot,
            target=np.zeros((len(rows), 0), np.float32),
            target_valid=np.zeros((len(rows), 0), bool),
            sample=sample,
            images=images,
        )
        return batch, unread

    def unread(self) -> list[BadSample]:
        """What `bad` holds, as samples."""
        with self._lock:
            files = ((n, self.conversations[n].file, why) for n, why in self.bad.items())
            return [BadSample(n, file, None, why) for n, file, why in files]

    @property
    def unreadable(self) -> dict[str, Any]:
        """{"windows": how many could not be read so far, "first": why the first of them}."""
        with self._lock:
            return {"windows": len(self.bad), "first": next(iter(self.bad.values()), None)}

    def record(self, bad: BadSample) -> None:
        """Counts an unreadable conversation of this process or of a worker.

        Raises:
          DataError: there are more than the budget allows.
        """
        with self._lock:
            self.bad.setdefault(bad.sample, bad.reason)
            n = len(self.bad)
        if n > self.error_budget * len(self):
            raise DataError(
                "too many conversations cannot be read",
                where=bad.cube,
                expected=f"at most {self.error_budget:.0%} of {len(self)}",
                found=f"{n}, the last: {bad.reason}",
                remedy="mend or remove their images",
            )

    def sample(self, number: int, reason: str = "") -> BadSample:
        """A conversation, by its file and the id that it has there."""
        conversation = self.conversations[number]
        said = f"id {conversation.id!r}{': ' if reason else ''}{reason}"
        return BadSample(number, conversation.file, None, said)

    def _digest(self) -> str:
        h = hashlib.sha256(f"{self.processor.digest()} {self.config.length}".encode())
        for c in self.conversations:
            h.update(repr((c.id, c.images, c.messages)).encode("utf-8", "surrogatepass"))
        h.update(self.weights.tobytes())
        return h.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
