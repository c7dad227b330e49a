"""Batches in order: for training endless and shuffled, for evaluation each sample once.

Grain runs the reading; its elements are whole batches. Batch k is a function of (source, seed, k)
and nothing else:

    position  k*B .. k*B+B-1   of the endless sequence of samples (`stream`)
    turn      one of eight symmetries, from (seed, position)
    text      a pair of `Questions`, from (seed, position)

so the state of an iterator is one number, and a resumed run, or one with another number of read
threads, workers or processes, sees the same batches bit by bit. Each process reads the rows of
every batch that its devices hold. (Batches rather than samples as elements: grain's cost for each
element, and that of stacking, would be most of the work on small windows.)

    source --threads, in this process or in workers--> batches --prefetch--> batches on the device
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rsvlm_jax.config import ConfigError, DataError

from .badlog import BadLog
from .batch import Batch
from .buffers import BUFFERED, Buffers
from .elements import Element, Elements, EvalElements, From, TrainElements
from .processor import Processor
from .samples import BadSample
from .source import CubeSource
from .stream import CubeStream, MixedStream, Mixture


class Batches(Iterator[Batch]):
    """An iterator of batches that can say where it is and go there. Close it, or use `with`.

    Attributes:
      buffers: what it holds in memory, at most.
    """

    def __init__(
        self,
        elements: Elements,
        order: str,
        buffers: Buffers,
        *,
        sharding: Any = None,
        log: BadLog | None = None,
    ) -> None:
        """
        Args:
          elements: random access to whole batches.
          order: a digest of what they are.
          sharding: where batches are placed ahead of their use, when `buffers.prefetch`.
          log: gets a line for each sample that could not be read.
        """
        self.buffers = buffers
        self._elements, self._order = elements, order
        self._sharding, self._log = sharding, log
        self._next, self._inner = 0, None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self._inner is None:
            self._inner = iter(_dataset(self._elements, self._next, self.buffers, self._sharding))
        try:
            batch, unread = next(self._inner)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise DataError(
                "a data worker died",
                where=f"batch {self._next}",
                expected=f"{self.buffers.workers} workers that live",
                found=str(error).partition(". ")[0],
                remedy="its last words stand above; workers=0 reads in this process",
            ) from error
        except DataError:
            self._note(self._elements.unread())
            raise
        self._note(unread)
        self._next += 1
        return batch

    def _note(self, unread: Sequence[BadSample]) -> None:
        for bad in unread:
            if self._log is not None:
                self._log.write(bad)
            self._elements.record(bad)

    def get_state(self) -> dict[str, Any]:
        """JSON: the number of the next batch, and a digest of what decides the order."""
        return {"next_index": self._next, "order": self._order}

    def samples(self, state: dict[str, Any]) -> list[BadSample]:
        """The samples of the batch that is drawn at a place, of all processes; without a reason."""
        return self._elements.samples(int(state["next_index"]))

    def set_state(self, state: dict[str, Any]) -> None:
        """Go where `get_state` was, with whatever number of threads, workers and processes.

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
        self.close()
        self._next = int(state["next_index"])

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_batches(
    source: CubeSource | Mixture,
    processor: Processor,
    *,
    batch_size: int,
    seed: int,
    augment: bool = True,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 0,
    sharding: Any = None,
    crops: int = 0,
    blocks: int = 16,
    rows: Sequence[int] | np.ndarray | None = None,
    log: BadLog | None = None,
) -> Batches:
    """Endless training batches, shuffled anew each epoch.

    Args:
      batch_size: of all processes together.
      augment: turn and flip windows.
      threads: that read ahead (in each worker); 0 reads when asked.
      workers: processes that read; 0 reads in this one. They are spawned: a script that trains
        needs `if __name__ == "__main__"`.
      prefetch: batches placed on the devices before they are asked for; 0: NumPy arrays.
      sharding: of a batch over the devices; None: the first device.
      crops, blocks: see `CubeStream`.
      rows: of every batch that are read here, ascending (`rsvlm_jax.mesh.together.rows_of`); None:
        all.
      log: of samples that cannot be read.

    Raises:
      ConfigError: numbers that cannot be.
    """
    lowest = {"threads": threads, "workers": workers, "prefetch": prefetch, "crops": crops}
    wrong = [f"{name}={value}" for name, value in lowest.items() if value < 0]
    own = own_rows(rows, batch_size)
    if own is None or blocks < 1 or wrong:
        raise ConfigError(
            "impossible batches",
            where="train_batches",
            expected="batch_size >= 1, rows of it in order, blocks >= 1, no negative number",
            found=", ".join([f"batch_size={batch_size}", f"rows={rows}", *wrong]),
        )
    ahead = batch_size * (max(1, threads * BUFFERED) + 1)
    mixture = source if isinstance(source, Mixture) else Mixture((source,), (1.0,))
    only = len(mixture.sources) == 1
    streams = [
        CubeStream(
            one, seed + i, batch_size if only else 0, crops=crops, blocks=blocks, ahead=ahead
        )
        for i, one in enumerate(mixture.sources)
    ]
    stream = streams[0] if only else MixedStream(streams, mixture.weights)
    elements = TrainElements(stream, processor, batch_size, own, seed, augment)
    buffers = Buffers(
        threads,
        workers,
        prefetch,
        len(own),
        stream.sample_bytes(),
        processor.length,
        stream.held,
        stream.held_bytes,
        stream.scratch_bytes(),
    )
    order = _digest(stream.digest, "train", batch_size, seed, augment, len(processor.table.tokens))
    return Batches(elements, order, buffers, sharding=sharding, log=log)


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
    elements = EvalElements(source, processor, batch_size, question)
    buffers = Buffers(
        threads,
        0,
        0,
        batch_size,
        source.sample_bytes(),
        processor.length,
        scratch_bytes=source.scratch_bytes(),
    )
    order = _digest(CubeStream(source, 0, 0).digest, "eval", batch_size)
    return Batches(elements, order, buffers)


def own_rows(rows: Sequence[int] | np.ndarray | None, batch_size: int) -> np.ndarray | None:
    """Rows of a batch as an array; None where they are none of it, or not in order."""
    if batch_size < 1:
        return None
    own = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    good = own.ndim == 1 and len(own) and own[0] >= 0 and own[-1] < batch_size
    return own if good and (np.diff(own) > 0).all() else None


def _digest(source: str, *what: object) -> str:
    return hashlib.sha256(f"{source} {what!r}".encode()).hexdigest()


def _dataset(elements: Elements, first: int, buffers: Buffers, sharding: Any) -> Any:
    """A grain dataset of the elements from `first` on."""
    import grain  # half a second, with Orbax; models that import `Batch` need neither

    options = grain.ReadOptions(num_threads=buffers.threads, prefetch_buffer_size=buffers.ahead)
    dataset = grain.MapDataset.source(From(elements, first)).to_iter_dataset(options)
    if buffers.workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain asks a flag of its own, without absl's main too
            flags.FLAGS.mark_as_parsed()
        several = grain.MultiprocessingOptions(buffers.workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(several)
    if buffers.prefetch or sharding is not None:
        dataset = dataset.map(_Placed(sharding, ahead=buffers.prefetch > 0))
    if buffers.prefetch:
        from grain.experimental import ThreadPrefetchIterDataset

        dataset = ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=buffers.prefetch)
    return dataset


class _Placed:
    """Puts batches on the devices: with several processes always, in one where that is `ahead`."""

    def __init__(self, sharding: Any, *, ahead: bool) -> None:
        self._sharding, self._ahead = sharding, ahead

    def __call__(self, element: Element) -> Element:
        batch, unread = element
        return placed(batch, self._sharding, ahead=self._ahead), unread


def placed(batch: Batch, sharding: Any, *, ahead: bool = True) -> Batch:
    """A batch on the devices; of several processes each brings the rows that its devices hold.

    Args:
      sharding: of every leaf; None: the first device.
      ahead: False leaves it on the host where the step itself can place it, in a single process.
    """
    import jax

    if jax.process_count() == 1:
        return jax.device_put(batch, sharding) if ahead else batch
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
