"""What a compiled program holds on a device: read from what the compiler writes beside it.

    arguments(text) -> {"state.params['decoder']...": Argument}     of the entry computation
    padded(array) -> bytes                                           with the tiles of its layout
    buffers(text, assignment) -> [Buffer]                            the largest first

The text is that of `--xla_dump_hlo_as_text`: libtpu prints programs that JAX cannot read back (its
asynchronous collectives), and prints its buffers even where they do not fit.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax

from rsvlm_jax.mesh.hlo_text import ArrayShape

_ENTRY = re.compile(r"^ENTRY .*?^\}", re.M | re.S)
_PARAMETER = re.compile(
    r"= (?P<dtype>[a-z]+\d*\w*)\[(?P<dims>[\d,]*)\](?:\{(?P<layout>[^}]*)\})? "
    r"parameter\((?P<number>\d+)\)(?P<rest>.*)$",
    re.M,
)
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_TILE = re.compile(r"T\(([\d,]+)\)")
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(?P<rest>.*):$")
_VALUE = re.compile(r"^ value: <\d+ (?P<name>[^ {]+)(?:\{[\d,]*\})?(?: \(phi\))? @\d+> "
                    r"\(size=(?P<size>\d+),offset=(?P<offset>\d+)\): (?P<shape>[^{]*)")  # fmt: skip
_NUMBER = re.compile(r"parameter (\d+),")


@dataclasses.dataclass(frozen=True)
class Argument:
    """One array that goes into a program, as a device holds it.

    Attributes:
      number: of the parameter.
      layout: as XLA prints it: order of the dimensions, fastest first, and tiles.
    """

    number: int
    shape: ArrayShape
    layout: str

    @property
    def bytes(self) -> int:
        return padded(self.shape, self.layout)


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One piece of memory, and the largest array that lies in it.

    Attributes:
      kind: "argument" lives as long as the step, "temporary" a part of it.
      what: path of the argument, or what JAX called the operation.
    """

    bytes: int
    shape: str
    kind: str
    what: str


def arguments(text: str) -> dict[str, Argument]:
    """Of the entry computation of an HLO text, by what JAX calls them."""
    entry = _ENTRY.search(text)
    made = {}
    for found in _PARAMETER.finditer(entry[0] if entry else ""):
        dims = tuple(int(n) for n in found["dims"].split(",") if n)
        number, name = int(found["number"]), _OP_NAME.search(found["rest"])
        path = name[1].replace("\\'", "'") if name else f"parameter {number}"
        layout = found["layout"] or ""
        made[path] = Argument(number, ArrayShape(found["dtype"], dims), layout)
    return made


def padded(shape: ArrayShape, layout: str) -> int:
    """Bytes of an array whose fastest dimensions are filled up to whole tiles.

    Args:
      layout: such as "1,0:T(8,128)(2,1)"; without tiles nothing is filled up.
    """
    order, _, tiles = layout.partition(":")
    tile = _TILE.search(tiles)
    dims = [shape.dims[int(i)] for i in reversed(order.split(","))] if order else list(shape.dims)
    if tile is None:
        return shape.bytes
    sizes = [int(n) for n in tile[1].split(",")]
    dims = [1] * (len(sizes) - len(dims)) + dims
    for i, size in enumerate(sizes, start=len(dims) - len(sizes)):
        dims[i] = -(-dims[i] // size) * size
    return ArrayShape(shape.dtype, tuple(dims)).bytes


def buffers(text: str, assignment: str) -> list[Buffer]:
    """What lies in the main memory of a device, the largest first.

    Args:
      text: of the program; names of operations come from it.
      assignment: what XLA writes as `buffer-assignment.txt`. Pieces of one allocation that begin
        at one place count once, as the largest that lies there at some time.
    """
    names = {str(a.number): path for path, a in arguments(text).items()}
    made: list[Buffer] = []
    number: str | None = None
    places: dict[int, tuple[int, str, str]] = {}
    inside = False
    for line in assignment.splitlines():
        allocation = _ALLOCATION.match(line)
        if allocation is not None:
            rest = allocation["rest"]
            inside = not re.search(r"color [1-9]", rest) and "thread-local" not in rest
            found = _NUMBER.search(rest)
            number = found[1] if found else None
            if inside and number is not None:
                shape = re.search(r"shape \|([^|]*)\|", rest)
                path = names.get(number, f"parameter {number}")
                made.append(Buffer(int(allocation[1]), shape[1] if shape else "", "argument", path))
            continue
        value = _VALUE.match(line) if inside and number is None else None
        if value is not None:
            size, offset = int(value["size"]), int(value["offset"])
            if size > places.get(offset, (0,))[0]:
                places[offset] = (size, value["shape"].strip(), value["name"])
    for size, shape, name in sorted(places.values(), reverse=True)[:16]:
        made.append(Buffer(size, shape, "temporary", _operation(text, name)))
    return sorted(made, key=lambda b: -b.bytes)


def _operation(text: str, name: str) -> str:
    """What JAX called an instruction, or its own name."""
    line = re.search(rf"^\s+(?:ROOT )?%?{re.escape(name)} = .*$", text, re.M)
    found = _OP_NAME.search(line[0]) if line else None
    return found[1].replace("\\'", "'") if found else name


def laid_out(args: Mapping[str, Any], text: str) -> int:
    """Bytes of the arguments on one device, by formula: their shapes, their placement, and the
    tiles that the compiler lays arrays out in. What the program does not read is not there.

    Args:
      args: trees of placed shapes, by the names of the function's arguments.
      text: of the program.
    """
    found = arguments(text)
    count = 0
    for name, tree in args.items():
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
            there = found.get(name + jax.tree_util.keystr(path))
            if there is not None:
                dims = tuple(x.sharding.shard_shape(x.shape))
                count += padded(dataclasses.replace(there.shape, dims=dims), there.layout)
    return count
