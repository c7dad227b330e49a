"""The endless training order: which sample stands at a position, and how it is read.

    CubeStream    position p -> epoch p // n, row order(seed, epoch)[p % n] of one cube
    MixedStream   position p -> one of several cubes and a position in its stream

A stream holds no place: what it gives at a position depends on (source, seed, position) alone, so
threads, workers and processes may ask in any order. The orders are `data_zarr.sampling.permutation`
(two levels, by chunk) or `data_zarr.order.block_order` (many crops from each shard read).
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from data_zarr.order import block_order, grouped, interleave
from data_zarr.sampling import permutation
from rsvlm_jax.config import ConfigError, DataError

from .crops import Crops, Epoch
from .samples import BadSample, Sample, merged
from .source import CubeSource

CHUNKS_A_RUN = 1024
"""Chunks whose windows are shuffled together, at least: more than a batch holds samples."""


@runtime_checkable
class Stream(Protocol):
    """What the pipeline reads from."""

    held: int
    held_bytes: int
    digest: str

    def read(
        self, position: np.ndarray, turn: np.ndarray | None, lengths: dict[str, int] | None
    ) -> Sample: ...
    def lengths(self, position: np.ndarray) -> dict[str, int] | None: ...
    def record(self, bad: BadSample) -> None: ...
    def unread(self) -> list[BadSample]: ...
    def samples(self, position: np.ndarray) -> list[BadSample]: ...
    def sample_bytes(self) -> int: ...
    def scratch_bytes(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several cubes, each in its own order, in shares by weight.

    Attributes:
      sources: made for one processor, so with the same inputs.
      weights: positive; samples of source i are `weights[i] / sum(weights)` of all.
    """

    sources: tuple[CubeSource, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.weights) or not self.sources:
            raise ConfigError(
                "not a mixture",
                where="Mixture",
                expected="a weight for each of one or more sources",
                found=f"{len(self.sources)} sources, {len(self.weights)} weights",
            )
        if not all(0 < w < float("inf") for w in self.weights):
            raise ConfigError(
                "impossible weight", where="Mixture", expected="positive", found=self.weights
            )
        first = self.sources[0]
        for other in self.sources[1:]:
            for name, windows in first.windows.items():
                theirs = other.windows.get(name)
                a, b = (None if w is None else _stored(w.reader) for w in (windows, theirs))
                if a != b or other.table.size != first.table.size:
                    raise DataError(
                        f"input {name!r} differs between the cubes of a mixture",
                        where=other.path,
                        expected=f"{a}, windows of {first.table.size} pixels as in {first.path}",
                        found=f"{b or 'no such input'}, windows of {other.table.size}",
                        remedy="make both sources for one processor, from cubes of one encoding",
                    )

    @property
    def unreadable(self) -> dict[str, Any]:
        """As `CubeSource.unreadable`, of all cubes."""
        found = [source.unreadable for source in self.sources]
        first = next((f["first"] for f in found if f["first"] is not None), None)
        return {"windows": sum(f["windows"] for f in found), "first": first}


def _stored(reader: Any) -> str:
    return f"{', '.join(reader.bands)} as {reader.info.dtype}"


class CubeStream:
    """The training windows of one cube; see the module.

    Attributes:
      held: samples kept between batches (of blocks, with all dates), at most; and their bytes.
      digest: of all that decides the order.
    """

    def __init__(
        self,
        source: CubeSource,
        seed: int,
        batch_size: int,
        *,
        crops: int = 0,
        blocks: int = 16,
        ahead: int = 0,
    ) -> None:
        """
        Args:
          batch_size: rows of one bucket are brought together in batches of this size; 0: not.
          crops: samples from each block in an epoch; 0: each window once, whichever its block.
          blocks: read at a time.
          ahead: how many samples threads may run ahead of one another.
        """
        self.source, self._seed, self._batch = source, seed, batch_size
        self._crops, self._window, self._ahead = crops, blocks, ahead
        self._cache = self._new_cache()
        self.held = self._cache.held if self._cache else 0
        self.held_bytes = self.held * source.sample_bytes(every=True)
        self.length = len(source)
        if crops:
            counts = np.unique(source.shard_of, return_counts=True)[1]
            self.length = int(np.minimum(counts, crops).sum())
        about = (seed, source.buckets and (source.buckets, batch_size), crops and (crops, blocks))
        h = hashlib.sha256(repr(about).encode())
        h.update(f"{source.digest} {source.table.digest()}".encode())
        h.update(source.rows.astype("<i8").tobytes())
        self.digest = h.hexdigest()
        self._epochs: dict[int, Epoch] = {}
        self._lock = threading.Lock()

    def rows(self, position: np.ndarray) -> np.ndarray:
        """i64 [B]: positions in the source's rows."""
        return self._rows(position)[0]

    def read(
        self, position: np.ndarray, turn: np.ndarray | None, lengths: dict[str, int] | None
    ) -> Sample:
        """The samples at the positions; see `CubeSource.read`."""
        index, epochs = self._rows(position)
        raw = self._cache.fetch(epochs, index) if self._cache else None
        return self.source.read(index, turn, lengths=lengths, raw=raw)

    def lengths(self, position: np.ndarray) -> dict[str, int] | None:
        """The number of dates of each input in a batch of these positions; None: the limits."""
        if not self.source.buckets:
            return None
        return self.source.lengths(int(self.source.level[self.rows(position)].max()))

    def record(self, bad: BadSample) -> None:
        self.source.record(bad)

    def unread(self) -> list[BadSample]:
        return self.source.unread()

    def samples(self, position: np.ndarray) -> list[BadSample]:
        """Where the windows at the positions lie."""
        return [self.source.sample(int(row)) for row in self.source.rows[self.rows(position)]]

    def sample_bytes(self) -> int:
        return self.source.sample_bytes()

    def scratch_bytes(self) -> int:
        return self.source.scratch_bytes()

    def _rows(self, position: np.ndarray) -> tuple[np.ndarray, list[tuple[int, Epoch]]]:
        number, within = np.divmod(position, self.length)
        index = np.empty(len(position), np.int64)
        epochs = {int(e): self._epoch(int(e)) for e in np.unique(number)}
        for e, epoch in epochs.items():
            index[number == e] = epoch.rows[within[number == e]]
        return index, [(e, epochs[e]) for e in number.tolist()]

    def _epoch(self, e: int) -> Epoch:
        with self._lock:
            if e not in self._epochs:
                # Read-ahead works near one place: older epochs are not needed again.
                self._epochs = {k: v for k, v in self._epochs.items() if abs(k - e) <= 1}
                self._epochs[e] = self._ordered(e)
            return self._epochs[e]

    def _ordered(self, e: int) -> Epoch:
        source = self.source
        if self._crops:
            rows = block_order(source.shard_of, self._crops, self._window, self._seed, e)
            return Epoch.of(rows, source.shard_of, self._window)
        chunk_of, buffer = source.chunk_of, 1
        if chunk_of is not None:
            buffer = CHUNKS_A_RUN * int(np.unique(chunk_of, return_counts=True)[1].max())
        rows = permutation(len(source), self._seed, e, chunk_of=chunk_of, buffer=buffer)
        if source.buckets and self._batch:
            rows = grouped(rows, source.level, self._batch, e * len(source) % self._batch)
        return Epoch(rows, {}, {})

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_epochs", "_cache")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epochs, self._lock = {}, threading.Lock()
        self._cache = self._new_cache()

    def _new_cache(self) -> Crops | None:
        if not self._crops or self.source.preload:
            return None
        return Crops(self.source, self._crops, self._window, self._ahead)


class MixedStream:
    """A `Mixture` in order; `sample` numbers of cube i begin after all rows of those before it."""

    def __init__(self, streams: Sequence[CubeStream], weights: Sequence[float]) -> None:
        self.streams, self._weights = tuple(streams), tuple(weights)
        sources = [s.source for s in self.streams]
        self._first = np.cumsum([0, *(len(s.table) for s in sources)])[:-1]
        names = sources[0].windows
        self._masks = {n: max(s.windows[n].masks for s in sources) for n in names}
        limits = [{n: w.limit for n, w in s.windows.items()} for s in sources]
        self._limits = None
        if any(other != limits[0] for other in limits):
            self._limits = {n: max(limit[n] for limit in limits) for n in names}
        self.held = sum(s.held for s in self.streams)
        self.held_bytes = sum(s.held_bytes for s in self.streams)
        about = repr([s.digest for s in self.streams]) + repr(self._weights)
        self.digest = hashlib.sha256(about.encode()).hexdigest()

    def read(
        self, position: np.ndarray, turn: np.ndarray | None, lengths: dict[str, int] | None
    ) -> Sample:
        """The samples at the positions."""
        of, own = interleave(position, self._weights)
        parts, places = [], []
        for i, stream in enumerate(self.streams):
            place = np.flatnonzero(of == i)
            if len(place):
                part = stream.read(own[place], None if turn is None else turn[place], lengths)
                part["sample"] = np.where(part["sample"] < 0, -1, part["sample"] + self._first[i])
                parts.append(part)
                places.append(place)
        return merged(parts, places, self._masks)

    def lengths(self, position: np.ndarray) -> dict[str, int] | None:
        """As `CubeStream.lengths`; the longest of all cubes where their limits differ."""
        of, own = interleave(position, self._weights)
        found = [s.lengths(own[of == i]) for i, s in enumerate(self.streams) if (of == i).any()]
        known = [f for f in found if f is not None]
        if len(known) < len(found) or not known:
            return self._limits
        return {n: max(f[n] for f in known) for n in known[0]}

    def record(self, bad: BadSample) -> None:
        next(s for s in self.streams if s.source.path == bad.cube).record(bad)

    def unread(self) -> list[BadSample]:
        return [bad for s in self.streams for bad in s.unread()]

    def samples(self, position: np.ndarray) -> list[BadSample]:
        of, own = interleave(position, self._weights)
        return [self.streams[i].samples(own[k : k + 1])[0] for k, i in enumerate(of.tolist())]

    def sample_bytes(self) -> int:
        return max(s.sample_bytes() for s in self.streams)

    def scratch_bytes(self) -> int:
        return sum(s.scratch_bytes() for s in self.streams)
