"""Weight tables: which array of another project is which parameter of ours, read both ways.

    Row("encoder.layers.{}.mlp.fc1.weight", "layers/mlp/fc1/kernel", TRANSPOSE)
         |                   |                |
         their name          layer number     our path; the layers are stacked on axis 0 there

A table is data: a tuple of rows. `match` lays it over the names and shapes of a checkpoint and of a
model and gathers everything that does not fit into one error; `read` streams the arrays into a
tree, sharded or not, tensor by tensor; `write` goes the other way. Nothing here knows files.

A name may stand in several rows (GPT-2's fused q, k and v): each takes its `part`. A path stands in
one row only.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from rsvlm_jax.config import CheckpointError

Shape = tuple[int, ...]
Index = tuple[slice, ...]


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
      shape: of their array -> of ours.
      read, write: the arrays themselves; inverses of each other.
      index: of ours -> of theirs, for reading a shard without the whole; None: reads all of it.
    """

    name: str
    shape: Callable[[Shape], Shape]
    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]
    index: Callable[[Index], Index] | None = None


def _same(x: Any) -> Any:
    return x


def _swap(x: Any) -> Any:
    return x[::-1]


COPY = Transform("copy", _same, _same, _same, _same)
TRANSPOSE = Transform("transpose", _swap, np.transpose, np.transpose, _swap)
"""(out, in) there, (in, out) here."""


def patch_kernel(size: int, channels: int = 3) -> Transform:
    """A strided convolution [D, C, row, column] as a matrix [(row, column, C), D].

    No sharding rule splits the rows of such a matrix, so a shard is a range of D.
    """

    def read(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def write(x: np.ndarray) -> np.ndarray:
        return x.reshape(size, size, channels, -1).transpose(3, 2, 0, 1)

    def index(i: Index) -> Index:
        return (i[1], slice(None), slice(None), slice(None))

    def shape(s: Shape) -> Shape:
        return (s[1] * s[2] * s[3], s[0])

    return Transform(f"patch_kernel({size})", shape, read, write, index)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      theirs: name there; `{}` stands for the layer number.
      ours: path here (`rsvlm_jax.core.flat`); stacked over layers where `theirs` has a `{}`.
      how: what is done to each layer's array.
      part: (i, n): the i-th of n equal parts of their array along `axis`, before `how`.
      optional: may be absent there *and* here (a bias that a config switches off).
    """

    theirs: str
    ours: str
    how: Transform = COPY
    part: tuple[int, int] | None = None
    axis: int = 0
    optional: bool = False


Table = tuple[Row, ...]


def prefixed(table: Iterable[Row], theirs: str = "", ours: str = "") -> Table:
    """A tower's table inside a larger model: both names with something in front."""
    return tuple(
        dataclasses.replace(r, theirs=theirs + r.theirs, ours=ours + r.ours) for r in table
    )


@dataclasses.dataclass(frozen=True)
class Match:
    """A table laid over a checkpoint and a model.

    Attributes:
      sources: our path -> (row, their names, one for each layer or just one).
      ignored: their names that carry nothing for us, by the table's own word.
      missing: our paths that the checkpoint lacks (only where that was allowed).
    """

    sources: dict[str, tuple[Row, tuple[str, ...]]]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]


def match(
    table: Table,
    theirs: Mapping[str, Shape],
    ours: Mapping[str, Shape],
    *,
    where: str,
    ignore: Iterable[str] = (),
    may_lack: Iterable[str] = (),
) -> Match:
    """Which of their arrays make which of our parameters.

    Args:
      theirs: shapes by name, as in the file (after the family's normaliser).
      ours: shapes by path, as in the abstract model.
      where: the checkpoint, for the error.
      ignore: patterns (`re.fullmatch`) of their names that hold nothing to read.
      may_lack: patterns (`re.match`) of our paths that may be missing there.

    Raises:
      CheckpointError: with every missing, unused and misshapen array in one line.
    """
    sources: dict[str, tuple[Row, tuple[str, ...]]] = {}
    missing: list[str] = []
    allowed: list[str] = []
    shapes: list[str] = []
    used: set[str] = set()
    rows = {row.ours: row for row in table}
    if len(rows) != len(table):
        twice = sorted({r.ours for r in table if sum(q.ours == r.ours for q in table) > 1})
        raise ValueError(f"paths that stand in two rows of a table: {twice}")
    lacking = [re.compile(p) for p in may_lack]
    for path, shape in ours.items():
        row = rows.get(path)
        names: tuple[str, ...] = ()
        if row is not None:
            layers = range(shape[0]) if "{}" in row.theirs else [None]
            names = tuple(row.theirs.replace("{}", str(i)) for i in layers)
        absent = [n for n in names if n not in theirs]
        if row is None or absent:
            if any(p.match(path) for p in lacking) and len(absent) == len(names):
                allowed.append(path)
            else:
                missing += [f"{n} ({path})" for n in absent] or [f"{path} (in no table)"]
            continue
        inner = shape[1:] if "{}" in row.theirs else shape
        for name in names:
            used.add(name)
            made = _shape(row, theirs[name])
            if made != inner:
                shapes.append(f"{name} {theirs[name]} (model: {path} {inner})")
        sources[path] = (row, names)
    skip = [re.compile(p) for p in ignore]
    unused = [n for n in theirs if n not in used]
    ignored = [n for n in unused if any(p.fullmatch(n) for p in skip)]
    unused = [n for n in unused if n not in set(ignored)]
    if missing or unused or shapes:
        parts = [("missing there", missing), ("unused", unused), ("of another shape", shapes)]
        raise CheckpointError(
            "the checkpoint and the model do not fit",
            where=where,
            found=" | ".join(f"{w} ({len(x)}): {_some(x)}" for w, x in parts if x),
        )
    return Match(sources, tuple(ignored), tuple(allowed))


def read(
    found: Match,
    theirs: Mapping[str, Lazy],
    ours: Mapping[str, jax.ShapeDtypeStruct],
) -> Iterator[tuple[str, jax.Array]]:
    """Our arrays one after the other, each made shard by shard from slices of theirs.

    Args:
      ours: shape, dtype and, where wanted, `sharding` of each path in `found.sources`. Without a
        sharding the array lies on the default device.

    Only the pages of one shard and the array that it becomes are in memory beside what was made.
    """
    for path, (row, names) in found.sources.items():
        wanted = ours[path]

        def shard(index: Any, row: Row = row, names: Any = names, wanted: Any = wanted) -> Any:
            index = tuple(slice(*s.indices(n)) for s, n in zip(index, wanted.shape, strict=True))
            if "{}" not in row.theirs:
                return _piece(row, theirs[names[0]], index, wanted.shape).astype(wanted.dtype)
            shape = tuple(
                len(range(*s.indices(n))) for s, n in zip(index, wanted.shape, strict=True)
            )
            out = np.empty(shape, wanted.dtype)
            for i, layer in enumerate(range(index[0].start, index[0].stop)):
                out[i] = _piece(row, theirs[names[layer]], index[1:], wanted.shape[1:])
            return out

        sharding = wanted.sharding
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        array = jax.make_array_from_callback(wanted.shape, sharding, shard)
        yield path, jax.block_until_ready(array)  # bounds what is in flight


def write(table: Table, ours: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Their arrays, by name, from ours (any arrays that NumPy reads); rows without a path here
    must be optional.

    Raises:
      CheckpointError: a parameter that no row takes, or a row whose parameter is not there.
    """
    rows = {row.ours: row for row in table}
    stray = sorted(ours.keys() - rows.keys())
    lost = sorted(r.ours for r in table if r.ours not in ours and not r.optional)
    if stray or lost:
        raise CheckpointError(
            "the model cannot be written in this format",
            expected=f"also {_some(lost)}" if lost else None,
            found=f"no place for {_some(stray)}" if stray else None,
        )
    groups: dict[str, list[Row]] = {}
    for row in table:
        if row.ours in ours:
            groups.setdefault(row.theirs, []).append(row)
    for name, group in groups.items():
        group = sorted(group, key=lambda r: r.part or (0, 1))
        layers = range(ours[group[0].ours].shape[0]) if "{}" in name else [None]
        for layer in layers:
            parts = []
            for row in group:
                x = ours[row.ours]
                parts.append(row.how.write(np.asarray(x if layer is None else x[layer])))
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=group[0].axis)
            yield name.replace("{}", str(layer)), np.ascontiguousarray(whole)


def _shape(row: Row, shape: Shape) -> Shape | None:
    if row.part is not None:
        n = row.part[1]
        if row.axis >= len(shape) or shape[row.axis] % n:
            return None
        shape = (*shape[: row.axis], shape[row.axis] // n, *shape[row.axis + 1 :])
    try:
        return tuple(row.how.shape(shape))
    except IndexError:  # fewer axes than the transform knows
        return None


def _piece(row: Row, source: Lazy, index: Index, shape: Shape) -> np.ndarray:
    """`index` of one layer's array of ours, from as little of theirs as the transform allows."""
    whole = all(s == slice(0, n, 1) for s, n in zip(index, shape, strict=True))
    narrow = None if whole or row.how.index is None else row.how.index(index)
    window = [slice(None)] * len(source.shape) if narrow is None else list(narrow)
    if row.part is not None:
        i, n = row.part
        size = source.shape[row.axis] // n
        start, stop, _ = window[row.axis].indices(size)
        window[row.axis] = slice(i * size + start, i * size + stop)
    made = row.how.read(source[tuple(window)])
    return made if narrow is not None or whole else made[index]


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
