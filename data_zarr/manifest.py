"""The manifest: every file of a finished cube with its size and SHA-256.

Zarr reads a chunk that is not there as its fill value, and a default codec lets a flipped bit
through. The manifest says which files a cube consists of, so that what is missing or changed is
named instead of read. It is written last, atomically: a cube without it is incomplete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_zarr.errors import CubeError
from data_zarr.format import FORMAT_VERSION, JOURNAL, MANIFEST


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

    def __init__(self, root: Path, files: dict[str, Entry]):
        self.root, self.files = root, files

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """The manifest of a cube; CubeError when there is none."""
        path = root / MANIFEST
        try:
            content = json.loads(path.read_text())
            files = {k: Entry(sha, int(size)) for k, (sha, size) in content["files"].items()}
        except FileNotFoundError as error:
            raise CubeError(
                "incomplete cube",
                where=root,
                expected=MANIFEST,
                found="none: its writing was never finished",
                remedy="run the writing again, it resumes",
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CubeError("unreadable manifest", where=path, found=str(error)[:120]) from error
        return cls(root, files)

    def write(self) -> None:
        """Writes `manifest.json`, sorted, atomically."""
        files = {k: [e.sha256, e.size] for k, e in sorted(self.files.items())}
        content = {"format_version": FORMAT_VERSION, "files": files}
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
        entry, path = self.files.get(key), self.root / key
        remedy = "restore this file from the source, or write the cube again"
        if entry is None:
            return CubeError("chunk is not in the manifest", where=f"{self.root}: {key}")
        try:
            size = path.stat().st_size
        except OSError:
            return CubeError(
                "missing chunk" if not key.endswith(".json") else "missing metadata",
                where=f"{self.root}: {key}",
                expected=f"a file of {entry.size} bytes",
                found="no file",
                remedy=remedy,
            )
        if size != entry.size:
            return CubeError(
                "truncated chunk" if not key.endswith(".json") else "changed metadata",
                where=f"{self.root}: {key}",
                expected=f"{entry.size} bytes",
                found=f"{size} bytes",
                remedy=remedy,
            )
        if deep and (found := digest_file(path).sha256) != entry.sha256:
            return CubeError(
                "corrupt chunk" if not key.endswith(".json") else "changed metadata",
                where=f"{self.root}: {key}",
                expected=f"SHA-256 {entry.sha256[:12]}",
                found=found[:12],
                remedy=remedy,
            )
        return None

    def problems(self, keys: Iterable[str], *, deep: bool) -> Iterator[CubeError]:
        """The problems of several files, in order."""
        for key in keys:
            if (error := self.problem(key, deep=deep)) is not None:
                yield error


def seal(path: str | os.PathLike[str], known: dict[str, Entry] | None = None) -> None:
    """Writes the manifest of the files as they lie there, e.g. after a deliberate edit.

    Args:
      known: entries taken when the files were written; they are believed over the disk.
    """
    root = Path(path)
    entries = dict(known or {})
    for file in sorted(root.rglob("*")):
        key = file.relative_to(root).as_posix()
        if file.is_file() and not key.startswith(JOURNAL) and key != MANIFEST:
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
