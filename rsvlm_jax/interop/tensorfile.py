"""One safetensors file: its header checked to the last byte, its tensors mapped into memory.

    8 bytes n | JSON of n bytes {name: {dtype, shape, data_offsets}} | data

A header is refused that overlaps, leaves gaps, points elsewhere or promises more than the file
holds: nothing that it says is used before all of it adds up.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import CheckpointError

from .transforms import Index, Lazy, Shape

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000
"""Bytes, as in the reference implementation of the format."""


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A tensor of a mapped file. A slice is a view of the file: read-only, and not to be kept."""

    file: mmap.mmap
    offset: int
    shape: Shape
    dtype: np.dtype

    def __getitem__(self, index: Index) -> np.ndarray:
        whole = np.ndarray(self.shape, self.dtype, self.file, self.offset)
        return np.asarray(whole[index])  # one number as an array of no axes


def open_tensors(path: Path, file: BinaryIO) -> Mapping[str, Lazy]:
    """The tensors of an open safetensors file by name.

    Raises:
      CheckpointError: anything that is not as the format says.
    """
    entries, data = _read_header(path, file, os.fstat(file.fileno()).st_size)
    if not entries:
        return {}
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {
        name: Mapped(mapped, data + start, shape, dtype)
        for name, (dtype, shape, start, _) in entries.items()
    }


def header(shapes: Mapping[str, Shape], dtype: np.dtype) -> bytes:
    """What comes before the data of these tensors, in this order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return struct.pack("<Q", len(text)) + text


Entry = tuple[np.dtype, Shape, int, int]


def _read_header(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Entry], int]:
    """Entries by name, and where the data begins.

    Raises:
      CheckpointError: anything that is not as the format says.
    """

    def refuse(what: str, expected: object = None, found: object = None) -> CheckpointError:
        return CheckpointError(what, where=path, expected=expected, found=found)

    if size < 8:
        raise refuse("a damaged checkpoint", "a safetensors file", f"{size} bytes")
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, _MAX_HEADER):
        raise refuse(
            "a truncated or foreign file", f"a safetensors header of {length} bytes",
            f"{size - 8} bytes after its length",
        )  # fmt: skip
    try:
        header = json.loads(file.read(length), object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as e:
        raise refuse("a damaged safetensors header", "JSON", e) from e
    if not isinstance(header, dict):
        raise refuse("a damaged safetensors header", "a JSON object", type(header).__name__)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    end, last = 0, None
    for name, (_, _, start, stop) in sorted(entries.items(), key=lambda x: x[1][2:]):
        if start != end:
            what = "tensors overlap" if start < end else "a gap between tensors"
            raise refuse(what, f"{name} at {end}" + (f", after {last}" if last else ""), start)
        end, last = stop, name
    data = 8 + length
    if data + end != size:
        what = "a truncated checkpoint" if data + end > size else "bytes after the last tensor"
        raise refuse(what, f"{data + end} bytes", f"{size} bytes")
    return entries, data


def _entry(path: Path, name: str, value: Any) -> Entry:
    where = f"{path}: {name}"
    if not isinstance(value, dict) or {"dtype", "shape", "data_offsets"} - value.keys():
        raise CheckpointError(
            "a damaged safetensors header", where=where, expected="dtype, shape, data_offsets"
        )
    dtype, shape, offsets = (value[k] for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(
            "a dtype that is not read", where=where, expected=", ".join(_DTYPES), found=dtype
        )
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(
            "impossible sizes", where=where, expected="a shape and two offsets, none negative",
            found=f"shape {shape}, data_offsets {offsets}",
        )  # fmt: skip
    wanted = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != wanted:
        raise CheckpointError(
            "the size of a tensor is not that of its shape", where=where,
            expected=f"{wanted} bytes for {dtype} {shape}", found=f"data_offsets {offsets}",
        )  # fmt: skip
    return _DTYPES[dtype], tuple(shape), offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands twice")
    return made
