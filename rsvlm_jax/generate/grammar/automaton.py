"""From the tree of a pattern to the smallest automaton over UTF-8 bytes.

    tree -> positions (Glushkov): every character of the pattern is a state, no empty moves
         -> sets of positions, over classes of characters that no part of the pattern tells apart
         -> equal states merged (Moore); no state is a dead end, for no class is empty
         -> characters written as bytes; states inside of a character are shared by content

Mid-character states accept continuation bytes only and the others anything else, so the result is
the smallest one without a second merging. Not here: tokens.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict

import numpy as np

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core.shapes import Bool, Int

from .regex import LAST, Chars, Choice, Ranges, Sequence, Tree

MOST_VISITS, MOST_STATES = 100_000, 20_000
_LEADS = ((0x80, 0x7FF, 1, 0xC0), (0x800, 0xFFFF, 2, 0xE0), (0x10000, 0x10FFFF, 3, 0xF0))
"""Characters from and to, continuation bytes, and the first lead byte of that length."""

Targets = tuple[tuple[int, int, int], ...]
"""Characters from and to, and the state that they lead to; sorted."""


@dataclasses.dataclass(frozen=True)
class Automaton:
    """A deterministic automaton; the first state is 0, and the end can be reached from every one.

    Attributes:
      table: the next state; -1 where the byte is not allowed.
      ends: where a text may end.
    """

    table: Int[np.ndarray, "S 256"]
    ends: Bool[np.ndarray, " S"]

    def accepts(self, text: bytes) -> bool:
        """Whether the whole text matches."""
        state = 0
        for byte in text:
            state = int(self.table[state, byte])
            if state < 0:
                return False
        return bool(self.ends[state])


def automaton(tree: Tree) -> Automaton:
    """The smallest automaton of a tree.

    Raises:
      ConfigError: a pattern that needs more states than a text format should.
    """
    positions = _Positions(tree)
    classes = _classes(positions.ranges)
    table, ends = _merge(*_subsets(positions, [classes.of(r) for r in positions.ranges]))
    return _bytes(table, ends, classes)


class _Positions:
    """Glushkov's sets. `follow[p]`: what may come after character p; -1 stands for the start."""

    def __init__(self, tree: Tree) -> None:
        self.ranges: list[Ranges] = []
        self.visits = 0
        self.follow: dict[int, set[int]] = defaultdict(set)
        empty, first, self.last = self.visit(tree)
        self.follow[-1] = first
        if empty:
            self.last = self.last | {-1}

    def visit(self, tree: Tree) -> tuple[bool, set[int], set[int]]:
        """Whether it may be empty, where it may begin and where it may end."""
        self.visits += 1
        if self.visits > MOST_VISITS:
            raise _too_large("characters and groups, repeats written out", MOST_VISITS)
        if isinstance(tree, Chars):
            self.ranges.append(tree.ranges)
            here = {len(self.ranges) - 1}
            return False, here, here
        if isinstance(tree, Choice):
            parts = [self.visit(part) for part in tree.parts]
            empty = any(e for e, _, _ in parts)
            return (
                empty,
                set().union(*(f for _, f, _ in parts)),
                set().union(*(last for _, _, last in parts)),
            )
        if isinstance(tree, Sequence):
            return self.join([self.visit(part) for part in tree.parts])
        endless = tree.high is None
        times = max(tree.low, 1) if tree.high is None else tree.high
        copies = [self.visit(tree.part) for _ in range(times)]
        if endless:
            _, first, last = copies[-1]
            for p in last:
                self.follow[p] |= first
        # Of x{2,4}, the third and the fourth may be left out, the fourth only after the third.
        needed, spare = copies[: tree.low], copies[tree.low :]
        tail: tuple[bool, set[int], set[int]] = (True, set(), set())
        for part in reversed(spare):
            _, first, last = self.join([part, tail])
            tail = (True, first, last)
        return self.join([*needed, tail])

    def join(self, parts: list[tuple[bool, set[int], set[int]]]) -> tuple[bool, set[int], set[int]]:
        empty, first, last = True, set(), set()
        for e, f, la in parts:
            for p in last:
                self.follow[p] |= f
            first = first | f if empty else first
            last = last | la if e else la
            empty = empty and e
        return empty, first, last


@dataclasses.dataclass(frozen=True)
class _Classes:
    """Pieces of the characters: piece i is `starts[i] .. starts[i + 1] - 1`, of class `number[i]`.

    Characters that the same ranges hold are of one class; 0: those that no range holds.
    """

    starts: list[int]
    number: list[int]

    def of(self, ranges: Ranges) -> list[int]:
        """The classes that make up these ranges."""
        found: set[int] = set()
        for low, high in ranges:
            i = bisect.bisect_left(self.starts, low)
            while i < len(self.starts) and self.starts[i] <= high:
                found.add(self.number[i])
                i += 1
        return sorted(found)


def _classes(all_ranges: list[Ranges]) -> _Classes:
    distinct = sorted(set(all_ranges))
    opening: dict[int, set[int]] = defaultdict(set)
    closing: dict[int, set[int]] = defaultdict(set)
    for i, ranges in enumerate(distinct):
        for low, high in ranges:
            opening[low].add(i)
            closing[high + 1].add(i)
    inside: set[int] = set()
    starts, number, ids = [], [], {frozenset(): 0}
    for at in sorted({*opening, *closing}):
        inside = (inside - closing[at]) | opening[at]
        starts.append(at)
        number.append(ids.setdefault(frozenset(inside), len(ids)))
    return _Classes(starts, number)


def _subsets(
    positions: _Positions, classes: list[list[int]]
) -> tuple[Int[np.ndarray, "S C"], Bool[np.ndarray, " S"]]:
    """States are the positions that the character just read may stand at."""
    width = 1 + max((c for found in classes for c in found), default=0)
    start = frozenset({-1})
    ids, queue, rows = {start: 0}, [start], []
    for state in queue:
        reached: dict[int, set[int]] = defaultdict(set)
        for q in set().union(*(positions.follow[p] for p in state)):
            for c in classes[q]:
                reached[c].add(q)
        row = np.full(width, -1, np.int32)
        for c, members in reached.items():
            target = frozenset(members)
            if target not in ids:
                if len(ids) == MOST_STATES:
                    raise _too_large("states", MOST_STATES)
                ids[target] = len(ids)
                queue.append(target)
            row[c] = ids[target]
        rows.append(row)
    return np.stack(rows), np.asarray([not state.isdisjoint(positions.last) for state in queue])


def _merge(table: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moore: states are told apart by the groups that they lead to, until no group splits."""
    group = ends.astype(np.int64)
    count = 0
    while True:
        seen = np.where(table >= 0, group[table], -1)
        _, first, group = np.unique(
            np.column_stack([group, seen]), axis=0, return_index=True, return_inverse=True
        )
        group = group.reshape(-1)
        if len(first) == count:
            break
        count = len(first)
    # In the order of their first member, so that the start stays 0.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    kept = table[first[order]]
    return np.where(kept >= 0, rank[group[kept]], -1), ends[first[order]]


def _bytes(table: np.ndarray, ends: np.ndarray, classes: _Classes) -> Automaton:
    """The same over bytes. Unreachable states do not arise: every character has an encoding."""
    rows = [np.full(256, -1, np.int32) for _ in range(len(table))]
    shared: dict[tuple[int, Targets], int] = {}

    def inside(more: int, targets: Targets) -> int:
        """The state that waits for `more` continuation bytes; characters count from its first."""
        if (more, targets) not in shared:
            row = np.full(256, -1, np.int32)
            fill(row, 0x80, 64, more - 1, targets)
            rows.append(row)
            shared[more, targets] = len(rows) - 1
        return shared[more, targets]

    def fill(row: np.ndarray, lead: int, leads: int, more: int, targets: Targets) -> None:
        """Byte `lead + i` begins the i-th block of 64 ** more characters, counted from 0."""
        size = 64**more
        blocks: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for low, high, target in targets:
            for i in range(low // size, min(high // size, leads - 1) + 1):
                a, b = max(low - i * size, 0), min(high - i * size, size - 1)
                blocks[i].append((a, b, target))
        for i, block in blocks.items():
            row[lead + i] = inside(more, tuple(block)) if more else block[0][2]

    after = [*classes.starts, LAST + 1][1:]
    pieces = list(zip(classes.starts, after, classes.number, strict=True))
    for state in range(len(table)):
        targets: list[tuple[int, int, int]] = []
        for low, end, c in pieces:
            target = int(table[state, c]) if c < table.shape[1] else -1
            if target < 0:
                continue
            if targets and targets[-1][1] == low - 1 and targets[-1][2] == target:
                targets[-1] = (targets[-1][0], end - 1, target)
            else:
                targets.append((low, end - 1, target))
        fill(rows[state], 0, 128, 0, _within(targets, 0, 127))
        for first, last, more, lead in _LEADS:
            fill(rows[state], lead, 64, more, _within(targets, first, last))
    whole = np.concatenate([ends, np.zeros(len(rows) - len(ends), bool)])
    return Automaton(np.stack(rows), whole)


def _within(targets: list[tuple[int, int, int]], low: int, high: int) -> Targets:
    return tuple((max(a, low), min(b, high), t) for a, b, t in targets if a <= high and b >= low)


def _too_large(what: str, most: int) -> ConfigError:
    return ConfigError(
        "a pattern too large", where="grammar", expected=f"at most {most} {what}",
        remedy="shorten its repeats or its list",
    )  # fmt: skip
