"""What was asked of generation, checked on the host before anything is compiled."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import ConfigError, GenerationConfig
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.models.decoder import Decoder, unstacked
from rsvlm_jax.nn import KVCache

from .machine import TokenMachine
from .rules import Rules
from .sampling import Filters


@dataclasses.dataclass(frozen=True)
class Plan:
    """What makes the program: hashable. Everything else is an array.

    Attributes:
      new: max_new_tokens.
      slots: of the cache that is made; 0 where one was given.
      filters: steps between scores and token.
      states: whether hidden states are kept.
      last: whether the last token is read too: for its hidden state, or for the cache.
      dtype: of the computation.
      beams: 1: no beam search.
      ends: number of end tokens, which beam search has to know.
    """

    new: int
    slots: int
    filters: Filters
    states: bool
    last: bool
    dtype: str
    beams: int
    ends: int

    @property
    def reads(self) -> int:
        """Tokens that are read at most."""
        return self.new if self.last else self.new - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The static side of a request; equal ones are the same object (`program_of`).

    A chunk of a stream may take less time than comparing two graphs or walking through a state of
    Flax: programs are told apart by identity, and parameters come as a list.
    """

    graphdef: Any
    tree: Any
    plan: Plan

    def decoder(self, leaves: list[Array]) -> Decoder:
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.tree, leaves))


program_of = functools.cache(Program)

_APART: weakref.WeakKeyDictionary[Any, tuple[Any, list[Array], tuple]] = weakref.WeakKeyDictionary()
"""Of each decoder: graph and parameters as they were, and what they were taken apart into."""


def apart(decoder: Decoder) -> tuple[Any, Any, list[Array]]:
    """Graph, tree and parameters to decode with (`unstacked`), kept until a parameter changes.

    Taking the layers of a small model apart takes longer than a text.
    """
    graphdef, params = nnx.split(decoder)
    leaves = jax.tree.leaves(params)
    known = _APART.get(decoder)
    if known is not None:
        graph, before, parts = known
        same = len(leaves) == len(before) and all(
            a is b for a, b in zip(leaves, before, strict=True)
        )
        if same and graph == graphdef:
            return parts
    graph, params = nnx.split(unstacked(decoder))
    parts_leaves, tree = jax.tree.flatten(params)
    parts = (graph, tree, [jnp.asarray(x) for x in parts_leaves])  # NumPy's, moved once
    _APART[decoder] = (graphdef, leaves, parts)
    return parts


@dataclasses.dataclass(frozen=True)
class Request:
    """Everything that a program needs: `program` is static, the rest are arrays."""

    program: Program
    leaves: list[Array]
    rules: Rules
    prefix: Float[Array, "B L D"]
    valid: Bool[Any, "B L"]
    prompt_tokens: Int[Any, "B N"] | None
    cache: KVCache | None
    keep_cache: bool

    @property
    def plan(self) -> Plan:
        return self.program.plan


def make_request(
    decoder: Decoder,
    prefix: Float[Array, "B L D"],
    valid: Bool[Any, "B L"],
    *,
    config: GenerationConfig,
    eos: int | tuple[int, ...],
    reg: tuple[int, int] | None,
    banned: tuple[int, ...],
    prompt_tokens: Int[Any, "B N"] | None,
    machine: TokenMachine | None,
    cache: KVCache | None,
    cache_length: int | None,
    keep_hidden: bool,
    keep_cache: bool,
) -> Request:
    """See `rsvlm_jax.generate.generate`, whose arguments these are, for the errors."""
    ends = (eos,) if isinstance(eos, int) else eos
    new, vocabulary = config.max_new_tokens, decoder.config.vocab_size
    _known(vocabulary, eos=ends, banned=banned, reg=() if reg is None else reg[:1])
    if reg is not None and reg[1] < 1:
        raise ConfigError("not a size", where="generate(reg)", expected="Q > 0", found=reg[1])
    if prompt_tokens is not None and config.repetition_penalty != 1:
        given = np.asarray(prompt_tokens)
        if given.size and given.max() >= vocabulary:
            _known(vocabulary, prompt_tokens=(int(given.max()),))
    if machine is not None:
        machine.check(vocabulary, prefix.shape[0], new)
        _check_machine(machine, ends, banned, reg)
    if config.num_beams > 1:
        for name, asked in (("reg", reg is not None), ("keep_hidden", keep_hidden),
                            ("keep_cache", keep_cache)):  # fmt: skip
            if asked:
                raise ConfigError(
                    "not together with beams", where=f"generate({name})",
                    expected="num_beams = 1", found=config.num_beams,
                )  # fmt: skip
    slots = _slots(decoder, prefix, valid, new, cache, cache_length)
    graphdef, tree, leaves = apart(decoder)
    states = keep_hidden or reg is not None
    plan = Plan(
        new=new,
        slots=slots,
        filters=Filters.of(config),
        states=states,
        last=states or keep_cache,
        dtype=prefix.dtype.name,
        beams=config.num_beams,
        ends=len(ends) if config.num_beams > 1 else 0,
    )
    return Request(
        program=program_of(graphdef, tree, plan),
        leaves=leaves,
        rules=Rules.of(config, vocabulary, ends, reg, banned, machine),
        prefix=prefix,
        valid=valid,
        prompt_tokens=prompt_tokens if config.repetition_penalty != 1 else None,
        cache=cache,
        keep_cache=keep_cache,
    )


def _known(vocabulary: int, **named: tuple[int, ...]) -> None:
    for name, tokens in named.items():
        for token in tokens:
            if not 0 <= token < vocabulary:
                raise ConfigError(
                    "no such token", where=f"generate({name})",
                    expected=f"0 .. {vocabulary - 1}", found=token,
                )  # fmt: skip


def _check_machine(
    machine: TokenMachine,
    ends: tuple[int, ...],
    banned: tuple[int, ...],
    reg: tuple[int, int] | None,
) -> None:
    classes = np.asarray(machine.token_class)
    if not ends:
        raise ConfigError(
            "a machine's text ends by an end token", where="generate(eos)", expected="one or more",
            found="none",
        )  # fmt: skip
    for name, tokens in (("eos", ends), ("banned", banned), ("reg", reg and reg[:1])):
        taken = [token for token in tokens or () if classes[token]]
        if taken or (name == "reg" and reg is not None):
            raise ConfigError(
                "not together with this machine", where=f"generate({name})",
                expected="tokens that it never writes" if taken else "none",
                found=taken[0] if taken else reg,
            )  # fmt: skip


def _slots(
    decoder: Decoder,
    prefix: Array,
    valid: Array,
    new: int,
    cache: KVCache | None,
    cache_length: int | None,
) -> int:
    """Slots of the cache to be made, 0 where one was given; prompt and text fit."""
    rows, length = prefix.shape[:2]
    count = np.asarray(valid).sum(axis=1)
    if not count.all():
        raise ConfigError(
            "a prompt without a token", where=f"generate(prefix_valid[{np.argmin(count)}])",
            expected="one or more valid positions",
        )  # fmt: skip
    used, before, slots = 0, 0, length + new
    if cache is not None:
        if cache_length is not None:
            raise ConfigError(
                "a cache and the length of one", where="generate(cache_length)", expected=None,
                found=cache_length,
            )  # fmt: skip
        if cache.valid.shape[0] != rows:
            raise ConfigError(
                "the cache is of another batch", where="generate(cache)", expected=f"{rows} rows",
                found=cache.valid.shape[0],
            )  # fmt: skip
        used, before = int(jnp.max(cache.length)), np.asarray(cache.tokens())
        slots = cache.valid.shape[1]
    elif cache_length is not None:
        slots = cache_length
    if slots < used + length + new:
        taken = f"{used} + {length} + {new}" if used else f"{length} + {new}"
        raise ConfigError(
            "the cache does not hold prompt and answer",
            where="generate(cache_length)" if cache is None else "generate(cache)",
            expected=f">= {taken}", found=slots,
        )  # fmt: skip
    longest = int((before + count).max())
    if longest + new > decoder.config.positions:
        raise ConfigError(
            "more positions than the decoder was made for", where="generate(max_new_tokens)",
            expected=f"prompt + max_new_tokens <= {decoder.config.positions}",
            found=f"{longest} + {new}",
        )  # fmt: skip
    return 0 if cache is not None else slots
