"""Batches by number, as grain's random access: what a read thread or a worker computes.

TrainElements[k] -> part of batch k of an endless sequence, and what could not be read of it
EvalElements[k]  -> batch k of ceil(n / B)
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Protocol, runtime_checkable

import numpy as np

from . import chance
from .batch import Batch
from .processor import Processor
from .samples import BadSample, assemble, filled
from .source import CubeSource
from .stream import Stream

Element = tuple[Batch, list[BadSample]]


@runtime_checkable
class Elements(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Element: ...
    def record(self, bad: BadSample) -> None: ...
    def unread(self) -> list[BadSample]: ...
    def samples(self, index: int) -> list[BadSample]: ...


@dataclasses.dataclass(frozen=True)
class From:
    """The elements from one on: a place is taken up by starting there."""

    elements: Elements
    first: int

    def __len__(self) -> int:
        return max(0, len(self.elements) - self.first)

    def __getitem__(self, index: int) -> Element:
        return self.elements[self.first + int(index)]


class TrainElements:
    """Part of batch k by k."""

    def __init__(
        self,
        stream: Stream,
        processor: Processor,
        batch_size: int,
        rows: np.ndarray,
        seed: int,
        augment: bool,
    ) -> None:
        """`rows`: which samples of a batch of `batch_size` are read here."""
        self._stream, self._processor = stream, processor
        self._size, self._rows = batch_size, rows
        self._seed, self._augment = seed, augment
        self._questions = processor.data.templates == "questions"
        self._table = processor.table

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Element:
        first, b, rows = index * self._size, self._size, self._rows
        whole = np.arange(first, first + b)
        turn = None
        if self._augment:
            u = chance.uniforms(self._seed, chance.AUGMENT, first, b)
            turn = (u[rows, 0] * 8).astype(np.int64)
        if self._questions:
            drawn = self._processor.questions.draw(self._seed, first, b)
            text = self._table.take(drawn[rows])
        else:
            text = self._table.take(np.zeros(len(rows), np.int64))
        # The length of a series is that of the whole batch: all processes have one shape.
        lengths = self._stream.lengths(whole)
        reads = self._stream.read(whole[rows], turn, lengths)
        return assemble(reads, self._processor, text, teach=True), reads["unread"]

    def record(self, bad: BadSample) -> None:
        self._stream.record(bad)

    def unread(self) -> list[BadSample]:
        return self._stream.unread()

    def samples(self, index: int) -> list[BadSample]:
        """What stands in the whole of batch `index`."""
        return self._stream.samples(np.arange(index * self._size, (index + 1) * self._size))


class EvalElements:
    """Batch k of `ceil(n / B)`."""

    def __init__(
        self, source: CubeSource, processor: Processor, batch_size: int, question: str | None
    ) -> None:
        self._source, self._processor, self._size = source, processor, batch_size
        self._text = processor.regress_prompt(question).repeat(batch_size)

    def __len__(self) -> int:
        return -(-len(self._source) // self._size)

    def __getitem__(self, index: int) -> Element:
        first = index * self._size
        rows = np.arange(first, min(first + self._size, len(self._source)))
        short = self._size - len(rows)
        reads = self._source.read(rows)
        reads = filled(reads, short) if short else reads
        return assemble(reads, self._processor, self._text), reads["unread"]

    def record(self, bad: BadSample) -> None:
        self._source.record(bad)

    def unread(self) -> list[BadSample]:
        return self._source.unread()

    def samples(self, index: int) -> list[BadSample]:
        first = index * self._size
        return [
            self._source.sample(int(self._source.rows[i]))
            for i in range(first, min(first + self._size, len(self._source)))
        ]
