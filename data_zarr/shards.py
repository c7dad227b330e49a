"""Reading one sharded array of a cube from a local disk, straight into the caller's array.

It knows one way of storing, the one that `data_zarr.template` writes, and is used where it meets
it; everything else (other codecs, remote stores) goes through tensorstore or zarr:

    file     chunk | chunk | ... | index (offset and size of every chunk, u64) | CRC32C of the index
    chunk    blosc(bytes, little-endian) | CRC32C

A window that is one whole chunk is decoded in the place where it is wanted; of any other the
chunks are decoded into a buffer of the thread and the wanted part is copied. There is no cache:
nothing is kept of a file between two reads, so a file that has gone or changed is noticed. What
that is worth is in `experiments/bench/data.py`, next to the bare speed of the codec.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Pick = slice | np.ndarray
"""Along an axis: `slice(start, stop)`, or numbers in any order."""

_MISSING = 2**64 - 1


class Shards:
    """One array; see the module docstring. Threads may share it.

    Attributes:
      shape, shards, chunks: sizes along each axis.
      dtype: of the numbers.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        shards: tuple[int, ...],
        chunks: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        import zarr.codecs.blosc  # noqa: F401  it turns blosc's own threads off: ours share none
        from google_crc32c import value
        from numcodecs.blosc import decompress

        self.path, self.shape, self.shards, self.chunks = path, shape, shards, chunks
        self.dtype = dtype
        self._folder = f"{path}/c/"
        self._inner = tuple(s // c for s, c in zip(shards, chunks, strict=True))
        self._index = 16 * int(np.prod(self._inner))
        self._crc: Callable[[Any], int] = value
        self._decompress: Callable[[Any, Any], Any] = decompress
        self._buffers = threading.local()

    @classmethod
    def open(cls, path: Path) -> Shards | None:
        """The array whose `zarr.json` lies at `path`; None if it is stored in another way."""
        try:
            about = json.loads((path / "zarr.json").read_text())
            codec = about["codecs"][0]["configuration"]
            names = [c["name"] for c in codec["codecs"]]
            index = [c["name"] for c in codec["index_codecs"]]
            known = (
                len(about["codecs"]) == 1
                and about["codecs"][0]["name"] == "sharding_indexed"
                and names == ["bytes", "blosc", "crc32c"]
                and index == ["bytes", "crc32c"]
                and codec.get("index_location", "end") == "end"
                and {c.get("configuration", {}).get("endian", "little")
                     for c in (codec["codecs"][0], codec["index_codecs"][0])} == {"little"}
                and about["chunk_grid"]["name"] == "regular"
                and about["chunk_key_encoding"]["name"] == "default"
                and about["chunk_key_encoding"].get("configuration", {}).get("separator") == "/"
                and not about.get("storage_transformers")
                and sys.byteorder == "little"
            )  # fmt: skip
            if not known:
                return None
            shards = tuple(about["chunk_grid"]["configuration"]["chunk_shape"])
            dtype = np.dtype(about["data_type"])
            return cls(path, tuple(about["shape"]), shards, tuple(codec["chunk_shape"]), dtype)
        except (OSError, KeyError, IndexError, TypeError, ValueError, ImportError):
            return None

    def read(self, picks: Sequence[Pick], out: np.ndarray) -> None:
        """Fills `out`, whose shape is that of the numbers picked along each axis.

        Raises:
          OSError: a file that is not there or too short.
          ValueError: a checksum that does not fit, or a chunk that is not there.
          RuntimeError: a chunk that cannot be decoded.
        """
        for error in self.read_many([(picks, out)]).values():
            raise error

    def read_many(
        self, windows: Sequence[tuple[Sequence[Pick], np.ndarray]]
    ) -> dict[int, Exception]:
        """Fills the arrays of several windows; a chunk that many of them want is decoded once.

        Returns:
          the error of each window that is not filled, by its place; see `read`.
        """
        wanted: dict[tuple[int, ...], dict[int, list[_Use]]] = {}
        for i, (picks, out) in enumerate(windows):
            axes = [_parts(p, c) for p, c in zip(picks, self.chunks, strict=True)]
            for parts in itertools.product(*axes):
                row, shard = 0, []
                for (number, _, _), n in zip(parts, self._inner, strict=True):
                    row = row * n + number % n
                    shard.append(number // n)
                chunks = wanted.setdefault(tuple(shard), {})
                chunks.setdefault(row, []).append((i, parts, out))
        failed: dict[int, Exception] = {}
        for shard, chunks in wanted.items():
            try:
                file = os.open(self._folder + "/".join(map(str, shard)), os.O_RDONLY)
            except OSError as error:
                failed |= {i: error for uses in chunks.values() for i, _, _ in uses}
                continue
            try:
                self._read_shard(file, chunks, failed)
            finally:
                os.close(file)
        return failed

    def _read_shard(
        self, file: int, chunks: dict[int, list[_Use]], failed: dict[int, Exception]
    ) -> None:
        index: list[int] | None = None
        for row, uses in chunks.items():
            try:
                index = index or self._read_index(file)
                self._read_chunk(file, index[2 * row], index[2 * row + 1], uses)
            except (OSError, ValueError, RuntimeError) as error:
                failed |= {i: error for i, _, _ in uses}

    def stored(self, shard: Path) -> list[bytes]:
        """All chunks of one shard as they lie in its file, with their checksums."""
        file = os.open(shard, os.O_RDONLY)
        try:
            index = np.array(self._read_index(file), np.uint64).reshape(-1, 2)
            present = index[index[:, 0] != _MISSING].tolist()
            return [os.pread(file, size, offset) for offset, size in present]
        finally:
            os.close(file)

    def _read_index(self, file: int) -> list[int]:
        size = os.fstat(file).st_size
        stored = np.frombuffer(os.pread(file, self._index + 4, size - self._index - 4), np.uint8)
        if len(stored) != self._index + 4:
            raise OSError(f"a shard of {size} bytes")
        self._check(stored, "the index of a shard")
        return stored[:-4].view("<u8").tolist()

    def _read_chunk(self, file: int, offset: int, size: int, uses: list[_Use]) -> None:
        if offset == _MISSING or size < 4:
            raise ValueError("a chunk that was never written")
        stored = np.frombuffer(os.pread(file, size, offset), np.uint8)
        if len(stored) != size:
            raise OSError("a shard that ends early")
        self._check(stored, "a chunk")
        if len(uses) == 1:
            _, parts, out = uses[0]
            place = out[tuple(where for _, where, _ in parts)]
            whole = place.shape == self.chunks and place.flags.c_contiguous
            if whole and all(isinstance(of, slice) for _, _, of in parts):
                self._decompress(stored[:-4], place)
                return
        chunk = self._buffer()
        self._decompress(stored[:-4], chunk)
        for _, parts, out in uses:
            inside: Any = tuple(of if isinstance(of, slice) else slice(None) for _, _, of in parts)
            part = chunk[inside]
            for axis, (_, _, of) in enumerate(parts):
                if not isinstance(of, slice):
                    part = part.take(of, axis)
            out[tuple(where for _, where, _ in parts)] = part

    def _check(self, stored: np.ndarray, what: str) -> None:
        if self._crc(stored[:-4]) != int.from_bytes(stored[-4:].tobytes(), "little"):
            raise ValueError(f"the checksum of {what} does not fit")

    def _buffer(self) -> np.ndarray:
        """One decoded chunk, of this thread."""
        found = getattr(self._buffers, "chunk", None)
        if found is None:
            found = self._buffers.chunk = np.empty(self.chunks, self.dtype)
        return found


_Part = tuple[int, slice, Pick]
"""A chunk along one axis: its number, where its numbers go, and which of them."""
_Use = tuple[int, tuple[_Part, ...], np.ndarray]
"""What a window takes of a chunk: its number, the parts along all axes, its array."""


def _parts(pick: Pick, size: int) -> list[_Part]:
    """The chunks of `size` that a pick touches, in order.

    >>> _parts(slice(60, 70), 64)
    [(0, slice(0, 4, None), slice(60, 64, None)), (1, slice(4, 10, None), slice(0, 6, None))]
    """
    if isinstance(pick, slice):
        start, stop = pick.start, pick.stop
        found: list[_Part] = []
        for number in range(start // size, -(-stop // size)):
            first, end = max(start, number * size), min(stop, (number + 1) * size)
            of = slice(first - number * size, end - number * size)
            found.append((number, slice(first - start, end - start), of))
        return found
    # Runs of one chunk: numbers that go back to an earlier chunk read it again.
    numbers = pick // size
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(pick)]
    return [
        (int(numbers[a]), slice(a, b), pick[a:b] - int(numbers[a]) * size)
        for a, b in itertools.pairwise(edges)
        if b > a
    ]
