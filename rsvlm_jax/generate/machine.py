"""A finite automaton over token ids: which tokens may follow, and where each leads.

    state 0: a digit        token "7"   class 1     next[0, 1] = 1      tokens "7", "12", "a" of
             or "12"        token "12"  class 2     next[0, 2] = 2      a vocabulary of thousands
    state 1: one more       token "a"   class 0     next[0, 0] = -1     fall into few classes
    state 2: the end

What a text has to look like is compiled into one of these by `rsvlm_jax.generate.grammar`; the
decode loop asks for nothing more. `need` keeps a text from being cut in the middle: a token is
allowed only where the end can still be reached.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Int


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class TokenMachine:
    """S states, K classes of tokens.

    Attributes:
      token_class: of every row of the decoder's table; class 0 leads nowhere from any state.
      next_state: where a token of a class leads; -1 where it is not allowed.
      need: tokens from a state to the nearest end, 0 where the text may end; 2**30 where none is.
      start: the state before the first token.
    """

    token_class: Int[Array, " V"]
    next_state: Int[Array, "S K"]
    need: Int[Array, " S"]
    start: Int[Array, ""]

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
