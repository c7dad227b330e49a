"""A cube as a read-only Zarr store that knows its manifest: for xarray, and zarr as a backend.

Plain Zarr stores answer "nothing there" for a chunk that is lost, and readers fill in a value.
This one raises instead, checks every file that is read whole against its SHA-256 (metadata and
coordinates; chunks inside shards carry their own checksum), and lists folders from the manifest,
so that a server which lists nothing serves as well as a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from data_zarr.manifest import Manifest
from data_zarr.remote import RemotePath


class ManifestStore(Store):
    """The files of a cube by key; pickles as its place."""

    supports_writes = False  # type: ignore[assignment]
    supports_deletes = False  # type: ignore[assignment]
    supports_listing = True  # type: ignore[assignment]

    def __init__(self, manifest: Manifest):
        super().__init__(read_only=True)
        self.manifest = manifest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ManifestStore) and self.manifest.root == other.manifest.root

    def __str__(self) -> str:
        return str(self.manifest.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.manifest.root,)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key not in self.manifest.files:
            return None
        content = await asyncio.to_thread(self._read, key, byte_range)
        return prototype.buffer.from_bytes(content)

    def _read(self, key: str, span: ByteRequest | None) -> bytes:
        if span is None:
            return self.manifest.fetch(key)
        start: int
        end: int | None = None
        if isinstance(span, RangeByteRequest):
            start, end = span.start, span.end
        elif isinstance(span, OffsetByteRequest):
            start = span.offset
        elif isinstance(span, SuffixByteRequest):
            start = -span.suffix
        else:
            raise TypeError(f"not a byte range: {span}")
        try:
            return _slice(self.manifest.root, key, start, end)
        except OSError as error:
            raise self.manifest.unreadable(key, error) from error

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return list(
            await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges))
        )

    async def exists(self, key: str) -> bool:
        return key in self.manifest.files

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        for key in self.manifest.files:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self.manifest.files:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        inside = (k[len(folder) :] for k in self.manifest.files if k.startswith(folder))
        for name in dict.fromkeys(k.partition("/")[0] for k in inside):
            yield name


def _open(root: Path | RemotePath) -> ManifestStore:
    return ManifestStore(Manifest.read(root))


def _slice(root: Path | RemotePath, key: str, start: int, end: int | None) -> bytes:
    if isinstance(root, RemotePath):
        return (root / key).read_bytes(start, end)
    with open(root / key, "rb") as file:
        if start < 0:
            size = file.seek(0, 2)
            start = max(0, size + start)
        file.seek(start)
        return file.read() if end is None else file.read(end - start)
