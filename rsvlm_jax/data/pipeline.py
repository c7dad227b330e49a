"""Batches in order: for training endless and shuffled, for evaluation each sample once.

Grain runs the reading and keeps the place; its elements are whole batches. Batch k is a function
of (source, seed, k) and nothing else:

    position  k*B .. k*B+B-1          of the endless sequence of samples
    row       permutation(seed, epoch = position // n)[position % n]
    turn      one of eight symmetries, from (seed, position)
    text      a pair of `Questions`, from (seed, position)

so the state of an iterator is one number, and a resumed run, or one with another number of read
threads, sees the same batches bit by bit. (Batches rather than samples as elements: grain's cost
for each element, and that of stacking, would be most of the work on small windows.)
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_zarr.sampling import permutation
from rsvlm_jax.config import ConfigError, DataError

from . import chance
from .batch import Batch
from .processor import Processor
from .source import CubeSource, assemble

BUFFERED = 2
"""Batches that each read thread keeps ready."""


class Batches(Iterator[Batch]):
    """An iterator of batches that can say where it is and go there. Close it, or use `with`."""

    def __init__(self, elements: Any, order: str, threads: int) -> None:
        """`elements`: random access to whole batches; `order`: a digest of what they are."""
        import grain  # half a second, with Orbax; models that import `Batch` need neither

        self._order = order
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(1, threads * BUFFERED) if threads else 0
        )
        self._inner = iter(grain.MapDataset.source(elements).to_iter_dataset(options))

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        return next(self._inner)

    def get_state(self) -> dict[str, Any]:
        """JSON: the number of the next batch, and a digest of what decides the order."""
        return {**self._inner.get_state(), "order": self._order}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go where `get_state` was.

        Raises:
          DataError: the state belongs to other windows, another seed or another batch size.
        """
        if state.get("order") != self._order:
            raise DataError(
                "the saved place belongs to another sequence of samples",
                where="data state",
                expected=f"order {self._order[:12]}",
                found=str(state.get("order"))[:12],
                remedy="resume with the cube, windows, seed and batch size of the saved run",
            )
        self._inner.set_state({"next_index": int(state["next_index"])})

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_batches(
    source: CubeSource,
    processor: Processor,
    *,
    batch_size: int,
    seed: int,
    augment: bool = True,
    threads: int = 2,
) -> Batches:
    """Endless training batches, shuffled anew each epoch.

    Args:
      augment: turn and flip windows.
      threads: that read ahead; 0 reads when asked.
    """
    elements = _Train(source, processor, batch_size, seed, augment)
    order = _digest(source, "train", batch_size, seed, augment, len(processor.table.tokens))
    return Batches(elements, order, threads)


def eval_batches(
    source: CubeSource,
    processor: Processor,
    *,
    batch_size: int,
    question: str | None = None,
    threads: int = 2,
) -> Batches:
    """Each sample once, in the order of the table; the last batch is filled with `sample` -1.

    Args:
      question: about the target, for all samples; None: `Processor.regress_prompt()`.
    """
    if batch_size < 1:
        raise ConfigError("no batch", where="batch_size", expected=">= 1", found=batch_size)
    elements = _Eval(source, processor, batch_size, question)
    return Batches(elements, _digest(source, "eval", batch_size), threads)


class _Train:
    """Batch k by k."""

    def __init__(
        self, source: CubeSource, processor: Processor, batch_size: int, seed: int, augment: bool
    ) -> None:
        self._source, self._processor = source, processor
        self._size, self._seed, self._augment = batch_size, seed, augment
        self._questions = processor.data.templates == "questions"
        self._table = processor.table
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, k: int) -> Batch:
        first, b = k * self._size, self._size
        turn = None
        if self._augment:
            u = chance.uniforms(self._seed, chance.AUGMENT, first, b)
            turn = (u[:, 0] * 8).astype(np.int64)
        if self._questions:
            text = self._table.take(self._processor.questions.draw(self._seed, first, b))
        else:
            text = self._table.take(np.zeros(b, np.int64))
        reads = self._source.read(self._rows(first, b), turn)
        return assemble(reads, self._processor, text)

    def _rows(self, first: int, count: int) -> np.ndarray:
        position = np.arange(first, first + count)
        epoch, within = np.divmod(position, len(self._source))
        rows = np.empty(count, np.int64)
        for e in range(int(epoch[0]), int(epoch[-1]) + 1):
            rows[epoch == e] = self._epoch(e)[within[epoch == e]]
        return rows

    def _epoch(self, e: int) -> np.ndarray:
        with self._lock:
            if e not in self._epochs:
                # Read-ahead works near one place: older epochs are not needed again.
                self._epochs = {k: v for k, v in self._epochs.items() if abs(k - e) <= 1}
                source = self._source
                self._epochs[e] = permutation(len(source), self._seed, e, chunk_of=source.chunk_of)
            return self._epochs[e]


class _Eval:
    """Batch k of `ceil(n / B)`."""

    def __init__(
        self, source: CubeSource, processor: Processor, batch_size: int, question: str | None
    ) -> None:
        self._source, self._processor, self._size = source, processor, batch_size
        self._text = processor.regress_prompt(question).repeat(batch_size)

    def __len__(self) -> int:
        return -(-len(self._source) // self._size)

    def __getitem__(self, k: int) -> Batch:
        first = k * self._size
        index = np.arange(first, min(first + self._size, len(self._source)))
        short = self._size - len(index)
        # The filling repeats a sample that was read, so that no value in it is out of the way.
        reads = self._source.read(index)
        if short:
            reads = _filled(reads, short)
        return assemble(reads, self._processor, self._text)


def _filled(reads: dict[str, Any], short: int) -> dict[str, Any]:
    def more(a: np.ndarray) -> np.ndarray:
        return np.concatenate([a, np.repeat(a[:1], short, axis=0)])

    obs = {name: {k: more(v) for k, v in entry.items()} for name, entry in reads["obs"].items()}
    out = {"obs": obs, **{k: more(v) for k, v in reads.items() if k != "obs"}}
    out["sample"][-short:] = -1
    out["target_valid"][-short:] = False
    return out


def _digest(source: CubeSource, *what: object) -> str:
    h = hashlib.sha256(repr(what).encode())
    h.update(f"{source.digest} {source.table.digest()}".encode())
    h.update(source.rows.astype("<i8").tobytes())
    return h.hexdigest()
