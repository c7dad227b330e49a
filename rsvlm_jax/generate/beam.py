"""Beam search, step by step that of transformers.

    B samples x n hypotheses are rows b * n + i of one batch; the prompt is read once a sample.

    step t   log-probabilities [B, n, V] + running [B, n]
             -> the (1 + ends) * n best continuations, so that n of them do not end here
             -> those that end, if among the n best: into the n finished ones, by
                log-probability / (t + 1) ** length_penalty
             -> the n best of the others run on; their rows of the cache are gathered

A sample is settled when its n finished hypotheses are better than the best running one can become
(judged by its present length), or with `early_stopping` as soon as all samples have n of them.
-1e9 stands for "not in the running", as there, and sums with it are rounded as there.
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
from rsvlm_jax.nn import KVCache

from .engine import read_prompt, read_token
from .request import Plan, Program, Request
from .result import Generated
from .rules import Memory, Rules, permitted
from .sampling import Host

OUT = -1e9


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Search:
    """Running and finished hypotheses after `step` tokens.

    Attributes:
      tokens, score: of the running ones; sums of log-probabilities.
      best, best_score: of the finished ones, the score over the length to a power.
      best_sum: its numerator.
      finished: which of those are hypotheses at all.
      open: samples that can still become better.
      stuck: no continuation is left anywhere: the length is used up.
    """

    step: Int[Array, ""]
    tokens: Int[Array, "B n new"]
    score: Float[Array, "B n"]
    best: Int[Array, "B n new"]
    best_score: Float[Array, "B n"]
    best_sum: Float[Array, "B n"]
    finished: Bool[Array, "B n"]
    open: Bool[Array, " B"]
    stuck: Bool[Array, ""]
    position: Int[Array, " Bn"]
    memory: Memory
    cache: KVCache


def search(request: Request, length_penalty: float, early_stopping: bool) -> Generated:
    """The best hypothesis of each sample."""
    r = request
    return _search(
        r.program, r.leaves, r.rules, np.float32(length_penalty), np.bool_(early_stopping),
        r.prefix, r.valid, r.prompt_tokens, r.cache,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _search(
    program: Program,
    leaves: list[Array],
    rules: Rules,
    length_penalty: Host,
    early: Host,
    prefix: Array,
    valid: Array,
    prompt_tokens: Array | None,
    cache: KVCache | None,
) -> Generated:
    decoder, plan = program.decoder(leaves), program.plan
    b, n = prefix.shape[0], plan.beams
    hidden, position, cache = read_prompt(decoder, plan.slots, prefix, valid, cache)
    each = jnp.repeat(jnp.arange(b, dtype=jnp.int32), n)  # rows of one sample, n times
    empty = jnp.full((b, n, plan.new), rules.eos, jnp.int32)
    none = jnp.full((b, n), OUT, jnp.float32)
    first = Search(
        step=jnp.int32(0),
        tokens=empty,
        score=none.at[:, 0].set(0.0),  # else n times the same hypothesis
        best=empty,
        best_score=none,
        best_sum=none,
        finished=jnp.zeros((b, n), bool),
        open=jnp.ones((b,), bool),
        stuck=jnp.asarray(False),
        position=position[each],
        memory=Memory.start(rules, plan.filters, b, prompt_tokens).rows(each),
        cache=cache.rows(each),
    )

    def extend(s: Search, scores: Array) -> Search:
        return _extend(plan, rules, length_penalty, early, s, scores)

    def more(s: Search) -> Array:
        full = s.finished.all() & early
        return s.open.any() & ~full & ~s.stuck

    def read_and_extend(s: Search) -> Search:
        token = jax.lax.dynamic_index_in_dim(s.tokens, s.step - 1, axis=2, keepdims=False)
        alive = jnp.ones((b * n,), bool)
        hidden, cache = read_token(
            decoder, token.reshape(-1), alive, s.position, s.cache, plan.dtype
        )
        s = dataclasses.replace(s, cache=cache, position=s.position + 1)
        return extend(s, decoder.logits(hidden)[:, 0])

    start = extend(first, decoder.logits(hidden)[each, 0])
    end = jax.lax.while_loop(more, read_and_extend, start)
    tokens = end.best[:, 0]
    ended = jnp.take(jnp.asarray(rules.ends), tokens)
    at = jnp.arange(plan.new, dtype=jnp.int32)[None, :]
    length = jnp.where(ended, at, plan.new).min(axis=1)
    return Generated(
        tokens=jnp.where(at > length[:, None], rules.eos, tokens),
        length=length,
        score=end.best_sum[:, 0],
    )


def _extend(
    plan: Plan, rules: Rules, length_penalty: Any, early: Any, s: Search, scores: Array
) -> Search:
    """Every running hypothesis one token longer, from scores [B * n, V]."""
    b, n = s.score.shape
    vocabulary = scores.shape[1]
    keep = max(2, 1 + plan.ends) * n
    said = jax.nn.log_softmax(scores, axis=1)
    said = permitted(rules, said, s.memory, plan.new - s.step)
    total = said.reshape(b, n, vocabulary) + s.score[:, :, None]
    top, at = jax.lax.top_k(total.reshape(b, n * vocabulary), keep)
    parent, token = at // vocabulary, at % vocabulary
    tokens = jnp.take_along_axis(s.tokens, parent[:, :, None], axis=1)
    tokens = jax.lax.dynamic_update_slice(tokens, token[:, :, None], (0, 0, s.step))
    hits = jnp.take(jnp.asarray(rules.ends), token) | (s.step + 1 == plan.new)

    running, picked = jax.lax.top_k(jnp.where(hits, top + OUT, top), n)
    power = (s.step + 1).astype(jnp.float32) ** length_penalty
    ends_here = hits & (jnp.arange(keep) < n)[None, :]
    ranked = top / power
    ranked = jnp.where(s.finished.all(axis=1, keepdims=True) & early, ranked + OUT, ranked)
    ranked = jnp.where(s.open[:, None], ranked, ranked + OUT)
    ranked = jnp.where(ends_here, ranked, ranked + OUT)
    best_score, of = jax.lax.top_k(jnp.concatenate([s.best_score, ranked], axis=1), n)

    def finished(old: Array, new: Array) -> Array:
        both = jnp.concatenate([old, new], axis=1)
        return jnp.take_along_axis(both, of.reshape(b, n, *(1,) * (both.ndim - 2)), axis=1)

    done = finished(s.finished, ends_here)
    worst = jnp.where(done, best_score.min(axis=1, keepdims=True), OUT)
    hope = (running[:, :1] / power > worst).any(axis=1)

    beam = jnp.take_along_axis(parent, picked, axis=1)
    rows = (jnp.arange(b, dtype=jnp.int32)[:, None] * n + beam).reshape(-1)
    chosen = jnp.take_along_axis(token, picked, axis=1).reshape(-1)
    return Search(
        step=s.step + 1,
        tokens=jnp.take_along_axis(tokens, picked[:, :, None], axis=1),
        score=running,
        best=finished(s.best, tokens),
        best_score=best_score,
        best_sum=finished(s.best_sum, top),
        finished=done,
        open=s.open & hope,
        stuck=hits.all(),
        position=s.position,
        memory=s.memory.rows(rows).after(rules, chosen),
        cache=s.cache.rows(rows),
    )
