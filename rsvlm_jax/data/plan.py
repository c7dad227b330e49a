"""Which conversations stand in the rows of batch k: from lengths alone, before anything is read.

    samples   an epoch of conversations, shuffled, files in shares by weight
    rows      a conversation each; or several, packed (`packing.first_fit`)
    batches   B rows each; with `group` rows of similar length and as many images together

A plan holds no place. Batch k follows from (lengths, images, weights, seed, k), so that threads,
workers, processes and a resumed run agree. Epochs follow one another without a gap: a batch may
hold the end of one and the beginning of the next. Not here: tokens and pixels.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import threading
from typing import Any, NamedTuple

import numpy as np

from data_zarr.order import DENOMINATOR, interleave
from data_zarr.sampling import permutation
from rsvlm_jax.config import ConfigError
from rsvlm_jax.core.shapes import Float, Int

from .grouping import best_lengths, grouping, rounded
from .packing import first_fit

PACKED = 1024
"""Conversations that are packed together: more leave less padding, and take longer to place."""


class Tokens(NamedTuple):
    """What a batch holds.

    Attributes:
      real: positions that are no padding, those of images included.
      padded: all positions.
      images, frames: pictures, and rows of the batch's array of pictures.
    """

    real: int
    padded: int
    images: int
    frames: int

    def __add__(self, other: object) -> Tokens:
        if not isinstance(other, Tokens):
            return NotImplemented
        return Tokens(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def share(self) -> float:
        """Of real positions."""
        return self.real / max(1, self.padded)


class Shape(NamedTuple):
    """Of a batch: L positions a row, I images a row."""

    length: int
    images: int


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Rows in order; row r holds `samples[start[r]:start[r + 1]]`."""

    samples: np.ndarray
    start: np.ndarray
    tokens: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: np.ndarray) -> Epoch:
        """The same rows in another order."""
        size = np.diff(self.start)[rows]
        start = np.concatenate([[0], np.cumsum(size)])
        index = np.repeat(self.start[rows] - start[:-1], size) + np.arange(start[-1])
        return Epoch(self.samples[index], start, self.tokens[rows], self.images[rows])


class Plan:
    """See the module.

    Attributes:
      lengths: that batches may have, ascending.
      most_images: of a row, at most.
      epoch_samples: conversations of an epoch: the files with the largest weight are read once.
    """

    def __init__(
        self,
        tokens: Int[np.ndarray, " n"],
        images: Int[np.ndarray, " n"],
        weights: Float[np.ndarray, " n"],
        *,
        batch_size: int,
        seed: int,
        length: int,
        pack: bool,
        group: bool,
        buckets: int = 4,
    ) -> None:
        """
        Args:
          tokens, images: of each conversation; no more tokens than `length`.
          weights: how often it is read, relative to others.
          length: of a packed row; of others at most.
          buckets: lengths that grouped batches may have, at most.

        Raises:
          ConfigError: a weight so small that its conversations would never come.
        """
        self._tokens, self._images = tokens, images
        self._size, self._seed, self._length = batch_size, seed, length
        self._pack, self._group = pack, group
        most = int(images.max(initial=0))
        if pack:
            self.lengths: tuple[int, ...] = (length,)
            self.most_images = rounded(int(length * float((images / tokens).max())))
        else:
            self.lengths = best_lengths(tokens, buckets if group else 1, length)
            self.most_images = rounded(most) if group else most
        rates = sorted({float(w) for w in weights}, reverse=True)
        self._classes = [np.flatnonzero(weights == rate) for rate in rates]
        self._shares = [rate * len(c) for rate, c in zip(rates, self._classes, strict=True)]
        if min(self._shares) * DENOMINATOR < sum(self._shares):
            raise ConfigError(
                "a weight that hardly counts",
                where="ConversationConfig.files",
                expected=f"each at least 1/{DENOMINATOR} of all that is read",
                found=f"{min(self._shares):.3g} of {sum(self._shares):.3g} conversations",
            )
        self.epoch_samples = max(1, round(sum(self._shares) / rates[0]))
        self._reset()

    def rows(self, k: int) -> list[tuple[int, ...]]:
        """The conversations of each of the B rows of batch k."""
        found = []
        for epoch, first, last in self._parts(k):
            ends = epoch.start[first : last + 1].tolist()
            members = epoch.samples[ends[0] : ends[-1]].tolist()
            found += [
                tuple(members[a - ends[0] : b - ends[0]]) for a, b in itertools.pairwise(ends)
            ]
        return found

    def shape(self, k: int) -> Shape:
        """Of batch k.

        The shortest of `lengths` that holds all rows; and images for the row that has most:
        grouped or packed as many as that row has, rounded up to 1, 2, 3, 4, 6, 8, 12, 16 ..., so
        that few programs compile, otherwise always as many as the conversation that has most.
        """
        parts = self._parts(k)
        longest = max(int(e.tokens[a:b].max()) for e, a, b in parts)
        length = self.lengths[bisect.bisect_left(self.lengths, longest)]
        if not self._group and not self._pack:
            return Shape(length, self.most_images)
        return Shape(length, rounded(max(int(e.images[a:b].max()) for e, a, b in parts)))

    def tokens(self, k: int) -> Tokens:
        """What batch k holds, of all processes together."""
        shape, parts = self.shape(k), self._parts(k)
        return Tokens(
            real=sum(int(e.tokens[a:b].sum()) for e, a, b in parts),
            padded=self._size * shape.length,
            images=sum(int(e.images[a:b].sum()) for e, a, b in parts),
            frames=self._size * shape.images,
        )

    def epoch_batches(self) -> int:
        """Batches in which the first epoch is done."""
        return -(-self.epoch_rows() // self._size)

    def epoch_rows(self) -> int:
        """Rows of the first epoch."""
        return len(self._epoch(0))

    def _parts(self, k: int) -> list[tuple[Epoch, int, int]]:
        """(epoch, first row, last row) of the rows of batch k."""
        parts, at, end = [], k * self._size, (k + 1) * self._size
        while at < end:
            e = self._epoch_at(at)
            epoch, first = self._epoch(e), self._first[e]
            last = min(end - first, len(epoch))
            parts.append((epoch, at - first, last))
            at = first + last
        return parts

    def _epoch_at(self, row: int) -> int:
        with self._lock:
            while self._first[-1] <= row:
                e = len(self._first) - 1
                # Without packing an epoch need not be made in order to know how long it is.
                rows = len(self._made(e)) if self._pack else self.epoch_samples
                self._first.append(self._first[e] + rows)
            return bisect.bisect_right(self._first, row) - 1

    def _epoch(self, e: int) -> Epoch:
        with self._lock:
            return self._made(e)

    def _made(self, e: int) -> Epoch:
        if e not in self._epochs:
            # Read-ahead works near one place: older epochs are not needed again.
            self._epochs = {k: v for k, v in self._epochs.items() if abs(k - e) <= 1}
            self._epochs[e] = self._grouped(self._rows(self._samples(e)), e)
        return self._epochs[e]

    def _samples(self, e: int) -> np.ndarray:
        if len(self._classes) == 1:
            return permutation(len(self._classes[0]), self._seed, e)
        position = np.arange(e * self.epoch_samples, (e + 1) * self.epoch_samples)
        of, own = interleave(position, self._shares)
        samples = np.empty(len(position), np.int64)
        for c, members in enumerate(self._classes):
            number, within = np.divmod(own[of == c], len(members))
            orders = {int(i): permutation(len(members), self._seed + c, int(i))
                      for i in np.unique(number)}  # fmt: skip
            index = [orders[i][w] for i, w in zip(number.tolist(), within.tolist(), strict=True)]
            samples[of == c] = members[np.array(index, np.int64)]
        return samples

    def _rows(self, samples: np.ndarray) -> Epoch:
        if not self._pack:
            start = np.arange(len(samples) + 1)
            return Epoch(samples, start, self._tokens[samples], self._images[samples])
        row = np.empty(len(samples), np.int64)
        count = 0
        for first in range(0, len(samples), PACKED):
            part = first_fit(self._tokens[samples[first : first + PACKED]], self._length)
            row[first : first + PACKED] = count + part
            count += int(part.max()) + 1
        by_row = samples[np.argsort(row, kind="stable")]
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))])
        tokens = np.add.reduceat(self._tokens[by_row], start[:-1])
        return Epoch(by_row, start, tokens, np.add.reduceat(self._images[by_row], start[:-1]))

    def _grouped(self, epoch: Epoch, e: int) -> Epoch:
        """Rows rearranged so that whole batches hold similar ones; see `grouping`."""
        if not self._group:
            return epoch
        offset = self._first[e] % self._size
        level = np.array([rounded(int(i)) for i in epoch.images], np.int64)
        order = grouping(level, epoch.tokens, self._size, offset, self._seed, e)
        return epoch.take(order)

    def _reset(self) -> None:
        self._epochs: dict[int, Epoch] = {}
        self._first = [0]
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_epochs", "_first", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
