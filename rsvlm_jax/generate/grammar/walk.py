"""Which tokens lead where: every state of an automaton through every token, on a trie.

    tokens -> bytes -> classes of bytes that the automaton does not tell apart
           -> distinct words of classes, far fewer than tokens -> a trie, level by level
           -> pairs (node, state the walk began in) that are still alive

Most pairs end at the first letter, so the work goes with the moves that exist, not with states
times tokens.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np

from rsvlm_jax.core.shapes import Int

from .automaton import Automaton
from .vocabulary import TokenBytes

_DEAD = 255
"""Not a class of bytes: UTF-8 leaves more than one byte unused, so there are fewer than 255."""


@dataclasses.dataclass(frozen=True)
class Moves:
    """Word `word[i]` leads from state `origin[i]` to `target[i]`."""

    word: Int[np.ndarray, " M"]
    origin: Int[np.ndarray, " M"]
    target: Int[np.ndarray, " M"]

    def where(self, kept: np.ndarray) -> Moves:
        return Moves(self.word[kept], self.origin[kept], self.target[kept])


def words_of(
    machine: Automaton, vocabulary: TokenBytes
) -> tuple[dict[bytes, list[int]], Int[np.ndarray, "S C"]]:
    """Tokens by the classes of their bytes, in order, and where a class leads from each state."""
    live = np.flatnonzero((machine.table >= 0).any(axis=0))
    columns, of_live = np.unique(machine.table[:, live], axis=1, return_inverse=True)
    of_byte = np.full(256, _DEAD, np.uint8)
    of_byte[live] = of_live.reshape(-1)
    classes = of_byte.tobytes()
    words: dict[bytes, list[int]] = defaultdict(list)
    for i, token in enumerate(vocabulary.tokens):
        if token:
            words[token.translate(classes)].append(i)
    return {word: words[word] for word in sorted(words) if _DEAD not in word}, columns


def walk(columns: Int[np.ndarray, "S C"], words: list[bytes]) -> Moves:
    """From every state through every word. Words are sorted, so those of a trie's node are a run.

    A level holds its nodes by number, and the pairs (node, state that the walk began in) that are
    still alive, each with the state it has come to.
    """
    length = np.asarray([len(word) for word in words], np.int64)
    letters = np.frombuffer(b"".join(words), np.uint8)
    offset = np.cumsum(length) - length
    node_of_word = np.zeros(len(words), np.int64)
    nodes = 1
    node = np.zeros(len(columns), np.int64)
    origin = state = np.arange(len(columns))
    found: list[tuple[np.ndarray, ...]] = [(origin[:0],) * 3]
    for depth in range(max(length, default=0)):
        longer = np.flatnonzero(length > depth)
        parent, letter = node_of_word[longer], letters[offset[longer] + depth]
        new = np.ones(len(longer), bool)
        new[1:] = (parent[1:] != parent[:-1]) | (letter[1:] != letter[:-1])
        node_of_word[longer] = np.cumsum(new) - 1
        first = np.searchsorted(parent[new], np.arange(nodes + 1))
        count = np.diff(first)[node]
        pair = np.repeat(np.arange(len(node)), count)
        child = first[node][pair] + np.arange(len(pair)) - (np.cumsum(count) - count)[pair]
        target = columns[state[pair], letter[new][child]]
        alive = target >= 0
        node, origin, state = child[alive], origin[pair[alive]], target[alive]
        nodes = int(new.sum())
        complete = longer[length[longer] == depth + 1]
        word_of_node = np.full(nodes, -1)
        word_of_node[node_of_word[complete]] = complete
        word = word_of_node[node]
        found.append((word[word >= 0], origin[word >= 0], state[word >= 0]))
        if not len(node):
            break
    return Moves(*(np.concatenate(part) for part in zip(*found, strict=True)))
