"""Checkpoint files: names to arrays that are read when they are sliced, and the way back.

    model.safetensors                            one file, or
    model.safetensors.index.json                 which tensor lies in which of
    model-00001-of-00003.safetensors ...         several

The files are mapped into memory, so a tensor costs nothing until a slice of it is copied. What
does not add up (a file that was cut off, offsets that overlap, an index that names files elsewhere)
is refused before a single number is read. Nothing here knows models; one file is a matter of
`rsvlm_jax.interop.tensorfile`. Pickles are a matter of `rsvlm_jax.interop.pickles` and are not
opened unless asked for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsvlm_jax.config import CheckpointError

from .tensorfile import header, open_tensors
from .transforms import Lazy, Shape

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclasses.dataclass(frozen=True)
class Checkpoint(Mapping[str, Lazy]):
    """Arrays by name.

    Attributes:
      path: folder or file, for errors.
    """

    path: Path
    arrays: Mapping[str, Lazy]

    def __getitem__(self, name: str) -> Lazy:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def open_checkpoint(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> Checkpoint:
    """The tensors of a file, or of a folder with one file or an index.

    Args:
      allow_pickle: read `.bin`, `.pt`, `.pth` and `.ckpt` too, through torch's weights-only
        loader. They are programs that build tensors; a safetensors file beside them wins.

    Raises:
      CheckpointError: nothing there, a damaged or foreign file, or a pickle that was not allowed.
    """
    path = Path(path)
    if path.is_file():
        return Checkpoint(path, _open_file(path, allow_pickle))
    if not path.is_dir():
        raise CheckpointError("no such checkpoint", where=path)
    if (path / WEIGHTS).exists():
        return Checkpoint(path, _open_file(path / WEIGHTS, allow_pickle))
    for name in (INDEX, "pytorch_model.bin.index.json"):
        if (path / name).exists():
            return Checkpoint(path, _open_index(path / name, allow_pickle))
    if (path / "pytorch_model.bin").exists():
        return Checkpoint(path, _open_file(path / "pytorch_model.bin", allow_pickle))
    others = sorted(p.name for p in path.iterdir())
    raise CheckpointError(
        "no weights", where=path, expected=f"{WEIGHTS} or {INDEX}",
        found=", ".join(others[:10]) or "an empty folder",
        remedy="name the file itself if it has another name",
    )  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      CheckpointError: no file, or something else.
    """
    if not path.is_file():
        raise CheckpointError("a file is missing", where=path.parent, expected=path.name)
    data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise CheckpointError(
            "not JSON", where=path, expected="a JSON object", found=_foreign(data[:64]) or e
        ) from e
    if not isinstance(value, dict):
        raise CheckpointError(
            "not a JSON object", where=path, expected="{...}", found=type(value).__name__
        )
    return value


def write_checkpoint(
    folder: Path,
    shapes: Mapping[str, Shape],
    arrays: Iterable[tuple[str, np.ndarray]],
    dtype: Any,
    *,
    shard_bytes: int,
) -> None:
    """Stream arrays into safetensors files: one, or several and their index.

    Args:
      shapes: of all arrays, in the order in which they come.
      arrays: cast to `dtype` one at a time.
      shard_bytes: of one file at most, unless a single tensor is larger.

    The files get their names when all are complete.

    Raises:
      CheckpointError: the folder holds a checkpoint already.
    """
    dtype = np.dtype(dtype)
    there = sorted(p.name for p in folder.glob("*.safetensors*")) if folder.exists() else []
    if there:
        raise CheckpointError(
            "the folder holds a checkpoint", where=folder, found=", ".join(there[:10]),
            remedy="choose another, or remove it",
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(shapes, dtype, shard_bytes)
    many = len(shards) > 1
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if many else [WEIGHTS]
    try:
        _write_shards(folder, names, shards, iter(arrays), dtype)
    except BaseException:  # a full disk, an interruption: the folder stays as it was
        for file_name in names:
            (folder / f"{file_name}.partial").unlink(missing_ok=True)
        raise
    for file_name in names:
        (folder / f"{file_name}.partial").replace(folder / file_name)
    if many:
        total = sum(math.prod(s) for s in shapes.values()) * dtype.itemsize
        weight_map = {t: f for f, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_shards(
    folder: Path,
    names: Sequence[str],
    shards: Sequence[Mapping[str, tuple[int, ...]]],
    stream: Iterator[tuple[str, np.ndarray]],
    dtype: np.dtype,
) -> None:
    for file_name, shard in zip(names, shards, strict=True):
        with open(folder / f"{file_name}.partial", "wb") as file:
            file.write(header(shard, dtype))
            for wanted, shape in shard.items():
                name, array = next(stream)
                assert (name, array.shape) == (wanted, shape), (name, array.shape, wanted, shape)
                array = np.ascontiguousarray(array, dtype)
                file.write(array.reshape(-1).view(np.uint8).data)
                del array  # before the next one is made
    assert next(stream, None) is None


# ---- reading -----------------------------------------------------------------------------------


def _open_file(path: Path, allow_pickle: bool) -> Mapping[str, Lazy]:
    if path.is_dir():
        raise CheckpointError(
            "not a checkpoint", where=path, expected="a safetensors file", found="a directory"
        )
    with open(path, "rb") as file:
        start = file.read(64)
        foreign = _foreign(start)
        if path.suffix in PICKLES and foreign in (None, _PICKLE, _ZIP):
            if not allow_pickle:
                raise CheckpointError(
                    "a pickle can run any program, so it is not opened", where=path,
                    expected=WEIGHTS, found=path.name,
                    remedy="allow_pickle (--allow-pickle): by torch's weights-only loader",
                )  # fmt: skip
            from .pickles import load_pickle

            return load_pickle(path)
        if foreign is not None:
            raise CheckpointError(
                "not a checkpoint", where=path, expected="a safetensors file", found=foreign
            )
        return open_tensors(path, file)


_PICKLE, _ZIP = "a pickle", "a zip archive (torch's .bin or .pt)"


def _foreign(start: bytes) -> str | None:
    """What a file is by its first bytes, where that is known to be no safetensors."""
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself (git lfs pull)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the download failed"
    if start.startswith(b"PK\x03\x04"):
        return _ZIP
    # protocol 2 and later; a header of 0x80 bytes would be followed by more of its length
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return None if start[8:9] == b"{" else _PICKLE
    return None


def _open_index(path: Path, allow_pickle: bool) -> Mapping[str, Lazy]:
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(f, str) for f in where.values()):
        raise CheckpointError(
            "a damaged index", where=path, expected="weight_map: tensor names to file names"
        )
    for file in sorted(set(where.values())):
        # The name itself is checked: caches keep their files elsewhere, behind links.
        if Path(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise CheckpointError(
                "the index names a file outside its folder", where=path,
                expected="plain file names", found=repr(file),
            )  # fmt: skip
        if not (path.parent / file).is_file():
            raise CheckpointError("a file of the index is missing", where=path, expected=file)
    arrays: dict[str, Lazy] = {}
    for file in sorted(set(where.values())):
        found = _open_file(path.parent / file, allow_pickle)
        listed = {name for name, f in where.items() if f == file}
        if found.keys() != listed:
            lacks, extra = sorted(listed - found.keys()), sorted(found.keys() - listed)
            raise CheckpointError(
                "the index and its file do not hold the same tensors", where=path.parent / file,
                expected=f"also {', '.join(lacks[:10])}" if lacks else None,
                found=f"also {', '.join(extra[:10])}" if extra else None,
            )  # fmt: skip
        arrays |= found
    return arrays


# ---- writing -----------------------------------------------------------------------------------


def _shards(shapes: Mapping[str, Shape], dtype: np.dtype, limit: int) -> list[dict[str, Shape]]:
    shards: list[dict[str, Shape]] = [{}]
    used = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and used + size > limit:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += size
    return shards
