"""What is done to an array between another project's layout and ours, and its inverse.

Transforms work on one layer's array. They give views where they can: the copy into place does the
moving.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

Shape = tuple[int, ...]
Index = tuple[slice, ...]


@runtime_checkable
class Lazy(Protocol):
    """An array of a checkpoint that is read when it is indexed."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: Index) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Transform:
    """One layer's array there to the array here and back.

    Attributes:
      shape: of their array -> of ours; None where it cannot be theirs.
      read, write: the arrays themselves; inverses of each other. Views where they can be.
      index: of ours -> of theirs, for reading a shard without the whole; None, or giving None:
        the whole is read.
    """

    name: str
    shape: Callable[[Shape], Shape | None]
    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]
    index: Callable[[Index], Index | None] | None = None


def _same(x: Any) -> Any:
    return x


def _swap(x: Any) -> Any:
    return x[::-1]


COPY = Transform("copy", _same, _same, _same, _same)
TRANSPOSE = Transform("transpose", _swap, np.transpose, np.transpose, _swap)
"""(out, in) there, (in, out) here."""


def patch_kernel(size: int, channels: int = 3) -> Transform:
    """A strided convolution [D, C, row, column] as a matrix [(row, column, C), D].

    A shard that is a range of D is read by itself; one that splits the rows needs all of them.
    """
    rows = size * size * channels

    def read(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(rows, -1)

    def write(x: np.ndarray) -> np.ndarray:
        return x.reshape(size, size, channels, -1).transpose(3, 2, 0, 1)

    def index(i: Index) -> Index | None:
        whole = i[0] == slice(0, rows, 1)
        return (i[1], slice(None), slice(None), slice(None)) if whole else None

    def shape(s: Shape) -> Shape | None:
        return (rows, s[0]) if s[1:] == (channels, size, size) else None

    return Transform(f"patch_kernel({size})", shape, read, write, index)
