"""Attention block by block: memory grows with Lq + Lk, not with their product.

    for each block of queries:      for each block of keys that it reads:     (online softmax)
        scores [.., bq, bk] -> top, total and weighted sum of the values so far
    out = sum / total;  lse = top + log(total)                                kept: out, lse

Backward, scores are computed a second time from `lse` (Dao 2023): for each block of keys, the
blocks of queries that read it. Blocks that a causal mask or a window leaves out are not computed.
Written in plain JAX, so that it runs wherever there is no kernel of the platform's own; numbers as
`plain` to rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from rsvlm_jax.core.shapes import Array, Float, Int
from rsvlm_jax.nn.masks import Mask

BLOCK = 256
"""Queries, and keys, of a block: on a CPU faster than 512, and less memory."""

FLOOR = float(jnp.finfo(jnp.float32).min)


class Where(NamedTuple):
    """Segments in blocks, and the number of the first query in its row."""

    query: Int[Array, "nq B bq"] | None
    key: Int[Array, "nk B bk"] | None
    offset: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known before there are numbers.

    Attributes:
      rule: a mask without segments.
      queries, keys: Lq and Lk, without padding.
      bq, bk: of a block.
      name: of what the backward pass needs, for `jax.checkpoint`.
    """

    rule: Mask
    queries: int
    keys: int
    bq: int
    bk: int
    name: str

    @property
    def blocks_q(self) -> int:
        return -(-self.queries // self.bq)

    @property
    def blocks_k(self) -> int:
        return -(-self.keys // self.bk)

    def keys_of(self, i: Array, offset: Array) -> tuple[Array | int, Array | int]:
        """First and end of the blocks of keys that a block of queries reads."""
        if not self.rule.causal:
            return 0, self.blocks_k
        last = offset + (i + 1) * self.bq - 1
        end = jnp.minimum(last // self.bk + 1, self.blocks_k)
        if self.rule.window is None:
            return 0, end
        return jnp.maximum(offset + i * self.bq - self.rule.window + 1, 0) // self.bk, end

    def queries_of(self, j: Array, offset: Array) -> tuple[Array | int, Array | int]:
        """First and end of the blocks of queries that read a block of keys."""
        if not self.rule.causal:
            return 0, self.blocks_q
        first = jnp.clip((j * self.bk - offset) // self.bq, 0, self.blocks_q)
        if self.rule.window is None:
            return first, self.blocks_q
        last = (j + 1) * self.bk - 1 + self.rule.window - 1 - offset
        return first, jnp.clip(last // self.bq + 1, 0, self.blocks_q)

    def allowed(self, where: Where, i: Array, j: Array) -> Array | None:
        """[#B,1,1,bq,bk]; None: all of the block."""
        padded = self.keys % self.bk != 0
        if where.key is None and not self.rule.causal and not padded:
            return None
        row = where.offset + i * self.bq + jnp.arange(self.bq, dtype=jnp.int32)
        column = j * self.bk + jnp.arange(self.bk, dtype=jnp.int32)
        query = None if where.query is None else where.query[i]
        key = None if where.key is None else where.key[j]
        table = self.rule.part(query, key, row, column)
        if padded:
            table = table & (column < self.keys)[None, None, :]
        return table[:, None, None]


def chunked(
    q: Float[Array, "B Lq H Dh"],
    k: Float[Array, "B Lk Hkv Dh"],
    v: Float[Array, "B Lk Hkv Dh"],
    mask: Mask,
    *,
    offset: Int[Array, ""] | int = 0,
    block_q: int = BLOCK,
    block_k: int = BLOCK,
    name: str = "context",
) -> Float[Array, "B Lq H Dh"]:
    """As `attend`.

    Args:
      offset: number of the first query in its row, where `q` and `mask.query` are a part of it; the
        segments of all keys are in `mask.key` then.
      block_q, block_k: of queries and keys; lengths that they do not divide are padded.
      name: `checkpoint_name` of what the backward pass needs.
    """
    b, length, heads, width = q.shape
    kv_heads, group = k.shape[2], heads // k.shape[2]
    plan = Plan(
        rule=Mask(causal=mask.causal, window=mask.window),
        queries=length,
        keys=k.shape[1],
        bq=min(block_q, length),
        bk=min(block_k, k.shape[1]),
        name=name,
    )
    key = mask.query if mask.key is None else mask.key
    where = Where(
        query=None if mask.query is None else _blocks(mask.query, plan.bq),
        key=None if key is None else _blocks(key, plan.bk),
        offset=jnp.asarray(offset, jnp.int32),
    )
    q = _blocks(q, plan.bq).reshape(-1, b, plan.bq, kv_heads, group, width)
    q = q.transpose(0, 1, 3, 4, 2, 5)  # nq B Hkv G bq Dh
    k, v = (_blocks(x, plan.bk).transpose(0, 1, 3, 2, 4) for x in (k, v))  # nk B Hkv bk Dh
    out: Array = _attend(plan, q, k, v, where)
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(b, -1, heads, width)
    return out[:, :length]


def _blocks(x: Array, size: int) -> Array:
    """[B, L, ..] as [L / size, B, size, ..], padded with zeros."""
    more = -x.shape[1] % size
    if more:
        x = jnp.pad(x, [(0, more if axis == 1 else 0) for axis in range(x.ndim)])
    return x.reshape(x.shape[0], -1, size, *x.shape[2:]).swapaxes(0, 1)


def _scores(plan: Plan, q: Array, k: Array) -> Float[Array, "B Hkv G bq bk"]:
    scores = jnp.einsum("bhgqd,bhkd->bhgqk", q, k, preferred_element_type=jnp.float32)
    return scores * (q.shape[-1] ** -0.5)


class Kept(NamedTuple):
    """For the backward pass, in blocks."""

    q: Array
    k: Array
    v: Array
    where: Where
    out: Array
    lse: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, q: Array, k: Array, v: Array, where: Where) -> Array:
    return _forward(plan, q, k, v, where)[0]


def _forward(plan: Plan, q: Array, k: Array, v: Array, where: Where) -> tuple[Array, Array]:
    """Weighted sums of the values, and the logarithm of the total; 0 where nothing is read."""

    def of_queries(_: None, i: Array) -> tuple[None, tuple[Array, Array]]:
        qi = q[i]

        def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, acc = carry
            scores, allowed = _scores(plan, qi, k[j]), plan.allowed(where, i, j)
            if allowed is not None:
                scores = jnp.where(allowed, scores, FLOOR)
            higher = jnp.maximum(top, scores.max(axis=-1))
            weights = jnp.exp(scores - higher[..., None])
            if allowed is not None:
                weights = jnp.where(allowed, weights, 0.0)
            shrink = jnp.exp(top - higher)
            more = jnp.einsum(
                "bhgqk,bhkd->bhgqd", weights.astype(v.dtype), v[j],
                preferred_element_type=jnp.float32,
            )  # fmt: skip
            total = total * shrink + weights.sum(axis=-1)
            return higher, total, acc * shrink[..., None] + more

        top = jnp.full(qi.shape[:-1], FLOOR, jnp.float32)
        start = top, jnp.zeros_like(top), jnp.zeros(qi.shape, jnp.float32)
        first, end = plan.keys_of(i, where.offset)
        top, total, acc = lax.fori_loop(first, end, step, start)
        some = total > 0
        total = jnp.where(some, total, 1.0)
        out = (acc / total[..., None]).astype(q.dtype)
        return None, (out, jnp.where(some, top + jnp.log(total), 0.0))

    index = jnp.arange(plan.blocks_q, dtype=jnp.int32)
    return lax.scan(of_queries, None, index)[1]


def _attend_forward(plan: Plan, q: Array, k: Array, v: Array, where: Where) -> tuple[Array, Kept]:
    out, lse = (checkpoint_name(x, plan.name) for x in _forward(plan, q, k, v, where))
    return out, Kept(q, k, v, where, out, lse)


def _attend_backward(plan: Plan, kept: Kept, d_out: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, where, out, lse = jax.tree.map(jnp.asarray, kept)  # constants may come as NumPy's
    f32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    inner = f32("nbhgqd,nbhgqd->nbhgq", d_out.astype(jnp.float32), out.astype(jnp.float32))

    def of_keys(dq: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        kj, vj = k[j], v[j]

        def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq, dk, dv = carry
            qi, doi = q[i], d_out[i]
            scores, allowed = _scores(plan, qi, kj), plan.allowed(where, i, j)
            weights = jnp.exp(scores - lse[i][..., None])
            if allowed is not None:
                weights = jnp.where(allowed, weights, 0.0)
            dv = dv + f32("bhgqk,bhgqd->bhkd", weights.astype(doi.dtype), doi)
            d_weights = f32("bhgqd,bhkd->bhgqk", doi, vj)
            d_scores = weights * (d_weights - inner[i][..., None]) * (qi.shape[-1] ** -0.5)
            d_scores = d_scores.astype(qi.dtype)
            dk = dk + f32("bhgqk,bhgqd->bhkd", d_scores, qi)
            dqi = lax.dynamic_index_in_dim(dq, i, keepdims=False)
            dqi = dqi + f32("bhgqk,bhkd->bhgqd", d_scores, kj)
            return lax.dynamic_update_index_in_dim(dq, dqi, i, axis=0), dk, dv

        zeros = jnp.zeros(kj.shape, jnp.float32)
        first, end = plan.queries_of(j, where.offset)
        dq, dk, dv = lax.fori_loop(first, end, step, (dq, zeros, zeros))
        return dq, (dk.astype(k.dtype), dv.astype(v.dtype))

    index = jnp.arange(plan.blocks_k, dtype=jnp.int32)
    dq, (dk, dv) = lax.scan(of_keys, jnp.zeros(q.shape, jnp.float32), index)
    return dq.astype(q.dtype), dk, dv, None


_attend.defvjp(_attend_forward, _attend_backward)
