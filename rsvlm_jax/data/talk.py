"""Batches of conversations in order: the protocol of `pipeline.train_batches`.

    source = TalkSource.of(config, processor, "train")
    with talk_batches(source, batch_size=128, seed=0) as batches: ...

Batch k is a function of (source, seed, k) and nothing else: the state of an iterator is one number,
and a resumed run, or one with another number of threads, workers or processes, sees the same
batches bit by bit. Which conversations stand in batch k says `Plan`. Not here: reading
(`talk_source`), held-out evaluation.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsvlm_jax.config import ConfigError

from .badlog import BadLog
from .batch import Batch
from .buffers import Buffers
from .elements import Element
from .pipeline import Batches, own_rows
from .plan import Plan, Tokens
from .samples import BadSample
from .talk_source import TalkSource

__all__ = ["TalkBatches", "TalkElements", "TalkSource", "Tokens", "count_tokens", "talk_batches"]


class TalkElements:
    """Part of batch k by k, of an endless sequence."""

    def __init__(self, source: TalkSource, plan: Plan, rows: np.ndarray) -> None:
        """`rows`: which of a batch are read here."""
        self._source, self._plan, self._rows = source, plan, rows

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Element:
        whole = self._plan.rows(index)
        rows = [whole[r] for r in self._rows]
        return self._source.batch(rows, self._plan.shape(index), self._rows)

    def record(self, bad: BadSample) -> None:
        self._source.record(bad)

    def unread(self) -> list[BadSample]:
        return self._source.unread()

    def samples(self, index: int) -> list[BadSample]:
        """What stands in the whole of batch `index`, packed rows taken apart."""
        return [self._source.sample(number) for row in self._plan.rows(index) for number in row]


class TalkBatches(Batches):
    """Batches of conversations; see `Batches`.

    Attributes:
      plan: which conversations stand in batch k; `plan.tokens(k)`: how many of its tokens are real,
        without a look at the batch, which may be on a device already.
    """

    def __init__(self, plan: Plan, *args: Any, **words: Any) -> None:
        super().__init__(*args, **words)
        self.plan = plan


def talk_batches(
    source: TalkSource,
    *,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
    sharding: Any = None,
    log: BadLog | None = None,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 0,
) -> TalkBatches:
    """Endless training batches, shuffled anew each epoch; packed and grouped as `source.config`
    says.

    Args:
      batch_size: rows of all processes together.
      rows, sharding, log, threads, workers, prefetch: as in `train_batches`.

    Raises:
      ConfigError: numbers that cannot be.
    """
    lowest = {"threads": threads, "workers": workers, "prefetch": prefetch}
    wrong = [f"{name}={value}" for name, value in lowest.items() if value < 0]
    own, config = own_rows(rows, batch_size), source.config
    if own is None or wrong:
        raise ConfigError(
            "impossible batches",
            where="talk_batches",
            expected="batch_size >= 1, rows of it in order, no negative number",
            found=", ".join([f"batch_size={batch_size}", f"rows={rows}", *wrong]),
        )
    plan = Plan(
        source.tokens,
        source.images,
        source.weights,
        batch_size=batch_size,
        seed=seed,
        length=config.length,
        pack=config.pack,
        group=config.group,
        buckets=config.buckets,
    )
    most = plan.most_images
    buffers = Buffers(
        threads,
        workers,
        prefetch,
        len(own),
        most * source.gallery.picture_bytes,
        plan.lengths[-1],
        held_bytes=source.gallery.held_bytes,
    )
    about = (batch_size, seed, config.pack, config.group, config.buckets)
    order = hashlib.sha256(f"{source.digest} {about!r}".encode()).hexdigest()
    elements = TalkElements(source, plan, own)
    return TalkBatches(plan, elements, order, buffers, sharding=sharding, log=log)


def count_tokens(batch: Batch) -> Tokens:
    """What a batch on the host holds; of one on a device `TalkBatches.plan.tokens(k)` knows it."""
    images = batch.images
    given = None
    if images is not None:
        given = images.pixels if images.features is None else images.features
    return Tokens(
        real=int((np.asarray(batch.segment) > 0).sum()),
        padded=int(np.asarray(batch.segment).size),
        images=0 if images is None else int((np.asarray(images.of) >= 0).sum()),
        frames=0 if given is None else len(given),
    )
