"""Weight tables: which array of another project is which parameter of ours, read both ways.

    Row("encoder.layers.{}.mlp.fc1.weight", "layers/mlp/fc1/kernel", TRANSPOSE)
         |                   |                |
         their name          layer number     our path; the layers are stacked on axis 0 there

A table is data: a tuple of rows. `match` lays it over the names and shapes of a checkpoint and of a
model and gathers everything that does not fit into one error; `read` streams the arrays into a
tree, sharded or not, tensor by tensor; `write` goes the other way. Nothing here knows files.

A name may stand in several rows (GPT-2's fused q, k and v): each takes its `part`. A path stands in
one row only. Rows whose path the model does not have say what may be left unread (a pooler that
was switched off), except where they are `optional`: those name what would change the numbers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import CheckpointError

from .memory import aligned, host, put
from .transforms import COPY, TRANSPOSE, Index, Lazy, Shape, Transform, patch_kernel

__all__ = [
    "COPY",
    "TRANSPOSE",
    "Index",
    "Lazy",
    "Match",
    "Row",
    "Shape",
    "Table",
    "Transform",
    "match",
    "patch_kernel",
    "prefixed",
    "read",
    "read_layers",
    "write",
    "written_shapes",
]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      theirs: name there; `{}` stands for the layer number.
      ours: path here (`rsvlm_jax.core.flat`); stacked over layers where `theirs` has a `{}`.
      how: what is done to each layer's array.
      part: (i, n): the i-th of n equal parts of their array along `axis`, before `how`.
      optional: may be absent there *and* here (a bias that a config switches off). Without it, an
        array that is there and has no path here is ignored; with it, it is refused as unused.
      first, every: layer i here is number `first + every * i` there.
      copies: other names under which a checkpoint may hold the same array once more (the tied
        head of a language model); read only to see that it is bit by bit the same.
    """

    theirs: str
    ours: str
    how: Transform = COPY
    part: tuple[int, int] | None = None
    axis: int = 0
    optional: bool = False
    first: int = 0
    every: int = 1
    copies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.copies and (self.stacked or self.part):
            raise ValueError(f"copies of {self.theirs!r}, which is no whole array")

    @property
    def stacked(self) -> bool:
        return "{}" in self.theirs

    def name(self, layer: int | None) -> str:
        """Their name of our layer; None for an array that is not stacked."""
        if layer is None:
            return self.theirs
        return self.theirs.replace("{}", str(self.first + self.every * layer))


Table = tuple[Row, ...]


def prefixed(table: Iterable[Row], theirs: str = "", ours: str = "") -> Table:
    """A tower's table inside a larger model: both names with something in front."""
    return tuple(
        dataclasses.replace(
            r,
            theirs=theirs + r.theirs,
            ours=ours + r.ours,
            copies=tuple(theirs + c for c in r.copies),
        )
        for r in table
    )


@dataclasses.dataclass(frozen=True)
class Match:
    """A table laid over a checkpoint and a model.

    Attributes:
      sources: our path -> (row, their names, one for each layer or just one).
      ignored: their names that carry nothing for us, by the table's own word.
      missing: our paths that the checkpoint lacks (only where that was allowed).
      copies: (name, name) of arrays that must be bit by bit the same; the second one is read.
    """

    sources: dict[str, tuple[Row, tuple[str, ...]]]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    copies: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> set[str]:
        """Theirs, all that are read."""
        return {name for _, names in self.sources.values() for name in names}


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
      ValueError: a table that contradicts itself.
    """
    rows = _by_path(table)
    sources: dict[str, tuple[Row, tuple[str, ...]]] = {}
    copies: list[tuple[str, str]] = []
    missing: list[str] = []
    allowed: list[str] = []
    shapes: list[str] = []
    used: set[str] = set()
    lacking = [re.compile(p) for p in may_lack]
    for path, shape in ours.items():
        row = rows.get(path)
        names: tuple[str, ...] = () if row is None else _names(row, shape, len(theirs))
        absent = [n for n in names if n not in theirs]
        if row is None or absent:
            if any(p.match(path) for p in lacking) and len(absent) == len(names):
                allowed.append(path)
            else:
                missing += [f"{n} ({path})" for n in absent] or [f"{path} (in no table)"]
                used.update(names)
            continue
        inner = shape[1:] if row.stacked else shape
        for name in names:
            used.add(name)
            if _shape(row, theirs[name]) != inner:
                shapes.append(f"{name} {theirs[name]} (model: {path} {inner})")
        for copy in row.copies:
            if copy in theirs and copy not in used:
                used.add(copy)
                copies.append((copy, row.theirs))
        sources[path] = (row, names)
    skip = [re.compile(p) for p in ignore]
    skip += [_pattern(r.theirs) for r in table if r.ours not in ours and not r.optional]
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
    return Match(sources, tuple(ignored), tuple(allowed), tuple(copies))


def read(
    found: Match,
    theirs: Mapping[str, Lazy],
    ours: Mapping[str, jax.ShapeDtypeStruct],
) -> Iterator[tuple[str, jax.Array]]:
    """Our arrays one after the other, each made shard by shard from slices of theirs.

    Args:
      ours: shape, dtype and, where wanted, `sharding` of each path in `found.sources`. Without a
        sharding the array lies on the default device.

    Beside the arrays themselves at most one shard is in memory; on CPU not even that, because a
    buffer of the right alignment becomes the array.
    """
    for path, (row, names) in found.sources.items():
        wanted = ours[path]
        sharding = wanted.sharding
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)
        where = sharding.addressable_devices_indices_map(wanted.shape)
        devices: dict[tuple, list] = {}
        for device, index in where.items():
            bounds = [slice(None)] * len(wanted.shape) if index is None else index
            pairs = zip(bounds, wanted.shape, strict=True)
            devices.setdefault(tuple(s.indices(n)[:2] for s, n in pairs), []).append(device)
        shards = []
        for bounds, same in devices.items():
            shard = _shard(row, [theirs[n] for n in names], bounds, wanted)
            for device in same:
                shards.append(jax.block_until_ready(jax.device_put(shard, device)))
            del shard
        yield (
            path,
            jax.make_array_from_single_device_arrays(
                wanted.shape, sharding, shards, dtype=wanted.dtype
            ),
        )


def read_layers(
    found: Match, theirs: Mapping[str, Lazy], path: str, room: np.ndarray
) -> Iterator[np.ndarray]:
    """One of our arrays, whole, a layer at a time; all of it, where it is not stacked.

    Args:
      room: [n] in the dtype that is wanted, n the size of a layer at least: each lies there, until
        the next.
    """
    row, names = found.sources[path]
    for name in names:
        made = row.how.read(np.asarray(theirs[name][_part(row, theirs[name].shape)]))
        out = room[: made.size].reshape(made.shape)
        put(out, made)
        yield out


def write(table: Table, ours: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Their arrays, by name, from ours (any arrays that NumPy reads), one in memory at a time.

    Rows without a path here must be optional.

    Raises:
      CheckpointError: a parameter that no row takes, or a row whose parameter is not there.
      ValueError: a table that contradicts itself.
    """
    for name, layer, group in _plan(table, {path: x.shape for path, x in ours.items()}):
        yield name, _joined(group, ours, layer)  # held by no name here while the next is made


def written_shapes(table: Table, ours: Mapping[str, Shape]) -> dict[str, Shape]:
    """Names and shapes of what `write` yields, in its order, without any array.

    Raises:
      CheckpointError, ValueError: as `write`.
    """
    shapes: dict[str, Shape] = {}
    for name, layer, group in _plan(table, ours):
        parts = []
        for row in group:
            shape = ours[row.ours] if layer is None else ours[row.ours][1:]
            nothing = np.broadcast_to(np.zeros((), np.bool_), shape)  # one byte, any shape
            parts.append(row.how.write(nothing).shape)
        axis = group[0].axis
        total = sum(p[axis] for p in parts) if len(parts) > 1 else None
        shapes[name] = (
            parts[0] if total is None else (*parts[0][:axis], total, *parts[0][axis + 1 :])
        )
    return shapes


def _plan(table: Table, ours: Mapping[str, Shape]) -> Iterator[tuple[str, int | None, list[Row]]]:
    """What is written: their name, the layer here, and the rows that make it, in order."""
    rows = _by_path(table)
    stray = sorted(ours.keys() - rows.keys())
    lost = sorted(r.ours for r in table if r.ours not in ours and not r.optional)
    if stray or lost:
        raise CheckpointError(
            "the model cannot be written in this format",
            expected=f"also {_some(lost)}" if lost else None,
            found=f"no place for {_some(stray)}" if stray else None,
        )
    groups: dict[tuple, list[Row]] = {}
    for row in table:
        if row.ours in ours:
            groups.setdefault((row.theirs, row.first, row.every), []).append(row)
    for group in groups.values():
        group = sorted(group, key=lambda r: r.part or (0, 1))
        for layer in range(ours[group[0].ours][0]) if group[0].stacked else [None]:
            yield group[0].name(layer), layer, group


def _by_path(table: Table) -> dict[str, Row]:
    """The table by our paths.

    Raises:
      ValueError: a path that stands in two rows, or parts that are not all there.
    """
    rows = {row.ours: row for row in table}
    if len(rows) != len(table):
        twice = sorted({r.ours for r in table if sum(q.ours == r.ours for q in table) > 1})
        raise ValueError(f"paths that stand in two rows of a table: {twice}")
    groups: dict[tuple, list[Row]] = {}
    for row in table:
        groups.setdefault((row.theirs, row.first, row.every), []).append(row)
    for (name, *_), group in groups.items():
        n = len(group)
        parts = sorted(r.part or (0, 1) for r in group)
        if parts != [(i, n) for i in range(n)] or len({r.axis for r in group}) > 1:
            raise ValueError(f"parts of {name!r} that do not make a whole: {parts}")
    return rows


def _names(row: Row, shape: Shape, count: int) -> tuple[str, ...]:
    """Their names of one of our arrays.

    Of `count` names there, a model of more layers must miss one: an absurd number of layers does
    not make an absurd list.
    """
    if not row.stacked:
        return (row.name(None),)
    return tuple(row.name(i) for i in range(min(shape[0], count + 1)))


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"\d+"))


def _shape(row: Row, shape: Shape) -> Shape | None:
    if row.part is not None:
        n = row.part[1]
        if row.axis >= len(shape) or shape[row.axis] % n:
            return None
        shape = (*shape[: row.axis], shape[row.axis] // n, *shape[row.axis + 1 :])
    try:
        return row.how.shape(shape)
    except IndexError:  # fewer axes than the transform knows
        return None


def _shard(
    row: Row, sources: list[Lazy], bounds: tuple[tuple[int, int], ...], wanted: Any
) -> np.ndarray:
    """Ours from `bounds[axis][0]` to `bounds[axis][1]`, cast, in memory of its own."""
    index = tuple(slice(start, stop, 1) for start, stop in bounds)
    out = aligned(tuple(stop - start for start, stop in bounds), wanted.dtype)
    if not row.stacked:
        put(out, _piece(row, sources[0], index, wanted.shape))
        return out
    for i, layer in enumerate(range(*bounds[0])):
        put(out[i, ...], _piece(row, sources[layer], index[1:], wanted.shape[1:]))
    return out


def _piece(row: Row, source: Lazy, index: Index, shape: Shape) -> np.ndarray:
    """`index` of one layer's array of ours, from as little of theirs as the transform allows."""
    whole = all(s == slice(0, n, 1) for s, n in zip(index, shape, strict=True))
    narrow = None if whole or row.how.index is None else row.how.index(index)
    made = row.how.read(np.asarray(source[_part(row, source.shape, narrow)]))
    return made if narrow is not None or whole else made[index]


def _part(row: Row, shape: Shape, window: Index | None = None) -> Index:
    """`window` (None: everything) of the part of an array of theirs that a row takes."""
    within = [slice(None)] * len(shape) if window is None else list(window)
    if row.part is not None:
        i, n = row.part
        size = shape[row.axis] // n
        start, stop, _ = within[row.axis].indices(size)
        within[row.axis] = slice(i * size + start, i * size + stop)
    return tuple(within)


def _joined(group: list[Row], ours: Mapping[str, Any], layer: int | None) -> np.ndarray:
    """One array of theirs from the parts that make it, contiguous."""
    parts = [row.how.write(host(ours[row.ours], layer)) for row in group]
    if len(parts) == 1:
        if parts[0].flags.c_contiguous:
            return parts[0]
        out = np.empty(parts[0].shape, parts[0].dtype)
        put(out, parts[0])
        return out
    return np.ascontiguousarray(np.concatenate(parts, axis=group[0].axis))


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
