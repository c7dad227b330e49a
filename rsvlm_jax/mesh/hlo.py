"""What a compiled program moves between devices: its collectives, from the optimised HLO text.

    collectives(compiled) -> [Collective]     kind, bytes, how often, between whom, in which loop
    moved(found)          -> int              bytes that one device sends, all runs counted

Counts of instructions differ between compiler versions (combined, split, decomposed), so tests and
reports speak of bytes. An all-reduce of a whole weight, for example, is an FSDP gather gone wrong.
A reduce-scatter has three forms: the instruction; on TPU a fusion whose computation is named
"all-reduce-scatter"; on CPU, which has none, an all-reduce of which each device reads a slice only
(`Collective.sliced`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from .hlo_text import ArrayShape, Computation, Instruction, Module, parse

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip

_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_LISTS = re.compile(r"(?:replica_groups|source_target_pairs)=(\{\{.*?\}\}|\{\})")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=@?mesh\[([^\]]*)\](?:, (device_ids=\(.*?\)))? \{([^}]*)\}")
_IDS = re.compile(r"device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\)")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_SLICING = ("dynamic-slice", "slice")
_PASSING = ("bitcast", "copy", "reshape", "transpose", "convert", "get-tuple-element")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array that a program exchanges between devices.

    Attributes:
      kind: one of `KINDS`, without "-start".
      bytes: of its result on one device.
      operand_bytes: of what one device gives.
      shape, operand_shape: of result and operand; of an all-to-all in pieces, of one.
      count: times it runs in one run of the program; in a loop of unknown length once a pass of
        what is around it.
      loop_depth: loops that it is in.
      groups: devices that exchange among each other, by number in the mesh's order; of a permute
        the pairs (from, to); () is all devices; None where the text says it in a way unknown here.
      sliced: of an all-reduce: every device reads but a slice of the result.
      op_name: what JAX called the operation; gradients have "transpose(" in it.
      name: of the instruction.
    """

    kind: str
    bytes: int
    operand_bytes: int
    shape: ArrayShape
    operand_shape: ArrayShape
    count: int = 1
    loop_depth: int = 0
    groups: tuple[tuple[int, ...], ...] | None = ()
    sliced: bool = False
    op_name: str = ""
    name: str = ""

    @property
    def backward(self) -> bool:
        """Whether it belongs to the backward pass."""
        return "transpose(" in self.op_name

    @property
    def sent(self) -> float:
        """Bytes that one device sends in one run, by a ring: (n - 1) / n of what is exchanged.

        An all-reduce is a reduce-scatter and an all-gather; one that is `sliced` is the first half.
        """
        n = len(self.groups[0]) if self.groups and self.kind != "collective-permute" else 0
        share = (n - 1) / n if n else 1.0
        if self.kind == "all-reduce":
            return self.operand_bytes * share * (1 if self.sliced else 2)
        if self.kind == "all-gather":
            return self.bytes * share
        return self.operand_bytes * (1.0 if self.kind == "collective-permute" else share)


def collectives(compiled: Any) -> list[Collective]:
    """The collectives of `jitted.lower(...).compile()`, or of its text, in the text's order.

    What XLA combined into one instruction stands as its arrays, one by one. The start of an
    asynchronous pair is counted and its end is not.
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    module = parse(text)
    made: list[Collective] = []
    fused: set[tuple[str, str]] = set()
    for computation, instruction in module.instructions():
        channel = _CHANNEL.search(instruction.rest)
        if channel and computation.name in module.fused:
            # TPUs print one collective in each fusion that it overlaps with.
            if (instruction.opcode, channel[1]) in fused:
                continue
            fused.add((instruction.opcode, channel[1]))
        made += _collectives(module, computation, instruction)
    return made


def moved(found: Iterable[Collective]) -> int:
    """Bytes that one device sends, each collective as often as it runs (`Collective.sent`)."""
    return round(sum(c.sent * c.count for c in found))


def axes_of(collective: Collective, mesh: Mesh) -> tuple[str, ...] | None:
    """The mesh axes of more than one device over which a collective exchanges.

    Returns:
      Their names in the mesh's order; None where its groups are not those of any axes (or unknown).
    """
    names = [name for name in mesh.axis_names if mesh.shape[name] > 1]
    if collective.groups is None:
        return None
    if collective.kind == "collective-permute":
        return _axes_of_pairs(collective.groups, mesh, names)
    groups = {frozenset(g) for g in collective.groups} or {frozenset(range(mesh.size))}
    ids = np.arange(mesh.size).reshape([mesh.shape[name] for name in mesh.axis_names])
    for count in range(len(names) + 1):
        for chosen in itertools.combinations(names, count):
            if groups == _groups_over(ids, mesh, chosen):
                return chosen
    return None


def _groups_over(ids: np.ndarray, mesh: Mesh, chosen: tuple[str, ...]) -> set[frozenset[int]]:
    last = [i for i, name in enumerate(mesh.axis_names) if name in chosen]
    first = [i for i in range(ids.ndim) if i not in last]
    size = math.prod(mesh.shape[name] for name in chosen)
    return {frozenset(row.tolist()) for row in ids.transpose(first + last).reshape(-1, size)}


def _axes_of_pairs(
    pairs: tuple[tuple[int, ...], ...], mesh: Mesh, names: list[str]
) -> tuple[str, ...] | None:
    """Axes along which sender and receiver of some pair differ."""
    if not pairs:
        return None
    sizes = [mesh.shape[name] for name in mesh.axis_names]
    places = np.stack(np.unravel_index(np.array(pairs), sizes), axis=-1)
    differ = (places[:, 0] != places[:, 1]).any(axis=0)
    return tuple(n for n, d in zip(mesh.axis_names, differ, strict=True) if d and n in names)


def _collectives(module: Module, inside: Computation, line: Instruction) -> Iterator[Collective]:
    kind = line.opcode.removesuffix("-start")
    if kind not in KINDS:
        return
    results, operands = line.shapes, line.written or _operand_shapes(inside, line)
    if line.opcode in ("all-gather-start", "collective-permute-start"):
        # A tuple: operands, results, and of a permute two numbers more.
        results = tuple(s for s in results if s.dims or s.dtype != "u32")
        count = len(operands) or len(results) // 2
        results, operands = results[count : 2 * count], operands or results[:count]
    if inside.name.startswith("all-reduce-scatter") and kind == "all-reduce":
        kind, results = "reduce-scatter", _root(inside).shapes
    operands = operands or results
    op_name, runs = _OP_NAME.search(line.rest), module.runs[inside.name]
    common = {
        "count": runs.count,
        "loop_depth": runs.depth,
        "groups": _groups(line.rest),
        "op_name": op_name[1] if op_name else "",
        "name": line.name,
    }
    if kind in ("all-to-all", "ragged-all-to-all") or len(results) != len(operands):
        moved = sum(s.bytes for s in results), sum(s.bytes for s in operands)
        yield Collective(kind, *moved, results[0], operands[0], **common)
        return
    for i, (result, operand) in enumerate(zip(results, operands, strict=True)):
        index = i if len(results) > 1 else None
        sliced = kind == "all-reduce" and _is_sliced(module, inside, line.name, index)
        yield Collective(
            kind, result.bytes, operand.bytes, result, operand, sliced=sliced, **common
        )


def _operand_shapes(inside: Computation, line: Instruction) -> tuple[ArrayShape, ...]:
    """Of the instructions that it reads, where they are not printed with it."""
    found = [inside.by_name[name] for name in line.operands if name in inside.by_name]
    return tuple(shape for instruction in found for shape in instruction.shapes)


def _is_sliced(
    module: Module, inside: Computation, name: str, index: int | None = None, depth: int = 0
) -> bool:
    """Whether what `name` gives is read by slices alone, through fusions and views.

    Args:
      index: of the element of a tuple that is meant.
    """
    users = inside.users.get(name, ())
    if index is not None:
        ends = [u for u in users if u.opcode.endswith("-done")]
        users = inside.users.get(ends[0].name, ()) if ends else users
        users = tuple(u for u in users if re.search(rf"\bindex={index}\b", u.rest))
    return bool(users) and all(_reads_slice(module, inside, u, name, depth) for u in users)


def _reads_slice(
    module: Module, inside: Computation, user: Instruction, name: str, depth: int
) -> bool:
    if user.opcode in _SLICING:
        return user.operands[0] == name
    if depth > 8:
        return False
    if user.opcode in _PASSING or user.opcode.endswith("-done"):
        # A root without users leaves the computation whole.
        return _is_sliced(module, inside, user.name, None, depth + 1)
    if user.opcode != "fusion":
        return False
    fused = module.computations[user.called[0]]
    places = {i for i, operand in enumerate(user.operands) if operand == name}
    read = [p.name for p in fused.instructions if p.opcode == "parameter" and p.number in places]
    return all(_is_sliced(module, fused, p, None, depth + 1) for p in read)


def _root(computation: Computation) -> Instruction:
    return next(i for i in computation.instructions if i.root)


def _groups(rest: str) -> tuple[tuple[int, ...], ...] | None:
    """Replica groups (or the pairs of a permute), in the forms that XLA prints."""
    lists = _LISTS.search(rest)
    if lists:
        rows = re.findall(r"\{([\d,]*)\}", lists[1][1:-1])
        return tuple(tuple(int(d) for d in row.split(",") if d) for row in rows)
    iota = _IOTA.search(rest)
    if iota:
        rows = _counted(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))
        return tuple(tuple(row) for row in rows.tolist())
    found = _MESH.search(rest)
    if found:
        return _mesh_groups(*found.groups())
    return None if "replica_groups=" in rest else ()


def _counted(dims: str, order: str | None) -> np.ndarray:
    """`[2,4]T(1,0)`: numbers from 0 on in an array of these dimensions, transposed, flat."""
    sizes = [int(d) for d in dims.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    if order:
        ids = ids.transpose([int(d) for d in order.split(",")])
    return ids.reshape(-1)


def _mesh_groups(sizes: str, ids: str | None, chosen: str) -> tuple[tuple[int, ...], ...] | None:
    """`mesh['a'=2,'b'=4] {'b'}`: groups along axes of XLA's own mesh; None for parts of axes."""
    shape = {name: int(size) for name, size in _AXIS.findall(sizes)}
    names = [word.strip().strip("'") for word in chosen.split(",")]
    listed = _IDS.search(ids) if ids else None
    if any(name not in shape for name in names) or (ids and listed is None):
        return None
    every = np.arange(math.prod(shape.values()))
    if listed is not None:
        plain = listed[3]
        every = np.array(plain.split(","), int) if plain else _counted(listed[1], listed[2])
    order = [n for n in shape if n not in names] + names
    grid = every.reshape(list(shape.values())).transpose([list(shape).index(n) for n in order])
    return tuple(map(tuple, grid.reshape(-1, math.prod(shape[n] for n in names)).tolist()))
