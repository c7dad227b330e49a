"""From a pattern and a vocabulary to the automaton over tokens that the decode loop reads.

    pattern -> tree (`regex`) -> automaton over bytes (`automaton`)
            -> where every token leads from every state (`walk`)
            -> tokens that lead everywhere alike are one class: next_state [S,K]

`need` comes from a walk backwards from the ends. All of this is NumPy on the host, once a grammar.
"""

from __future__ import annotations

import numpy as np

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core.shapes import Int
from rsvlm_jax.generate.machine import NEVER, TokenMachine

from .automaton import automaton
from .regex import Chars, Choice, Repeat, Sequence, Tree, parse
from .vocabulary import TokenBytes
from .walk import Moves, walk, words_of


def compile_grammar(
    pattern: str, vocabulary: TokenBytes, *, rows: int | None = None, space: bool = True
) -> TokenMachine:
    """The machine of all texts of which the whole matches a pattern.

    A text may be split into tokens in any way. What was generated, decoded and stripped is what
    matches, so patterns neither begin nor end with a space of their own.

    Args:
      pattern: `rsvlm_jax.generate.grammar.regex` says what is understood.
      rows: of the decoder's table (`decoder.config.vocab_size`), those beyond the tokenizer never
        allowed; as many as tokens unless given.
      space: whether one space may come first. After "ASSISTANT:" an answer begins with one, most
        words of a vocabulary carry it, and the decoder of a SentencePiece tokenizer drops it.

    Raises:
      ConfigError: a pattern that is not understood or too large; one that no token can start or
        no tokens can finish; an alternative, say a label, that no tokens spell; fewer rows than
        tokens.
    """
    rows = len(vocabulary) if rows is None else rows
    beyond = [i for i, token in enumerate(vocabulary.tokens) if token and i >= rows]
    if beyond:
        raise ConfigError(
            "the tokenizer has more tokens than the decoder", where="compile_grammar(rows)",
            expected=f"more than {beyond[-1]}", found=rows,
        )  # fmt: skip
    tree = parse(pattern)
    lead = (Repeat(Chars(((32, 32),)), 0, 1),) if space else ()
    machine = automaton(Sequence((*lead, tree)))
    words, columns = words_of(machine, vocabulary)
    moves = walk(columns, list(words))
    if not (moves.origin == 0).any():
        raise _unwritable("a grammar that no token can start", pattern, vocabulary)
    pieces = frozenset(token for token in vocabulary.tokens if token)
    longest = max(map(len, pieces))
    for label in _labels(tree):
        if not any(_spelled(text, pieces, longest) for text in (label, b" " * space + label)):
            raise _unwritable("an answer that no tokens spell", label.decode(), vocabulary)
    need = _need(moves, machine.ends)
    if need[0] == NEVER:
        raise _unwritable("a grammar that no tokens can finish", pattern, vocabulary)
    return _machine(moves, need, list(words.values()), rows)


def _edges(moves: Moves, states: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of states that a token joins."""
    return np.divmod(np.unique(moves.origin * states + moves.target), states)


def _need(moves: Moves, ends: np.ndarray) -> Int[np.ndarray, " S"]:
    """Tokens from every state to the nearest end."""
    origin, target = _edges(moves, len(ends))
    need = np.where(ends, 0, NEVER)
    while True:
        shorter = need.copy()
        np.minimum.at(shorter, origin, np.minimum(need[target] + 1, NEVER))
        if (shorter == need).all():
            return need
        need = shorter


def _reached(moves: Moves, states: int) -> np.ndarray:
    """Which states tokens lead to from the start."""
    origin, target = _edges(moves, states)
    reached = np.arange(states) == 0
    while True:
        more = reached.copy()
        more[target[reached[origin]]] = True
        if (more == reached).all():
            return reached
        reached = more


def _machine(moves: Moves, need: np.ndarray, tokens: list[list[int]], rows: int) -> TokenMachine:
    """The machine of the states that the start leads to and from which an end is in reach."""
    moves = moves.where(need[moves.target] < NEVER)
    reached = _reached(moves, len(need))
    number = np.cumsum(reached) - 1
    moves = moves.where(reached[moves.origin])
    moves = moves.where(np.lexsort((moves.origin, moves.word)))
    token_class = np.zeros(rows, np.int32)
    columns: dict[tuple[bytes, bytes], int] = {}
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    for run in np.split(np.arange(len(moves.word)), np.flatnonzero(np.diff(moves.word)) + 1):
        origin, target = number[moves.origin[run]], number[moves.target[run]]
        column = columns.setdefault((origin.tobytes(), target.tobytes()), len(columns) + 1)
        if column > len(edges):
            edges.append((origin, target))
        token_class[tokens[moves.word[run[0]]]] = column
    next_state = np.full((int(reached.sum()), 1 + len(edges)), -1, np.int32)
    for column, (origin, target) in enumerate(edges, start=1):
        next_state[origin, column] = target
    return TokenMachine.of(token_class, next_state, need[reached])


def _labels(tree: Tree) -> list[bytes]:
    """The alternatives of a pattern that are one fixed text each."""
    texts = []
    for part in tree.parts if isinstance(tree, Choice) else (tree,):
        chars = part.parts if isinstance(part, Sequence) else (part,)
        codes = [c.ranges[0][0] for c in chars if isinstance(c, Chars) and _one(c)]
        if len(codes) == len(chars):
            texts.append("".join(map(chr, codes)).encode())
    return texts


def _one(chars: Chars) -> bool:
    return len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1]


def _spelled(text: bytes, pieces: frozenset[bytes], longest: int) -> bool:
    """Whether tokens put together give this text."""
    reached = {0}
    for i in range(len(text)):
        if i in reached:
            stops = range(i + 1, min(i + longest, len(text)) + 1)
            reached |= {j for j in stops if text[i:j] in pieces}
    return len(text) in reached


def _unwritable(what: str, found: str, vocabulary: TokenBytes) -> ConfigError:
    return ConfigError(
        what, where="compile_grammar",
        expected=f"a text that tokens of {vocabulary.where} can write", found=repr(found[:80]),
    )  # fmt: skip
