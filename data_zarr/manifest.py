"""The manifest: every file of a finished cube with its size and SHA-256.

Zarr reads a chunk that is not there as its fill value, and a default codec lets a flipped bit
through. The manifest says which files a cube consists of, so that what is missing or changed is
named instead of read. It is written last, atomically: a cube without it is incomplete. Since
format version 2 it carries a digest of itself, so that it cannot be damaged unnoticed either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_zarr.errors import CubeError
from data_zarr.format import FORMAT_VERSION, JOURNAL, MANIFEST, READABLE
from data_zarr.remote import RemotePath

AT_ONCE = 16
"""Files of a remote cube that are asked for at the same time."""
RESTORE = "restore this file from the source, or write the cube again"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file: SHA-256 as hex, and its size in bytes."""

    sha256: str
    size: int


def digest_file(path: Path) -> Entry:
    """The entry of a file as it lies on disk."""
    with open(path, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
        return Entry(sha, file.tell())


def entry_of(content: bytes) -> Entry:
    """The entry of a file's bytes."""
    return Entry(hashlib.sha256(content).hexdigest(), len(content))


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file so that a reader sees the old or the new one, never half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


class Manifest:
    """Files of one cube, by their key (path below the cube, with slashes)."""

    def __init__(self, root: Path | RemotePath, files: dict[str, Entry]):
        self.root, self.files = root, files
        self._kept: dict[str, bytes] = {}

    @classmethod
    def read(cls, root: Path | RemotePath) -> Manifest:
        """The manifest of a cube; CubeError when there is none, or it is damaged."""
        path = root / MANIFEST
        try:
            content = json.loads(path.read_text())
            files = {k: Entry(sha, int(size)) for k, (sha, size) in content["files"].items()}
            version = content["format_version"]
            intact = version in READABLE and (
                version == 1 or content["digest"] == _own_digest(files, version)
            )
        except FileNotFoundError as error:
            raise CubeError(
                "incomplete cube",
                where=root,
                expected=MANIFEST,
                found="none: its writing was never finished",
                remedy="run the writing again, it resumes",
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CubeError("unreadable manifest", where=path, found=str(error)[:120]) from error
        except OSError as error:
            raise CubeError("cannot read the manifest", where=path, found=str(error)) from error
        if not intact:
            raise CubeError(
                "corrupt manifest",
                where=path,
                expected="a manifest that matches its own digest",
                found="another",
                remedy="restore it from the source, or seal the cube again",
            )
        return cls(root, files)

    def prefetch(self, keys: Iterable[str]) -> None:
        """Gets small files of a remote cube at the same time, for `raw`; nothing on a disk."""
        if isinstance(self.root, RemotePath):
            wanted = [k for k in keys if k in self.files]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                self._kept = dict(zip(wanted, pool.map(self.raw, wanted), strict=True))

    def forget(self) -> None:
        """Drops what `prefetch` got."""
        self._kept = {}

    def raw(self, key: str) -> bytes:
        """The bytes of a file as they are; CubeError when they cannot be had."""
        if key in self._kept:
            return self._kept[key]
        try:
            return (self.root / key).read_bytes()
        except OSError as error:
            raise self.unreadable(key, error) from error

    def fetch(self, key: str) -> bytes:
        """The bytes of a file that match the manifest; CubeError otherwise."""
        content = self.raw(key)
        if (problem := self._compare(key, entry_of(content), deep=True)) is not None:
            raise problem
        return content

    def write(self) -> None:
        """Writes `manifest.json`, sorted, atomically."""
        files = {k: [e.sha256, e.size] for k, e in sorted(self.files.items())}
        own = _own_digest(self.files, FORMAT_VERSION)
        content = {"format_version": FORMAT_VERSION, "digest": own, "files": files}
        assert isinstance(self.root, Path)
        write_atomic(self.root / MANIFEST, json.dumps(content, indent=0) + "\n")

    def digest(self) -> str:
        """One SHA-256 over all files: changes whenever any byte of the cube does."""
        sha = hashlib.sha256()
        for key, entry in sorted(self.files.items()):
            sha.update(f"{key} {entry.sha256}\n".encode())
        return sha.hexdigest()

    def under(self, prefix: str) -> list[str]:
        """Keys below a path, sorted."""
        return sorted(k for k in self.files if k.startswith(prefix.rstrip("/") + "/"))

    def problem(self, key: str, *, deep: bool) -> CubeError | None:
        """What is wrong with one file: missing, of another size, or (deep) of other content."""
        path = self.root / key
        if key not in self.files:
            return CubeError("chunk is not in the manifest", where=f"{self.root}: {key}")
        try:
            if key in self._kept:
                found = entry_of(self._kept[key])
            elif isinstance(path, RemotePath):
                found = entry_of(path.read_bytes()) if deep else Entry("", path.size())
            else:
                size = path.stat().st_size
                matches = deep and size == self.files[key].size
                found = digest_file(path) if matches else Entry("", size)
        except OSError as error:
            return self.unreadable(key, error)
        return self._compare(key, found, deep=deep)

    def unreadable(self, key: str, error: OSError) -> CubeError:
        """The problem of a file that the operating system or a server does not give."""
        where = f"{self.root}: {key}"
        kind = "metadata" if key.endswith(".json") else "chunk"
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            return CubeError(f"unreadable {kind}", where=where, found=error.strerror or str(error))
        expected = f"a file of {self.files[key].size} bytes"
        return CubeError(
            f"missing {kind}", where=where, expected=expected, found="no file", remedy=RESTORE
        )

    def _compare(self, key: str, found: Entry, *, deep: bool) -> CubeError | None:
        entry, where = self.files[key], f"{self.root}: {key}"
        metadata = key.endswith(".json")
        if found.size != entry.size:
            return CubeError(
                "changed metadata" if metadata else "truncated chunk",
                where=where,
                expected=f"{entry.size} bytes",
                found=f"{found.size} bytes",
                remedy=RESTORE,
            )
        if deep and found.sha256 != entry.sha256:
            return CubeError(
                "changed metadata" if metadata else "corrupt chunk",
                where=where,
                expected=f"SHA-256 {entry.sha256[:12]}",
                found=found.sha256[:12],
                remedy=RESTORE,
            )
        return None

    def problems(self, keys: Iterable[str], *, deep: bool) -> Iterator[CubeError]:
        """The problems of several files, in order."""
        if not isinstance(self.root, RemotePath):
            found = (self.problem(key, deep=deep) for key in keys)
            yield from (error for error in found if error is not None)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda key: self.problem(key, deep=deep), keys)
            yield from (error for error in found if error is not None)


def _own_digest(files: dict[str, Entry], version: int) -> str:
    sha = hashlib.sha256(f"{version}\n".encode())
    for key, entry in sorted(files.items()):
        sha.update(f"{key} {entry.sha256} {entry.size}\n".encode())
    return sha.hexdigest()


def seal(path: str | os.PathLike[str], known: dict[str, Entry] | None = None) -> None:
    """Writes the manifest of the files as they lie there, e.g. after a deliberate edit.

    Args:
      known: entries taken when the files were written; they are believed over the disk.
    """
    root = Path(path)
    entries = dict(known or {})
    for file in sorted(root.rglob("*")):
        key = file.relative_to(root).as_posix()
        if file.is_file() and file.name.endswith(".partial"):
            file.unlink()  # of a writer that was killed in the middle of a file
        elif file.is_file() and not key.startswith(JOURNAL) and key != MANIFEST:
            entries.setdefault(key, digest_file(file))
    Manifest(root, entries).write()


def shard_keys(
    array: str, shape: Sequence[int], shards: Sequence[int], window: Sequence[slice] | None = None
) -> list[str]:
    """Keys of the shards of an array that a window touches (all of them without one).

    >>> shard_keys("s2/pixels", (1, 2, 100, 60), (1, 2, 64, 64))
    ['s2/pixels/c/0/0/0/0', 's2/pixels/c/0/0/1/0']
    """
    ranges: list[Any] = []
    for axis, (n, s) in enumerate(zip(shape, shards, strict=True)):
        lo, hi = (0, n) if window is None else (window[axis].start, window[axis].stop)
        ranges.append(range(lo // s, -(-hi // s)))
    return [f"{array}/c/" + "/".join(map(str, i)) for i in itertools.product(*ranges)]
