r"""A small dialect of regular expressions, read into a tree; what is not in it is refused.

    yes|no    (ab)?    (?:ab)*    [a-z0-9_]+    [^<>]{1,20}    \d{3}    \.    \x41 \u00e9    .

The meaning is that of Python's `re` with `re.ASCII`, and the whole text has to match. `.` is any
character but the newline; `\d \w \s` and `\D \W \S` are ASCII classes and their complements.
Brackets and braces that mean themselves are escaped (`\{`). Not here: anchors, references,
look-around, lazy or possessive repeats, flags; and how a tree becomes an automaton.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NoReturn

from rsvlm_jax.config import ConfigError

Ranges = tuple[tuple[int, int], ...]
"""Code points from and to, sorted, apart from each other, without surrogates."""

LAST = 0x10FFFF
MOST_REPEATS = 1000
DEEPEST = 50
_CLASSES = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
}
_CONTROLS = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11}
_HEX = {"x": 2, "u": 4}


@dataclasses.dataclass(frozen=True)
class Chars:
    """One character out of `ranges`."""

    ranges: Ranges


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One part after the other; the empty text where there is none."""

    parts: tuple[Tree, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the parts."""

    parts: tuple[Tree, ...]


@dataclasses.dataclass(frozen=True)
class Repeat:
    """`part` at least `low` and at most `high` times; None: without end."""

    part: Tree
    low: int
    high: int | None


Tree = Chars | Sequence | Choice | Repeat


def parse(pattern: str) -> Tree:
    """The tree of a pattern.

    Raises:
      ConfigError: an empty pattern, or one that is not understood; the place is named.
    """
    if not pattern:
        raise ConfigError("an empty pattern", where="grammar", expected="at least one character")
    return _Parser(pattern).whole()


def ranges_of(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Any pairs, sorted and merged, without surrogates (they have no UTF-8)."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    out: list[tuple[int, int]] = []
    for low, high in merged:
        parts = ((low, min(high, 0xD7FF)), (max(low, 0xE000), high))
        out += [(a, b) for a, b in parts if a <= b]
    return tuple(out)


def complement(ranges: Ranges) -> Ranges:
    """All other characters."""
    edges = [-1, *(edge for pair in ranges for edge in pair), LAST + 1]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return ranges_of((a + 1, b - 1) for a, b in gaps if a + 1 <= b - 1)


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at, self.depth = pattern, 0, 0

    def whole(self) -> Tree:
        tree = self.choice()
        if self.at < len(self.pattern):
            self.refuse("no group is open")
        return tree

    def choice(self) -> Tree:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self) -> Tree:
        parts: list[Tree] = []
        while self.at < len(self.pattern) and self.peek() not in "|)":
            parts.append(self.repeat(self.atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def atom(self) -> Tree:
        start, c = self.at, self.next()
        if c == "(":
            return self.group()
        if c == "[":
            return Chars(self.bracket())
        if c == "\\":
            found = self.escape()
            return Chars(((found, found),) if isinstance(found, int) else found)
        if c == ".":
            return Chars(complement(((10, 10),)))
        self.at = start
        if c in "?*+{":
            self.refuse(f"something to repeat before it, or \\{c}")
        if c in "^$":
            self.refuse(f"no anchor (the whole text has to match anyway), or \\{c}")
        if c in "]}":
            self.refuse(f"\\{c} for the character itself")
        self.at += 1
        return self.plain(c)

    def plain(self, c: str) -> Chars:
        if 0xD800 <= ord(c) <= 0xDFFF:
            self.at -= 1
            self.refuse("a character that UTF-8 can write")
        return Chars(((ord(c), ord(c)),))

    def group(self) -> Tree:
        opened = self.at - 1
        if self.take("?") and not self.take(":"):
            self.refuse("(...) or (?:...)")
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"at most {DEEPEST} groups inside each other")
        tree = self.choice()
        if not self.take(")"):
            self.at = opened
            self.refuse("a ) for this group")
        self.depth -= 1
        return tree

    def repeat(self, part: Tree) -> Tree:
        start = self.at
        if self.take("?"):
            part = Repeat(part, 0, 1)
        elif self.take("*"):
            part = Repeat(part, 0, None)
        elif self.take("+"):
            part = Repeat(part, 1, None)
        elif self.take("{"):
            part = Repeat(part, *self.bounds(start))
        else:
            return part
        if self.at < len(self.pattern) and self.peek() in "?*+{":
            self.refuse("no repeat of a repeat (lazy and possessive ones mean nothing here)")
        return part

    def bounds(self, start: int) -> tuple[int, int | None]:
        end = self.pattern.find("}", start)
        words = self.pattern[start + 1 : max(end, 0)].split(",")
        numbers = [int(w) if w.isascii() and w.isdigit() else None for w in words]
        told = [n for n in numbers if n is not None]
        junk = any(n is None and w for n, w in zip(numbers, words, strict=True))
        if not told or junk or len(words) > 2 or max(told) > MOST_REPEATS or told != sorted(told):
            self.at = start
            self.refuse(f"{{n}}, {{m,}}, {{,n}} or {{m,n}} with m <= n <= {MOST_REPEATS}")
        self.at = end + 1
        return numbers[0] or 0, numbers[-1]

    def bracket(self) -> Ranges:
        opened = self.at - 1
        negative = self.take("^")
        pairs: list[tuple[int, int]] = []
        while not self.take("]"):
            start = self.at
            low = self.member(opened)
            if not isinstance(low, int):
                pairs += low
                continue
            high: int | Ranges = low
            if (
                self.pattern[self.at : self.at + 1] == "-"
                and self.pattern[self.at + 1 :][:1] != "]"
            ):
                self.at += 1
                high = self.member(opened)
            if not isinstance(high, int) or high < low:
                self.at = start
                self.refuse("a range that goes up, from one character to another")
            pairs.append((low, high))
        found = ranges_of(pairs)
        found = complement(found) if negative else found
        if not found:
            self.at = opened
            self.refuse("at least one character in a class")
        return found

    def member(self, opened: int) -> int | Ranges:
        if self.at >= len(self.pattern):
            self.at = opened
            self.refuse("a ] for this class")
        c = self.next()
        if c == "[":
            self.at -= 1
            self.refuse("\\[ for the character itself")
        return self.escape() if c == "\\" else self.plain(c).ranges[0][0]

    def escape(self) -> int | Ranges:
        start = self.at - 1
        c = self.next() if self.at < len(self.pattern) else ""
        if c.lower() in _CLASSES:
            found = _CLASSES[c.lower()]
            return found if c.islower() else complement(found)
        if c in _CONTROLS:
            return _CONTROLS[c]
        if c in _HEX:
            digits = self.pattern[self.at : self.at + _HEX[c]]
            code = int(digits, 16) if all(d in "0123456789abcdefABCDEF" for d in digits) else -1
            if len(digits) == _HEX[c] and ranges_of([(code, code)]):
                self.at += len(digits)
                return code
        elif c and ord(c) < 128 and not c.isalnum():
            return ord(c)
        self.at = start
        self.refuse("\\d \\w \\s \\D \\W \\S \\n \\t \\r \\f \\v, \\xHH, \\uHHHH or \\ and a sign")

    def peek(self) -> str:
        return self.pattern[self.at]

    def next(self) -> str:
        self.at += 1
        return self.pattern[self.at - 1]

    def take(self, c: str) -> bool:
        found = self.pattern.startswith(c, self.at)
        self.at += len(c) * found
        return found

    def refuse(self, expected: str) -> NoReturn:
        head, rest = self.pattern[max(self.at - 20, 0) : self.at], self.pattern[self.at :][:20]
        raise ConfigError(
            "a pattern that is not understood",
            where=f"grammar, character {self.at}",
            expected=expected,
            found=f"{head!r} and then {rest!r}" if head else repr(rest),
        )
