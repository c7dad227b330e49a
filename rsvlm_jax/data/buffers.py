"""What a pipeline may hold in memory, from what its configuration says."""

from __future__ import annotations

import dataclasses

BUFFERED = 2
"""Batches that each read thread keeps ready."""


@dataclasses.dataclass(frozen=True)
class Buffers:
    """Sizes of all buffers of one process and its workers.

    Attributes:
      threads: read threads, in each worker or in this process; workers: 0 or more.
      prefetch: batches on the devices.
      samples: of a batch (of this process).
      sample_bytes, text_length: of a sample.
      held: samples of blocks that are kept between batches; held_bytes: of all of them.
      scratch_bytes: of a thread that reads: a chunk as stored, and decoded.
    """

    threads: int
    workers: int
    prefetch: int
    samples: int
    sample_bytes: int
    text_length: int
    held: int = 0
    held_bytes: int = 0
    scratch_bytes: int = 0

    @property
    def ahead(self) -> int:
        """Batches that the threads of one process are ahead; 0: none is read before it is asked."""
        return self.threads * BUFFERED

    @property
    def batch_bytes(self) -> int:
        return self.samples * (self.sample_bytes + 24 * self.text_length)

    @property
    def batches(self) -> int:
        """On the host: those read ahead, for each worker one on its way and one to be sent, the
        one on its way to the device, and the one in the consumer's hands."""
        handed = 2 if self.prefetch else 1
        if not self.workers:
            return max(1, self.ahead) + handed
        return self.workers * (max(1, self.ahead) + 2) + handed

    @property
    def bytes(self) -> int:
        """All of it."""
        reading = max(1, self.threads) * self.scratch_bytes
        each = max(1, self.workers) * (self.held_bytes + reading)
        return (self.batches + self.prefetch) * self.batch_bytes + each

    def __str__(self) -> str:
        where = f"{self.workers} workers x " if self.workers else ""
        parts = [
            f"{where}{self.threads} threads x {BUFFERED} batches x {_mb(self.batch_bytes)}",
            f"{self.prefetch} on the device" if self.prefetch else "",
            f"{self.held} samples of blocks, {_mb(self.held_bytes)}" if self.held else "",
        ]
        return f"buffers: {' + '.join(p for p in parts if p)}, at most {_mb(self.bytes)}"


def _mb(n: int) -> str:
    return f"{n / 1e6:.3g} MB"
