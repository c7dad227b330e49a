"""Patterns of answers that remote-sensing benchmarks ask for: labels, numbers, boxes.

    choices(["yes", "no"])      yes, no
    number(-5, 40, decimals=1)  -5.0 ... -0.1, 0.0 ... 40.0
    box()                       {<12><7><100><64>|<-30>}

Each gives a pattern for `compile_grammar`, and patterns may stand side by side in a larger one:
`f"{number(0, 9)} {choices(labels)}"`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from rsvlm_jax.config import ConfigError

Real = int | float | str | Decimal
"""A number as written: 0.1 is meant, not the nearest binary fraction."""


def quote(text: str) -> str:
    """The pattern that is this text alone."""
    return "".join(c if c.isalnum() or ord(c) > 127 or c in " _" else _sign(c) for c in text)


def _sign(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 32 or ord(c) == 127 else f"\\{c}"


def choices(labels: Sequence[str]) -> str:
    """One of the labels, exactly.

    Raises:
      ConfigError: no label, an empty one, one with spaces around it, or a string instead of a list.
    """
    if isinstance(labels, str) or not labels:
        raise ConfigError(
            "no labels to choose from", where="choices(labels)", expected="at least one",
            found=repr(labels),
        )  # fmt: skip
    for i, label in enumerate(labels):
        if not label or label != label.strip():
            raise ConfigError(
                "an empty label, or one with spaces around it", where=f"choices(labels[{i}])",
                expected="what an answer is once it is stripped", found=repr(label),
            )  # fmt: skip
    return f"({'|'.join(dict.fromkeys(quote(label) for label in labels))})"


def box(
    angle: bool = True,
    many: bool = False,
    separator: str = "<delim>",
    degrees: tuple[int, int] = (-180, 180),
) -> str:
    """GeoChat's boxes: `{<x1><y1><x2><y2>|<theta>}` in percent of the image's width and height.

    x1 < x2 is not required: the corners are those of the rectangle before it is turned, and what
    the angle of a box is normalised to was never published.

    Args:
      angle: with `|<theta>`, an integer of degrees.
      many: one or several boxes, `separator` between them.
      degrees: of theta, from and to.
    """
    corner = f"<{number(0, 100)}>" * 4
    one = rf"\{{{corner}\|<{number(*degrees)}>\}}" if angle else rf"\{{{corner}\}}"
    return f"{one}({quote(separator)}{one})*" if many else one


def number(lo: Real, hi: Real, decimals: int = 0) -> str:
    """Every number from `lo` to `hi` that has `decimals` digits after the point, and no other.

    One spelling each: no leading zeros, no plus, no minus zero, and all decimals written.

    Raises:
      ConfigError: not numbers, `lo > hi`, or no such number between them.
    """
    try:
        scale = Decimal(10) ** decimals
        low, high = (Decimal(str(x)) * scale for x in (lo, hi))
        a, b = math.ceil(low), math.floor(high)
    except (InvalidOperation, ValueError, OverflowError, TypeError) as e:
        raise ConfigError("not a range", where="number", found=f"{lo!r} .. {hi!r}") from e
    if a > b or decimals < 0:
        raise ConfigError(
            "no number in this range", where="number",
            expected="lo <= hi, and a number between them with so many decimals",
            found=f"{lo} .. {hi} with {decimals} decimals",
        )  # fmt: skip
    parts = [f"-{part}" for part in _between(max(1, -b), -a, decimals)]
    return f"({'|'.join([*parts, *_between(max(0, a), b, decimals)])})"


def _between(a: int, b: int, decimals: int) -> list[str]:
    """Patterns of the numbers a .. b, of 0 or more, counted in units of the last decimal."""
    parts: list[str] = []
    digits = decimals + 1
    while a <= b:
        top = min(b, 10**digits - 1)
        if a <= top:
            parts += _digits(str(a).zfill(digits), str(top).zfill(digits), decimals)
            a = top + 1
        digits += 1
    return parts


def _digits(a: str, b: str, decimals: int) -> list[str]:
    """The same for two ends of as many digits, the next one first; the point where it falls."""
    if not a:
        return [""]
    point = r"\." if len(a) == decimals else ""
    if a == "0" * len(a) and b == "9" * len(b):
        whole = max(len(a) - decimals, 0)
        joint = r"\." if 0 < whole < len(a) else ""
        return [point + _any(whole) + joint + _any(len(a) - whole)]
    if a[0] == b[0]:
        return [point + a[0] + rest for rest in _digits(a[1:], b[1:], decimals)]
    more = len(a) - 1
    zeros, nines = "0" * more, "9" * more
    first, last = int(a[0]), int(b[0])
    out: list[str] = []
    if a[1:] != zeros:
        out += [point + a[0] + rest for rest in _digits(a[1:], nines, decimals)]
        first += 1
    if b[1:] != nines:
        last -= 1
    if first <= last:
        lead = f"[{first}-{last}]" if first < last else str(first)
        out += [point + lead + rest for rest in _digits(zeros, nines, decimals)]
    if b[1:] != nines:
        out += [point + b[0] + rest for rest in _digits(zeros, b[1:], decimals)]
    return out


def _any(count: int) -> str:
    return "\\d" * min(count, 1) + (f"{{{count}}}" if count > 1 else "")
