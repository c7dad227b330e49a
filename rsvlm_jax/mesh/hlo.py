"""What a compiled program moves between devices: its collectives, from the optimised HLO text.

Counts differ between compiler versions, so tests bound them and look at the largest, they do not
pin them. An all-reduce of a whole weight, for example, is an FSDP gather gone wrong. On TPU a
reduce-scatter may hide in a fusion; this reads instructions, not fusion names.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_INSTRUCTION = re.compile(
    rf"= (?P<shape>.+?) (?P<kind>{'|'.join(KINDS)})(?P<phase>-start|-done)?\("
)
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d*[a-z0-9]*)\[(?P<dims>[\d,]*)\]")
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program: its kind and the bytes of its result on one device."""

    kind: str
    bytes: int


def collectives(compiled: Any) -> list[Collective]:
    """The collectives of `jitted.lower(...).compile()`, or of its text, in program order.

    Each stands once, also where a loop runs it many times. The start of an asynchronous pair is
    counted and its end is not.
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    found = []
    for match in _INSTRUCTION.finditer(text):
        if match["phase"] == "-done":
            continue
        sizes = [_bytes(m) for m in _ARRAY.finditer(match["shape"])]
        # the result of a "-start" is a tuple (operands..., results...)
        half = len(sizes) // 2 if match["phase"] == "-start" and len(sizes) > 1 else 0
        found.append(Collective(match["kind"], sum(sizes[half:])))
    return found


def _bytes(array: re.Match[str]) -> int:
    bits = _BITS.search(array["dtype"])
    width = int(bits[0]) if bits else 8  # "pred" and the token types
    return math.prod(int(d) for d in array["dims"].split(",") if d) * width // 8
