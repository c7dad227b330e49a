"""Greedy decoding from embeddings, with a key-value cache of static size.

    prefix [B,L,D], valid [B,L] -> prefill -> hidden of the last valid token
       -> loop: argmax -> token t -> fed at slot L + t -> its hidden state -> argmax ...
    tokens i32[B,max_new], hidden [B,max_new,D], length i32[B]

The prefix is given as embeddings because visual tokens stand between those of the text. Samples of
different length share a batch by their `valid` mask, padding anywhere; positions count valid
tokens only, so a sample's text does not depend on its neighbours. One trace and one compilation
serve all prompts of a shape, whatever the end token, the banned tokens and Q.

`<reg>` tokens come as one block: once the model emits the first, the rest of the Q follow without
asking, and after the block (or where no whole block fits any more) the token is not offered again.
Not here: sampling, beams, and what the tokens mean.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.nn import KVCache, cache_mask


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
      tokens: the end token from `length` on.
      hidden: after the final norm, at each generated token (that is, after it was read); zeros
        from `length` on.
      length: tokens before the end token, or `max_new` where none came.
    """

    tokens: Int[Array, "B new"]
    hidden: Float[Array, "B new D"]
    length: Int[Array, " B"]


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class _Rules:
    """What may be said. Arrays, so that other rules need no other program.

    `size` is Q, and 0 where there is no `<reg>`. `eos` is what fills the tokens after the end.
    """

    eos: Int[Array, ""]
    ends: Bool[Array, " V"]
    reg: Int[Array, ""]
    size: Int[Array, ""]
    barred: Bool[Array, " V"]


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class _Loop:
    """The carry of the decode loop, at a token that is chosen but not yet read.

    `owed` counts the `<reg>` tokens still to be forced; `spent` says that a block was begun; a
    sample is `done` when its chosen token is the end token.
    """

    step: Int[Array, ""]
    token: Int[Array, " B"]
    position: Int[Array, " B"]
    owed: Int[Array, " B"]
    spent: Bool[Array, " B"]
    done: Bool[Array, " B"]
    cache: KVCache
    out: Generated


def generate(
    decoder: Decoder,
    prefix: Float[Array, "B L D"],
    prefix_valid: Bool[Array, "B L"],
    *,
    max_new: int,
    eos: int | tuple[int, ...],
    cache_length: int | None = None,
    reg: tuple[int, int] | None = None,
    banned: tuple[int, ...] = (),
) -> Generated:
    """The most probable token, again and again, until `eos` or `max_new`; ties: the lower id.

    Args:
      decoder: read only.
      prefix: embedded prompt; its dtype is the compute dtype. At least one position of every
        sample must be valid.
      prefix_valid: False at padding and at visual tokens that are missing.
      eos: the end token; or several, each of which ends the text and the first of which fills what
        is left of it; or none, `()`.
      cache_length: slots of the cache; `L + max_new` unless given.
      reg: id of the `<reg>` token and Q, the size of its block.
      banned: ids that are never emitted (`<image>`).

    Raises:
      ConfigError: a cache too small, a longer text than the decoder's positions, or ids outside
        its vocabulary.
    """
    config = decoder.config
    needed = prefix.shape[1] + max_new
    slots = needed if cache_length is None else cache_length
    if max_new < 1 or slots < needed:
        raise ConfigError(
            "the cache does not hold prompt and answer",
            where="generate(cache_length)",
            expected=f">= {prefix.shape[1]} + {max_new}, and max_new >= 1",
            found=slots,
        )
    if needed > config.positions:
        raise ConfigError(
            "more positions than the decoder was made for",
            where="generate(max_new)",
            expected=f"prompt + max_new <= {config.positions}",
            found=f"{prefix.shape[1]} + {max_new}",
        )
    ends = (eos,) if isinstance(eos, int) else eos
    named = [*(("eos", i) for i in ends), *(("banned", i) for i in banned)]
    for name, token in named if reg is None else [*named, ("reg", reg[0])]:
        if not 0 <= token < config.vocab_size:
            raise ConfigError(
                "no such token",
                where=f"generate({name})",
                expected=f"0 .. {config.vocab_size - 1}",
                found=token,
            )
    if reg is not None and reg[1] < 1:
        raise ConfigError("not a size", where="generate(reg)", expected="Q > 0", found=reg[1])
    graphdef, state = nnx.split(decoder)
    reg_id, size = (0, 0) if reg is None else reg
    rules = _Rules(
        eos=jnp.asarray(ends[0] if ends else 0, jnp.int32),
        ends=jnp.asarray([i in ends for i in range(config.vocab_size)]),
        reg=jnp.asarray(reg_id, jnp.int32),
        size=jnp.asarray(size, jnp.int32),
        barred=jnp.asarray([i in banned for i in range(config.vocab_size)]),
    )
    return _greedy(graphdef, max_new, slots, state, rules, prefix, prefix_valid)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _greedy(
    graphdef: Any,
    max_new: int,
    slots: int,
    state: Any,
    rules: _Rules,
    prefix: Array,
    valid: Array,
) -> Generated:
    decoder: Decoder = nnx.merge(graphdef, state)
    b, length, width = prefix.shape
    prefix = jnp.where(valid[:, :, None], prefix, jnp.zeros_like(prefix))
    position = jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
    cache = decoder.empty_cache(b, slots, prefix.dtype).claim(valid)
    mask = cache_mask(cache.length, length, cache.valid)
    hidden, cache = decoder(prefix, mask, position, cache)
    last = length - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)

    nothing = jnp.zeros((b,), jnp.int32)
    never = jnp.zeros((b,), bool)
    left = jnp.int32(max_new)
    token, owed, spent = _choose(decoder, rules, hidden, left, nothing, never)
    start = _Loop(
        step=jnp.int32(0),
        token=token,
        position=jnp.take_along_axis(position, last[:, None], axis=1)[:, 0] + 1,
        owed=owed,
        spent=spent,
        done=rules.ends[token],
        cache=cache,
        out=Generated(
            tokens=jnp.broadcast_to(rules.eos, (b, max_new)),
            hidden=jnp.zeros((b, max_new, width), prefix.dtype),
            length=nothing,
        ),
    )

    def go_on(s: _Loop) -> Array:
        return (s.step < max_new) & ~s.done.all()

    def read_and_choose(s: _Loop) -> _Loop:
        alive = ~s.done
        x = decoder.embed(s.token)[:, None].astype(prefix.dtype)
        cache = s.cache.claim(alive[:, None])
        mask = cache_mask(cache.length, 1, cache.valid)
        hidden, cache = decoder(x, mask, s.position[:, None], cache)
        kept = jnp.where(alive[:, None, None], hidden, jnp.zeros_like(hidden))
        out = Generated(
            tokens=jax.lax.dynamic_update_slice(s.out.tokens, s.token[:, None], (0, s.step)),
            hidden=jax.lax.dynamic_update_slice(s.out.hidden, kept, (0, s.step, 0)),
            length=s.out.length + alive.astype(jnp.int32),
        )
        step = s.step + 1
        token, owed, spent = _choose(decoder, rules, hidden, max_new - step, s.owed, s.spent)
        token = jnp.where(s.done, rules.eos, token)
        return _Loop(
            step=step,
            token=token,
            position=s.position + 1,
            owed=owed,
            spent=spent,
            done=s.done | rules.ends[token],
            cache=cache,
            out=out,
        )

    return jax.lax.while_loop(go_on, read_and_choose, start).out


def _choose(
    decoder: Decoder, rules: _Rules, hidden: Array, left: Array, owed: Array, spent: Array
) -> tuple[Array, Array, Array]:
    """The next token [B] from hidden [B,1,D], and what is owed and spent after it.

    `left` positions remain, the one to be chosen included.
    """
    scores = decoder.logits(hidden)[:, 0]
    is_reg = (jnp.arange(scores.shape[1], dtype=jnp.int32) == rules.reg) & (rules.size > 0)
    no_block = spent | (left < rules.size)
    barred = rules.barred[None, :] | (is_reg[None, :] & no_block[:, None])
    token = jnp.argmax(jnp.where(barred, -jnp.inf, scores), axis=1).astype(jnp.int32)
    forced = owed > 0
    token = jnp.where(forced, rules.reg, token)
    first = ~forced & (token == rules.reg) & (rules.size > 0)
    owed = jnp.where(first, rules.size - 1, jnp.maximum(owed - 1, 0))
    return token, owed, spent | first


def reg_block(
    generated: Generated, reg: tuple[int, int]
) -> tuple[Float[Array, "B Q D"], Bool[Array, " B"]]:
    """Hidden states at the `<reg>` block, and which samples have one; zeros where there is none.

    Args:
      reg: as given to `generate`.
    """
    token, size = reg
    at = generated.tokens == token
    has = at.sum(axis=1) >= size
    if generated.tokens.shape[1] < size:
        b, _, d = generated.hidden.shape
        return jnp.zeros((b, size, d), generated.hidden.dtype), has
    slot = jnp.argmax(at, axis=1)[:, None] + jnp.arange(size)[None, :]
    block = jnp.take_along_axis(generated.hidden, slot[:, :, None], axis=1, mode="clip")
    return jnp.where(has[:, None, None], block, jnp.zeros_like(block)), has
