"""The text of an optimised HLO module as computations and instructions: as much as is needed.

    parse(text) -> Module      instructions with shapes and operands, and which computation calls
                               which, how often, and in how many loops

Read is what XLA prints for CPU, GPU and TPU; attributes that this does not know stay in
`Instruction.rest` as they are. Not a compiler: nothing is checked, nothing is evaluated.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<after>.*)$")
_OPCODE = re.compile(r"(?P<shape>.*?[\])}]|token\[\]|[a-z]\w*\[\]) (?P<opcode>[a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b(?P<dtype>pred|token|[a-z]+\d+\w*)\[(?P<dims>[\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations"
    r"|true_computation|false_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_LOOP = re.compile(r"\b(?:body|condition)=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_END = re.compile(r"\}(, |\s*$)")
"""Of a computation. What a kernel says of itself may go over lines, of which one begins so too."""
_NUMBERED = ("parameter", "constant")
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """One array on one device."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = _BITS.search(self.dtype)
        width = int(bits[0]) if bits else 0 if self.dtype == "token" else 8
        return math.prod(self.dims) * width // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      shapes: of the result, a tuple's one after the other.
      operands: names, as far as the operands are instructions.
      written: shapes of the operands, where they are printed with them.
      number: of a parameter; of a constant, where it is one whole number.
      rest: attributes and metadata, as printed.
    """

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    written: tuple[ArrayShape, ...]
    number: int | None
    rest: str
    root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it calls."""
        found = []
        for several, one in _CALLED.findall(self.rest):
            found += _NAME.findall(several) if several else [one]
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named sequence of instructions."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {i.name: i for i in self.instructions}

    @functools.cached_property
    def users(self) -> dict[str, tuple[Instruction, ...]]:
        """Who reads what each instruction gives."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions:
            for name in dict.fromkeys(instruction.operands):
                found.setdefault(name, []).append(instruction)
        return {name: tuple(users) for name, users in found.items()}


@dataclasses.dataclass(frozen=True)
class Runs:
    """How often a computation runs.

    Attributes:
      count: in one run of the module; of a loop of unknown length one pass, of a conditional
        every branch.
      depth: loops around it.
    """

    count: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Module:
    """All computations of a program, and the one where it begins."""

    computations: dict[str, Computation]
    entry: str

    @functools.cached_property
    def runs(self) -> dict[str, Runs]:
        """How often each computation runs that the entry reaches; the deepest loop counts."""
        counts: dict[str, int] = {self.entry: 1}
        depths: dict[str, int] = {self.entry: 0}
        for name in self._callers_first():
            computation = self.computations[name]
            for instruction in computation.instructions:
                loops = set(_LOOP.findall(instruction.rest))
                trips = self._trips(instruction) if loops else 1
                for called in instruction.called:
                    if called not in self.computations:
                        continue
                    times = trips if called in loops else 1
                    counts[called] = counts.get(called, 0) + counts[name] * times
                    inside = depths[name] + (called in loops)
                    depths[called] = max(depths.get(called, 0), inside)
        return {name: Runs(counts[name], depths[name]) for name in counts}

    @functools.cached_property
    def fused(self) -> frozenset[str]:
        """Computations that are fusions."""
        every = (i for c in self.computations.values() for i in c.instructions)
        return frozenset(name for i in every if i.opcode == "fusion" for name in i.called)

    def _trips(self, loop: Instruction) -> int:
        """Passes of a loop: as XLA says, or as its condition does (`i < 5`, which TPUs print);
        1 where neither does."""
        known = _TRIPS.search(loop.rest)
        if known:
            return int(known[1])
        condition = _CONDITION.search(loop.rest)
        tests = self.computations.get(condition[1]) if condition else None
        root = next((i for i in tests.instructions if i.root), None) if tests else None
        if tests is None or root is None or "direction=LT" not in root.rest:
            return 1
        limits = [tests.by_name[n].number for n in root.operands if n in tests.by_name]
        return next((n for n in limits if n is not None), 1)

    def instructions(self) -> Iterator[tuple[Computation, Instruction]]:
        """Of all computations that are reached, those that are called first."""
        runs = self.runs
        for name, computation in self.computations.items():
            if name in runs:
                for instruction in computation.instructions:
                    yield computation, instruction

    def _callers_first(self) -> list[str]:
        """Computations that the entry reaches, each after all that call it."""
        done: list[str] = []
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen or name not in self.computations:
                return
            seen.add(name)
            for instruction in self.computations[name].instructions:
                for called in instruction.called:
                    visit(called)
            done.append(name)

        visit(self.entry)
        return done[::-1]


def parse(text: str) -> Module:
    """The module that `compiled.as_text()` prints."""
    computations: dict[str, Computation] = {}
    entry = name = ""
    lines: list[Instruction] = []
    for line in text.splitlines():
        if not line.startswith((" ", "}")):
            head = _COMPUTATION.match(line)
            if head:
                name, lines = head["name"], []
                entry = name if head["entry"] else entry
        elif name and _END.match(line):
            computations[name] = Computation(name, tuple(lines))
            name = ""
        elif name:
            made = _instruction(line)
            if made is not None:
                lines.append(made)
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    found = _OPCODE.match(head["after"]) if head else None
    if head is None or found is None:
        return None
    start = found.end()
    end = _closing(head["after"], start)
    inside, rest = head["after"][start:end], head["after"][end + 1 :]
    return Instruction(
        name=head["name"],
        opcode=found["opcode"],
        shapes=_shapes(found["shape"]),
        operands=tuple(_NAME.findall(inside)),
        written=_shapes(inside),
        number=int(inside) if found["opcode"] in _NUMBERED and inside.isdecimal() else None,
        rest=rest,
        root=head["root"] is not None,
    )


def _shapes(text: str) -> tuple[ArrayShape, ...]:
    return tuple(
        ArrayShape(m["dtype"], tuple(int(d) for d in m["dims"].split(",") if d))
        for m in _ARRAY.finditer(text)
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that was opened before `start` is closed."""
    depth = 1
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    return len(text)
