"""Computes the features of a frozen tower into a folder (`features`), image by image, restartable.

The tower is handed in as a function. A writer that was killed goes on after its last whole shard:
the `.json` of a shard is written after its numbers, and each file replaced in one step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google_crc32c import value as crc32c

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.core.shapes import Float

from .features import STORED, FeatureSpec, Stored, check_spec, read_spec, shards

Pixels = Callable[[str], Float[np.ndarray, "S S 3"]]
Encode = Callable[[Float[np.ndarray, "F S S 3"]], Any]


class Written(NamedTuple):
    """What `write_features` did.

    Attributes:
      images: whose features were computed now; before: those that had them.
      unread: why an image could not be read, by path.
    """

    images: int
    before: int
    unread: dict[str, str]


def write_features(
    folder: str | os.PathLike[str],
    paths: Sequence[str],
    pixels: Pixels,
    encode: Encode,
    *,
    tower: str,
    preprocessing: str,
    dtype: Stored = "bfloat16",
    batch: int = 8,
    shard: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Compute the features of images that a folder does not hold yet.

    Args:
      paths: of images; a content that comes twice is computed once.
      pixels: path -> f32[S,S,3]; a DataError leaves the image out, with its reason.
      encode: f32[batch,S,S,3] -> [batch,P,Dv]; always called with as many (a last part is filled
        up), so that it compiles once.
      tower, preprocessing: digests of both.
      dtype: as stored.
      batch, shard: images encoded together, and of a file.
      progress: called with (images done, images in all).

    Raises:
      DataError: the folder holds features of another tower, preprocessing or type.
      ConfigError: it cannot be written.
    """
    folder = Path(folder)
    seen: set[str] = set()
    number = 0
    if (folder / "features.json").exists():
        spec = read_spec(folder)
        check_spec(spec, folder, tower, preprocessing, dtype)
        for name, index in shards(folder):
            seen.update(key for key, _ in index["images"])
            seen.update(index["unread"])
            number = max(number, int(name) + 1)
    before, done, unread, at = 0, 0, {}, 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        keys = _keys(paths, seen, unread)
        while part := _taken(keys, shard):
            new = {key: path for key, path in part if path is not None}
            before += len(part) - len(new)
            at += len(part)
            if new:
                written, failed = _write_shard(
                    folder, f"{number:05d}", new, pixels, encode, tower, preprocessing, dtype, batch
                )
                done, number = done + written, number + 1
                unread.update(failed)
            if progress is not None:
                progress(min(at + len(unread), len(paths)), len(paths))
    except OSError as error:
        raise ConfigError(
            f"cannot write the features ({error.strerror})", where=folder,
            remedy="free space or rights and run again: it goes on after the last whole shard",
        ) from error  # fmt: skip
    return Written(done, before, unread)


def _keys(
    paths: Sequence[str], seen: set[str], unread: dict[str, str]
) -> Iterator[tuple[str, str | None]]:
    """(digest, path) of each image; path None where its features are there or on their way."""
    for path in paths:
        try:
            key = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError as error:
            unread[str(path)] = str(error.strerror)
            continue
        yield key, None if key in seen else path
        seen.add(key)


def _taken(keys: Iterator[tuple[str, str | None]], count: int) -> list[tuple[str, str | None]]:
    """Images, until `count` of them are new."""
    part, new = [], 0
    while new < count and (one := next(keys, None)) is not None:
        part.append(one)
        new += one[1] is not None
    return part


def _write_shard(
    folder: Path,
    name: str,
    images: Mapping[str, str],
    pixels: Pixels,
    encode: Encode,
    tower: str,
    preprocessing: str,
    dtype: Stored,
    batch: int,
) -> tuple[int, dict[str, str]]:
    """Number of images of a shard, and those left out."""
    unread: dict[str, str] = {}
    failed: dict[str, str] = {}
    index: list[tuple[str, int]] = []
    parts: list[np.ndarray] = []
    waiting: list[tuple[str, np.ndarray]] = []

    def flush() -> None:
        full = np.stack([p for _, p in waiting] + [waiting[-1][1]] * (batch - len(waiting)))
        values = np.asarray(encode(full))[: len(waiting)].astype(STORED[dtype])
        for (key, _), value in zip(waiting, values, strict=True):
            index.append((key, crc32c(np.ascontiguousarray(value).tobytes())))
        parts.append(values)
        waiting.clear()

    for key, path in images.items():
        try:
            waiting.append((key, pixels(path)))
        except DataError as error:
            unread[key] = failed[str(path)] = str(error)
        if len(waiting) == batch:
            flush()
    if waiting:
        flush()
    if parts:
        array = np.concatenate(parts)
        if not (folder / "features.json").exists():
            spec = FeatureSpec(tower, preprocessing, array.shape[1], array.shape[2], dtype)
            _replace(folder / "features.json", json.dumps(dataclasses.asdict(spec), indent=2))
        part = folder / f".{name}.npy.part"
        with open(part, "wb") as file:
            # Of bfloat16 NumPy's format knows nothing.
            np.save(file, array.view(np.uint16) if dtype == "bfloat16" else array)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / f"{name}.npy")
    _replace(folder / f"{name}.json", json.dumps({"images": index, "unread": unread}))
    return len(index), failed


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
