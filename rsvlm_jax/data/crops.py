"""Reading blocks once and cutting many windows from them.

The order (`data_zarr.order.block_order`) visits the shards of a cube a window of blocks at a time.
Whichever thread first needs a sample of a block reads all of the block's samples of this epoch,
which decodes each chunk once, and leaves them to the others; blocks that are left behind are
dropped. What is held is bounded: `Crops.held` samples.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from data_zarr.read import allocate

from .source import CubeSource
from .windows import Raw


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The rows of one epoch in order, and for each block its rows and its window of blocks."""

    rows: np.ndarray
    of_block: dict[int, np.ndarray]
    group: dict[int, int]

    @classmethod
    def of(cls, rows: np.ndarray, block_of: np.ndarray, window: int) -> Epoch:
        blocks = block_of[rows]
        by_block = np.argsort(blocks, kind="stable")
        names, starts = np.unique(blocks[by_block], return_index=True)
        parts = np.split(rows[by_block], starts[1:])
        # All blocks of a window are met in its first round, before any of the next.
        met = dict.fromkeys(blocks.tolist())
        return cls(
            rows,
            dict(zip(names.tolist(), parts, strict=True)),
            {block: i // window for i, block in enumerate(met)},
        )


class _Block:
    """The samples of one block in one epoch, once some thread has cut them."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.lock = threading.Lock()
        self.raw: dict[str, Raw] | None = None


class Crops:
    """Samples of the blocks that are being visited; threads share it.

    Attributes:
      held: the largest number of samples that are kept.
    """

    def __init__(self, source: CubeSource, crops: int, window: int, ahead: int) -> None:
        """`ahead`: how many samples the threads may run ahead of one another."""
        self._source = source
        self._keep = 1 + -(-ahead // (crops * window))
        self.held = (self._keep + 1) * crops * window
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._lock = threading.Lock()

    def fetch(self, epochs: list[tuple[int, Epoch]], index: np.ndarray) -> dict[str, Raw]:
        """Samples of the source, as stored, by input.

        Args:
          epochs: for each sample the number of its epoch and the epoch.
          index: positions in the source's rows.
        """
        blocks = self._source.shard_of[index].tolist()
        wanted = {
            (number, block): epoch for (number, epoch), block in zip(epochs, blocks, strict=True)
        }
        entries = self._entries(wanted)
        # What another thread is cutting is left to it while there is other work.
        for wait in (False, True):
            for key, entry in entries.items():
                if entry.raw is None and entry.lock.acquire(blocking=wait):
                    try:
                        if entry.raw is None:
                            entry.raw = self._cut(wanted[key].of_block[key[1]])
                    finally:
                        entry.lock.release()
        places = [
            ((number, block), int(np.flatnonzero(epoch.of_block[block] == row)[0]))
            for (number, epoch), block, row in zip(epochs, blocks, index.tolist(), strict=True)
        ]
        return {name: _taken(name, entries, places) for name in self._source.windows}

    def _entries(self, wanted: dict[tuple[int, int], Epoch]) -> dict[tuple[int, int], _Block]:
        with self._lock:
            found = {}
            for (number, block), epoch in wanted.items():
                group = number * len(epoch.group) + epoch.group[block]
                found[number, block] = self._blocks.setdefault((number, block), _Block(group))
            newest = max(entry.group for entry in self._blocks.values())
            self._blocks = {
                key: entry
                for key, entry in self._blocks.items()
                if entry.group >= newest - self._keep
            }
            return found

    def _cut(self, index: np.ndarray) -> dict[str, Raw]:
        rows = self._source.rows[index]
        return {name: windows.raw(rows) for name, windows in self._source.windows.items()}


def _taken(
    name: str,
    entries: dict[tuple[int, int], _Block],
    places: Sequence[tuple[tuple[int, int], int]],
) -> Raw:
    found = [(entry.raw[name], i) for key, i in places if (entry := entries[key]).raw is not None]
    first = found[0][0]
    pixels = allocate((len(found), *first.pixels.shape[1:]), first.pixels.dtype)
    valid = allocate((len(found), *first.valid.shape[1:]), bool)
    failed = {}
    for b, (raw, i) in enumerate(found):
        pixels[b], valid[b] = raw.pixels[i], raw.valid[i]
        if i in raw.failed:
            failed[b] = raw.failed[i]
    return Raw(pixels, valid, failed)
