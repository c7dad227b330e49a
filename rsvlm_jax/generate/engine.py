"""The decode loop: a prompt is read once, then token after token, with a cache of static size.

    prefix [B,L,D], valid [B,L] -> prefill -> hidden of the last valid token -> token 0
       -> advance: token t is read at slot L + t -> its hidden state -> token t + 1 ...

Two programs, `prefill` and `advance`; streaming calls the second with a nearer goal, so a chunk of
any size is the same program, and the state it takes is donated. One trace serves all prompts of a
shape, whatever the end tokens, the banned ones, Q, and the numbers of the `GenerationConfig`.

The prompt comes as embeddings because visual tokens stand between those of the text. Samples of
different length share a batch by their `valid` mask, padding anywhere; positions count valid
tokens only, so that a sample's text does not depend on its neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.models.decoder import Decoder
from rsvlm_jax.nn import KVCache, SharedPrefix, cache_mask

from .request import Program, Request
from .result import Generated
from .rules import Memory, Rules, choose


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A text under way: `read` tokens were read and one more is chosen, `token`, at `position`.

    A sample is `done` when its chosen token is an end token. `tokens` and `said` (log-probability
    of each, 0 behind the end) have a column too many: that of the token chosen after the last.
    """

    read: Int[Array, ""]
    token: Int[Array, " B"]
    position: Int[Array, " B"]
    done: Bool[Array, " B"]
    length: Int[Array, " B"]
    memory: Memory
    cache: KVCache
    tokens: Int[Array, "B new1"]
    said: Float[Array, "B new1"]
    hidden: Float[Array, "B new D"] | None


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class View:
    """What may be looked at while the state goes on: `count` tokens are chosen."""

    count: Int[Array, ""]
    tokens: Int[Array, "B new"]
    length: Int[Array, " B"]
    done: Bool[Array, " B"]
    score: Float[Array, " B"]


def start(request: Request) -> tuple[State, View]:
    """The prompt read, and the first token chosen."""
    r = request
    state, view = _prefill(
        r.program, r.leaves, r.rules, r.prefix, r.valid, r.prompt_tokens, r.cache
    )
    return _sharing(state, None if r.cache is None else r.cache.shared), view


def go_on(
    request: Request, state: State, until: int, stopped: Bool[Any, " B"] | None = None
) -> tuple[State, View]:
    """`until` tokens read, or fewer where all samples are done. The given state is used up.

    Args:
      stopped: samples that end for another reason than an end token. What they said last is still
        read where states or cache are kept.
    """
    r = request
    # A shared prefix goes around programs: out of one it would come as a copy, and it must not be
    # used up.
    shared = state.cache.shared
    state, view = advance()(
        r.program, r.leaves, r.rules, _sharing(state, None), np.int32(until), stopped, shared
    )
    return _sharing(state, shared), view


def result(request: Request, state: State, view: View) -> Generated:
    return Generated(
        tokens=view.tokens,
        length=view.length,
        score=view.score,
        hidden=state.hidden,
        cache=state.cache if request.keep_cache else None,
    )


def read_prompt(
    decoder: Decoder, slots: int, prefix: Array, valid: Array, cache: KVCache | None
) -> tuple[Array, Array, KVCache]:
    """Hidden state [B,1,D] of the last token, the position of the next [B], and the cache."""
    b, length = prefix.shape[:2]
    prefix = jnp.where(valid[:, :, None], prefix, jnp.zeros_like(prefix))
    position = jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
    if cache is None:
        cache = decoder.empty_cache(b, slots, prefix.dtype)
    else:
        position = position + cache.tokens()[:, None]
    cache = cache.claim(valid)
    mask = cache_mask(cache.length, length, cache.valid)
    hidden, cache = decoder(prefix, mask, position, cache)
    last = length - 1 - jnp.argmax(valid[:, ::-1], axis=1)[:, None]
    hidden = jnp.take_along_axis(hidden, last[:, :, None], axis=1)
    return hidden, jnp.take_along_axis(position, last, axis=1)[:, 0] + 1, cache


def read_token(
    decoder: Decoder, token: Array, alive: Array, position: Array, cache: KVCache, dtype: Any
) -> tuple[Array, KVCache]:
    """Hidden state [B,1,D] of a token a sample, and the cache with those that are alive."""
    x = decoder.embed(token)[:, None].astype(dtype)
    cache = cache.claim(alive[:, None])
    mask = cache_mask(cache.length, 1, cache.valid)
    return decoder(x, mask, position[:, None], cache)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(
    program: Program,
    leaves: list[Array],
    rules: Rules,
    prefix: Array,
    valid: Array,
    prompt_tokens: Array | None,
    cache: KVCache | None,
) -> tuple[State, View]:
    decoder, plan = program.decoder(leaves), program.plan
    b, _, width = prefix.shape
    hidden, position, cache = read_prompt(decoder, plan.slots, prefix, valid, cache)
    memory = Memory.start(rules, plan.filters, b, prompt_tokens)
    scores = decoder.logits(hidden)[:, 0]
    step, left = jnp.int32(0), jnp.int32(plan.new)
    token, said, memory = choose(rules, plan.filters, scores, memory, step, left)
    done = jnp.take(jnp.asarray(rules.ends), token)
    state = State(
        read=step,
        token=token,
        position=position,
        done=done,
        length=(~done).astype(jnp.int32),
        memory=memory,
        cache=cache,
        tokens=jnp.full((b, plan.new + 1), rules.eos, jnp.int32).at[:, 0].set(token),
        said=jnp.zeros((b, plan.new + 1), jnp.float32).at[:, 0].set(said),
        hidden=jnp.zeros((b, plan.new, width), prefix.dtype) if plan.states else None,
    )
    return _sharing(state, None), _view(plan.new, state)


@functools.cache
def advance() -> Any:
    """The jitted loop.

    On a CPU in vectors of 512 bits, where it has them: XLA prefers 256, and one core does not read
    a kernel as fast then in the product of one token.
    """
    options = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else None
    return jax.jit(_advance, static_argnums=0, donate_argnums=3, compiler_options=options)


def _advance(
    program: Program,
    leaves: list[Array],
    rules: Rules,
    state: State,
    until: Array,
    stopped: Array | None,
    shared: SharedPrefix | None,
) -> tuple[State, View]:
    decoder, plan = program.decoder(leaves), program.plan
    state = _sharing(state, shared)
    if stopped is not None and not plan.last:
        state = dataclasses.replace(state, done=state.done | stopped)

    def more(s: State) -> Array:
        return (s.read < until) & ~s.done.all()

    def read_and_choose(s: State) -> State:
        alive = ~s.done
        hidden, cache = read_token(decoder, s.token, alive, s.position, s.cache, plan.dtype)
        states = s.hidden
        if states is not None:
            kept = jnp.where(alive[:, None, None], hidden, jnp.zeros_like(hidden))
            states = jax.lax.dynamic_update_slice(states, kept, (0, s.read, 0))
        step = s.read + 1
        scores = decoder.logits(hidden)[:, 0]
        token, said, memory = choose(rules, plan.filters, scores, s.memory, step, plan.new - step)
        over = s.done if stopped is None else s.done | stopped
        token = jnp.where(over, rules.eos, token)
        said = jnp.where(over, 0.0, said)
        done = over | jnp.take(jnp.asarray(rules.ends), token)
        return State(
            read=step,
            token=token,
            position=s.position + 1,
            done=done,
            length=s.length + (~done).astype(jnp.int32),
            memory=memory,
            cache=cache,
            tokens=jax.lax.dynamic_update_slice(s.tokens, token[:, None], (0, step)),
            said=jax.lax.dynamic_update_slice(s.said, said[:, None], (0, step)),
            hidden=states,
        )

    state = jax.lax.while_loop(more, read_and_choose, state)
    return _sharing(state, None), _view(plan.new, state)


def _sharing(state: State, shared: SharedPrefix | None) -> State:
    """With another prefix of the cache."""
    return dataclasses.replace(state, cache=dataclasses.replace(state.cache, shared=shared))


def _view(new: int, state: State) -> View:
    return View(
        count=jnp.minimum(state.read + 1, new),
        tokens=state.tokens[:, :new],
        length=jnp.minimum(state.length, new),
        done=state.done,
        score=state.said[:, :new].sum(axis=1),
    )


@jax.jit
def cut(
    state: State, stopped: Bool[Any, " B"], length: Int[Any, " B"], eos: Int[Any, ""]
) -> tuple[State, View]:
    """The text as if samples that have stopped had said nothing from `length` on."""
    new = state.tokens.shape[1] - 1
    at = jnp.arange(new + 1, dtype=jnp.int32)[None, :]
    unsaid = stopped[:, None] & (at >= length[:, None])
    hidden = state.hidden
    if hidden is not None:
        hidden = jnp.where(unsaid[:, :new, None], jnp.zeros_like(hidden), hidden)
    read = state.cache.length - state.read + jnp.where(stopped, length, state.read)
    state = dataclasses.replace(
        state,
        length=jnp.where(stopped, length, state.length),
        tokens=jnp.where(unsaid, eos, state.tokens),
        said=jnp.where(unsaid, 0.0, state.said),
        hidden=hidden,
        cache=state.cache.forget(read),
    )
    return state, _view(new, state)
