"""What may be said next, and what has to be remembered of a text to know that.

    barred tokens         never
    end tokens            where the machine may end; anywhere without one
    `<reg>` tokens        one whole block: once the model says the first, the rest of the Q follow
                          without asking; after the block, or where none fits any more, never again
    a machine's tokens    those from which its end can still be reached
    repetition penalty    on tokens that the text holds

All of it arrays: other ids, another Q, another machine of the same size need no other program.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import GenerationConfig
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

from .machine import TokenMachine
from .sampling import Filters, Host, Sampling, best, draw, penalise


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Rules:
    """`size` is Q, 0 where there is no `<reg>`. `eos` fills the tokens after the end."""

    eos: Int[Host, ""]
    ends: Bool[Host, " V"]
    barred: Bool[Host, " V"]
    reg: Int[Host, ""]
    size: Int[Host, ""]
    machine: TokenMachine | None
    sampling: Sampling

    @classmethod
    def of(
        cls,
        config: GenerationConfig,
        vocabulary: int,
        ends: tuple[int, ...],
        reg: tuple[int, int] | None,
        banned: tuple[int, ...],
        machine: TokenMachine | None,
    ) -> Rules:
        token, size = (0, 0) if reg is None else reg
        return cls(
            eos=np.asarray(ends[0] if ends else 0, np.int32),
            ends=_marked(vocabulary, ends),
            barred=_marked(vocabulary, banned),
            reg=np.asarray(token, np.int32),
            size=np.asarray(size, np.int32),
            machine=machine,
            sampling=Sampling.of(config),
        )


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What a text has said so far, as far as the rules ask.

    Attributes:
      owed: `<reg>` tokens still to be forced.
      spent: a block was begun.
      node: state of the machine; None without one.
      seen: tokens that the text holds, prompt included; None without a repetition penalty.
    """

    owed: Int[Array, " B"]
    spent: Bool[Array, " B"]
    node: Int[Array, " B"] | None
    seen: Bool[Array, "B V"] | None

    @classmethod
    def start(
        cls,
        rules: Rules,
        filters: Filters,
        rows: int,
        prompt_tokens: Int[Array, "B L"] | None,
    ) -> Memory:
        node = None
        if rules.machine is not None:
            node = rules.machine.begin(rows)
        seen = None
        if filters.penalty:
            seen = jnp.zeros((rows, rules.ends.shape[0]), bool)
            if prompt_tokens is not None:
                seen = jax.vmap(_also)(seen, prompt_tokens, prompt_tokens >= 0)
        return cls(jnp.zeros((rows,), jnp.int32), jnp.zeros((rows,), bool), node, seen)

    def after(self, rules: Rules, token: Int[Array, " B"]) -> Memory:
        """With one more token in the text."""
        first = (self.owed == 0) & (token == rules.reg) & (rules.size > 0)
        node, seen = self.node, self.seen
        if rules.machine is not None and node is not None:
            node = rules.machine.step(node, token)
        if seen is not None:
            seen = jax.vmap(lambda row, t: row.at[t].set(True))(seen, token)
        return Memory(
            owed=jnp.where(first, rules.size - 1, jnp.maximum(self.owed - 1, 0)),
            spent=self.spent | first,
            node=node,
            seen=seen,
        )

    def rows(self, index: Int[Array, " R"]) -> Memory:
        """Row r of the result is row `index[r]`."""
        return jax.tree.map(lambda x: jnp.take(x, index, axis=0), self)


def permitted(
    rules: Rules, scores: Float[Array, "B V"], memory: Memory, left: Int[Array, ""]
) -> Float[Array, "B V"]:
    """The scores, penalised, and -inf where a token may not come next.

    Args:
      left: tokens that may still be written, this one included.
    """
    if memory.seen is not None:
        scores = penalise(scores, memory.seen, jnp.asarray(rules.sampling.penalty))
    token = jnp.arange(scores.shape[1], dtype=jnp.int32)
    is_reg = (token == rules.reg) & (rules.size > 0)
    no_block = memory.spent | (left < rules.size)
    barred = rules.barred[None, :] | (is_reg[None, :] & no_block[:, None])
    if rules.machine is not None and memory.node is not None:
        ends = rules.ends[None, :]
        ending = rules.machine.may_end(memory.node)[:, None] & ends
        barred |= ~(ending | (rules.machine.allowed(memory.node, left) & ~ends))
    return jnp.where(barred, -jnp.inf, scores)


def choose(
    rules: Rules,
    filters: Filters,
    scores: Float[Array, "B V"],
    memory: Memory,
    step: Int[Array, ""],
    left: Int[Array, ""],
) -> tuple[Int[Array, " B"], Float[Array, " B"], Memory]:
    """The next token, the log-probability that the decoder gives it, and the memory after it.

    Args:
      step: of the token within its text.
    """
    allowed = permitted(rules, scores, memory, left)
    token = draw(allowed, filters, rules.sampling, step) if filters.draws else best(allowed)
    token = jnp.where(memory.owed > 0, rules.reg, token)
    said = jnp.take_along_axis(scores, token[:, None], axis=1)[:, 0]
    return token, said - jax.nn.logsumexp(scores, axis=1), memory.after(rules, token)


def _marked(vocabulary: int, tokens: tuple[int, ...]) -> Bool[np.ndarray, " V"]:
    mask = np.zeros(vocabulary, bool)
    mask[list(tokens)] = True
    return mask


def _also(seen: Array, tokens: Array, there: Array) -> Array:
    """One row [V] with the tokens [L] that are there."""
    return seen.at[jnp.where(there, tokens, seen.shape[0])].set(True, mode="drop")
