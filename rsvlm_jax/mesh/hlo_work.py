"""What a compiled program does on one chip: its products, and what its other operations move.

    works(compiled) -> (Work, ...)     one for each instruction that runs, with how often it runs
    moved_in_memory(compiled)          bytes between chip and memory outside of products, one run

XLA's own `cost_analysis()` counts a loop's body once; here it counts as often as it runs. A fusion
reads its operands and writes its results, and nothing between touches memory; of an array of which
it slices a part, or into which it writes one, the part counts. Whether what was just written is
still in a cache is not known, so the bytes are what memory carries at most.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from .hlo import KINDS
from .hlo_text import ArrayShape, Computation, Instruction, Module, parse

_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier",
)  # fmt: skip
"""Nothing is moved, or what is called is counted by itself."""

_VIEWS = ("bitcast", "reshape")
_SLICES = ("dynamic-slice", "slice", "gather")
_HARD = (
    "exponential", "exponential-minus-one", "log", "log-plus-one", "tanh", "logistic", "cosine",
    "sine", "tan", "power", "erf", "rsqrt", "sqrt", "cbrt", "divide", "atan2",
)  # fmt: skip
_LIGHT = (
    "add", "subtract", "multiply", "maximum", "minimum", "negate", "abs", "compare", "select",
    "and", "or", "not", "xor", "convert", "clamp", "floor", "ceil", "sign", "is-finite", "reduce",
    "shift-left", "shift-right-logical", "remainder", "reduce-window",
)  # fmt: skip
_DIMS = re.compile(r"(lhs|rhs)_(batch|contracting)_dims=\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product, as `jax.lax.dot_general` takes it."""

    left: ArrayShape
    right: ArrayShape
    contracting: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def flops(self) -> float:
        """2 M N K, times the batch."""
        common = math.prod(self.left.dims[i] for i in self.contracting[0] + self.batch[0])
        return 2.0 * math.prod(self.left.dims) * math.prod(self.right.dims) / common


@dataclasses.dataclass(frozen=True)
class Work:
    """One instruction.

    Attributes:
      count: how often it runs.
      bytes: that it reads and writes each time.
      light, hard: numbers that it computes each time: by additions, products, comparisons; by
        exponentials, divisions, roots.
      product: where it is one, or holds one.
    """

    name: str
    opcode: str
    count: int
    bytes: int
    light: int
    hard: int
    product: Product | None


def works(compiled: Any) -> tuple[Work, ...]:
    """Of `jitted.lower(...).compile()`, or of its text; collectives are not among them."""
    module = parse(compiled if isinstance(compiled, str) else compiled.as_text())
    return tuple(_works(module))


def moved_in_memory(compiled: Any) -> int:
    """Bytes of all that is no product, each as often as it runs: the optimiser's too."""
    return sum(work.count * work.bytes for work in works(compiled) if work.product is None)


def _works(module: Module) -> Iterator[Work]:
    inner = {
        name
        for computation in module.computations.values()
        for i in computation.instructions
        if i.opcode not in ("while", "conditional", "call", "async-start")
        for name in i.called
    }
    for name, computation in module.computations.items():
        if name not in module.runs or name in inner:
            continue
        for i in computation.instructions:
            if i.opcode in _FREE or i.opcode.endswith("-done") or _is_collective(i):
                continue
            parts = [p for c in i.called for p in module.computations[c].instructions]
            parts = parts if i.opcode == "fusion" else [i]
            products = [p for p in parts if p.opcode == "dot"]
            home = module.computations[i.called[0]] if i.opcode == "fusion" else computation
            yield Work(
                i.name,
                i.opcode,
                module.runs[name].count,
                _bytes(module, computation, i),
                sum(_computed(home, p) for p in parts if p.opcode in _LIGHT),
                sum(_size(p) for p in parts if p.opcode in _HARD),
                _product(home, products[0]) if products else None,
            )


def _is_collective(i: Instruction) -> bool:
    return i.opcode.removesuffix("-start") in KINDS


def _size(i: Instruction) -> int:
    return sum(math.prod(s.dims) for s in i.shapes)


def _computed(home: Computation, part: Instruction) -> int:
    """Of a reduction it is what it reads that counts."""
    if part.opcode not in ("reduce", "reduce-window"):
        return _size(part)
    return max([_size(home.by_name[o]) for o in part.operands if o in home.by_name])


def _bytes(module: Module, inside: Computation, i: Instruction) -> int:
    read = [
        sum(s.bytes for s in inside.by_name[o].shapes) for o in i.operands if o in inside.by_name
    ]
    written = sum(s.bytes for s in i.shapes)
    if i.opcode in _SLICES:
        return 2 * written
    if i.opcode == "dynamic-update-slice":
        return 2 * read[1]
    if i.opcode != "fusion":
        return sum(read) + written
    fused = module.computations[i.called[0]]
    total = sum(_read(fused, p) for p in fused.instructions if p.opcode == "parameter")
    root = next(p for p in fused.instructions if p.root)
    roots = [fused.by_name[o] for o in root.operands] if root.opcode == "tuple" else [root]
    return total + sum(_written(fused, r) for r in roots)


def _read(fused: Computation, source: Instruction) -> int:
    """Of a fusion's operand, or of a view of it: what its users take."""
    total, whole = 0, sum(s.bytes for s in source.shapes)
    for user in fused.users.get(source.name, ()):
        first = bool(user.operands) and user.operands[0] == source.name
        if user.opcode in _VIEWS:
            total += _read(fused, user)
        elif user.opcode in _SLICES and first:
            total += sum(s.bytes for s in user.shapes)
        elif user.opcode == "dynamic-update-slice" and first:
            continue  # in place
        else:
            return whole
    return min(total, whole)


def _written(fused: Computation, root: Instruction) -> int:
    while root.opcode in _VIEWS:
        root = fused.by_name[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return sum(s.bytes for s in fused.by_name[root.operands[1]].shapes)
    return sum(s.bytes for s in root.shapes)


def _product(home: Computation, dot: Instruction) -> Product:
    left, right = (home.by_name[o].shapes[0] for o in dot.operands[:2])
    dims = {
        (side, kind): tuple(int(d) for d in found.split(",") if d)
        for side, kind, found in _DIMS.findall(dot.rest)
    }
    return Product(
        left,
        right,
        (dims.get(("lhs", "contracting"), ()), dims.get(("rhs", "contracting"), ())),
        (dims.get(("lhs", "batch"), ()), dims.get(("rhs", "batch"), ())),
    )
