"""A finite automaton over token ids: which tokens may follow, and where each leads.

    state 0: a digit        token "7"   class 1     next[0, 1] = 1      tokens "7", "12", "a" of
             or "12"        token "12"  class 2     next[0, 2] = 2      a vocabulary of thousands
    state 1: one more       token "a"   class 0     next[0, 0] = -1     fall into few classes
    state 2: the end

What a text has to look like is compiled into one of these by `rsvlm_jax.generate.grammar`; the
decode loop asks for nothing more. `need` keeps a text from being cut in the middle: a token is
allowed only where the end can still be reached. As long as `left >= need` at the start, a row can
always go on or end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Int

NEVER = 2**30
"""`need` of a state from which no end can be reached."""
_LEAST = 16


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class TokenMachine:
    """S states, K classes of tokens; both padded, so that other grammars need no other program.

    Attributes:
      token_class: of every row of the decoder's table; class 0 leads nowhere from any state.
      next_state: where a token of a class leads; -1 where it is not allowed.
      need: tokens from a state to the nearest end, 0 where the text may end; 2**30 where none is.
      start: the state before the first token; of all rows of a batch, or one of every row.
    """

    token_class: Int[Array, " V"]
    next_state: Int[Array, "S K"]
    need: Int[Array, " S"]
    start: Int[Array, "*B"]

    @classmethod
    def of(
        cls,
        token_class: Int[np.ndarray, " V"],
        next_state: Int[np.ndarray, "S K"],
        need: Int[np.ndarray, " S"],
        start: Int[np.ndarray, " B"] | int = 0,
    ) -> TokenMachine:
        """From unpadded arrays: S and K become powers of two of at least 16."""
        states, classes = next_state.shape
        padding = (_padded(states) - states, _padded(classes) - classes)
        table = np.pad(next_state, [(0, n) for n in padding], constant_values=-1)
        needs = np.pad(need, (0, padding[0]), constant_values=NEVER)
        arrays = (token_class, table, needs, start)
        return cls(*(jnp.asarray(a, jnp.int32) for a in arrays))

    def begin(self, rows: int) -> Int[Array, " B"]:
        """The state of every row before its first token."""
        return jnp.broadcast_to(self.start, (rows,))

    def check(self, vocabulary: int, rows: int, new: int) -> None:
        """Refuse, before anything is compiled, what could not be decoded with this machine.

        Args:
          vocabulary: rows of the decoder's table.
          rows: of the batch.
          new: tokens of a text at most.

        Raises:
          ConfigError: another vocabulary, another batch, a row that no token can start, or one
            that cannot end within `new` tokens.
        """
        start = np.atleast_1d(np.asarray(self.start))
        for what, where, unit, expected, found in (
            ("vocabulary", "machine", "tokens", vocabulary, self.token_class.shape[0]),
            ("batch", "machine.start", "rows", rows, rows if self.start.ndim == 0 else len(start)),
        ):
            if found != expected:
                remedy = "compile_grammar(..., rows=decoder.config.vocab_size)"
                raise ConfigError(
                    f"a machine of another {what}", where=f"generate({where})",
                    expected=f"{expected} {unit}",
                    found=found, remedy=remedy if what == "vocabulary" else None,
                )  # fmt: skip
        if not (np.asarray(self.next_state)[start] >= 0).any(axis=1).all():
            raise ConfigError(
                "no token can start the text of this machine", where="generate(machine)",
                expected="a grammar that this vocabulary can write",
            )  # fmt: skip
        shortest = int(np.asarray(self.need)[start].max())
        if shortest > new:
            found = f"{shortest} tokens" if shortest < NEVER else "no text that ends"
            raise ConfigError(
                "the shortest text of this machine does not fit", where="generate(max_new_tokens)",
                expected=f"at most {new} tokens", found=found,
            )  # fmt: skip

    def allowed(self, state: Int[Array, " B"], left: Int[Array, ""]) -> Bool[Array, "B V"]:
        """Which tokens may come next; the end tokens are not asked here (`may_end`).

        Args:
          left: tokens that may still be written, this one included.
        """
        target = jnp.take(self.next_state, state, axis=0)
        need = jnp.take(self.need, jnp.maximum(target, 0), axis=0)
        fits = (target >= 0) & (need < left)
        return jax.vmap(lambda row: jnp.take(row, self.token_class, axis=0))(fits)

    def may_end(self, state: Int[Array, " B"]) -> Bool[Array, " B"]:
        """Whether the text may end here."""
        return jnp.take(self.need, state, axis=0) == 0

    def step(self, state: Int[Array, " B"], token: Int[Array, " B"]) -> Int[Array, " B"]:
        """The state after an allowed token; the same state after any other."""
        column = jnp.take(self.token_class, token, axis=0)
        target = self.next_state[state, column]
        return jnp.where(target >= 0, target, state)


def join(machines: Sequence[TokenMachine]) -> TokenMachine:
    """One machine for a batch whose rows have to look different: row i as `machines[i]` says.

    The same machine may stand for many rows; its states are kept once.

    Raises:
      ConfigError: no machine, machines of different vocabularies, or one that is joined already.
    """
    distinct = list({id(m): m for m in machines}.values())
    found = sorted({m.token_class.shape[0] for m in distinct})
    if len(found) != 1 or any(m.start.ndim for m in distinct):
        raise ConfigError(
            "machines that cannot be joined", where="join",
            expected="one for every row of the batch, all of one vocabulary, each with one start",
            found=f"vocabularies of {found}" if len(found) != 1 else "several starts",
        )  # fmt: skip
    words = np.stack([np.asarray(m.token_class) for m in distinct])
    # Class 0 of the whole has to be class 0 of all: it is the smallest column, but may not occur.
    words = np.concatenate([np.zeros_like(words[:, :1]), words], axis=1)
    columns, token_class = np.unique(words, axis=1, return_inverse=True)
    tables, offset, offsets = [], 0, {}
    for m, column in zip(distinct, columns, strict=True):
        table = np.asarray(m.next_state)[:, column]
        tables.append(np.where(table >= 0, table + offset, -1))
        offsets[id(m)] = offset
        offset += len(table)
    return TokenMachine.of(
        token_class.reshape(-1)[1:],
        np.concatenate(tables),
        np.concatenate([np.asarray(m.need) for m in distinct]),
        np.asarray([offsets[id(m)] + int(m.start) for m in machines]),
    )


def _padded(n: int) -> int:
    return max(_LEAST, 1 << (n - 1).bit_length())
