"""Multi-head and grouped-query attention, for self- and cross-attention, with or without RoPE.

    x [B,Lq,D] -> q -> [B,Lq,H,Dh] ----+
                                       attend -> [B,Lq,H,Dh] -> o -> [B,Lq,D]
    x or memory [B,Lk,D] -> k,v [B,Lk,Hkv,Dh]

What computes `attend` is the matter of `rsvlm_jax.nn.kernels`. In decoding keys and values stand in
slots (`rsvlm_jax.nn.slots`): those of each row, and before them those of a prefix that all rows
share, under one softmax.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from rsvlm_jax.config.training import AttentionKernel
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import constrain

from .kernels import attend
from .linear import Linear
from .masks import Mask
from .norm import RMSNorm
from .rope import Turns, rotate
from .slots import Slots


class Readable(NamedTuple):
    """One layer's slots, those of each row or `common` ones, and which a query may read."""

    slots: Slots
    mask: Bool[Array, "#B 1 #L S"]
    common: bool = False


def attend_slots(q: Float[Array, "B L H Dh"], *parts: Readable) -> Float[Array, "B L H Dh"]:
    """`attend` over slots that stand in several places, under one softmax.

    A common part is read once for all rows: its product has the queries of all of them.
    """
    b, length, heads, _ = q.shape
    scores = [_scores(q, part) for part in parts]
    masks = [part.mask[:, :, :, None] for part in parts]
    floor = jnp.finfo(jnp.float32).min
    scores = [jnp.where(m, s, floor) for m, s in zip(masks, scores, strict=True)]
    top = [s.max(axis=-1, keepdims=True) for s in scores]
    top = jax.lax.stop_gradient(jnp.max(jnp.stack(top), axis=0))
    raised = [jnp.where(m, jnp.exp(s - top), 0.0) for m, s in zip(masks, scores, strict=True)]
    total = sum(r.sum(axis=-1, keepdims=True) for r in raised)
    total = jnp.where(total > 0, total, 1.0)
    out = [_mix(r / total, part, q.dtype) for r, part in zip(raised, parts, strict=True)]
    out = sum(out[1:], out[0])
    return out.transpose(0, 2, 1, 3, 4).reshape(b, length, heads, out.shape[-1])


def _scores(q: Array, part: Readable) -> Float[Array, "B Hkv L G S"]:
    slots, (b, length, heads, width) = part.slots, q.shape
    kv_heads = slots.heads(1 if part.common else b)
    q = q.reshape(b, length, kv_heads, heads // kv_heads, width)
    k = slots.k.astype(q.dtype)
    if part.common:
        k = k.reshape(kv_heads, width, -1)
        scores = jnp.einsum("blhgd,hds->hblgs", q, k, preferred_element_type=jnp.float32)
        scores = scores.swapaxes(0, 1)
    else:
        q = q.transpose(0, 2, 1, 3, 4)
        rows = q.reshape(*k.shape[:-2], -1, width)
        scores = jnp.matmul(rows, k, preferred_element_type=jnp.float32)
        scores = scores.reshape(*q.shape[:4], -1)
    scores = scores * (width**-0.5)
    return scores if slots.k_scale is None else scores * _by_head(slots.k_scale, scores)


def _mix(weights: Float[Array, "B Hkv L G S"], part: Readable, dtype: jnp.dtype) -> Array:
    """Weighted sums of the values, [B,Hkv,L,G,Dh]."""
    slots = part.slots
    if slots.v_scale is not None:
        weights = weights * _by_head(slots.v_scale, weights)
    weights, v = weights.astype(dtype), slots.v.astype(dtype)
    if part.common:
        v = v.reshape(-1, *v.shape[-2:])
        return jnp.einsum("bhlgs,hsd->hblgd", weights, v).swapaxes(0, 1)
    made = jnp.matmul(weights.reshape(*v.shape[:-2], -1, v.shape[-2]), v)
    return made.reshape(*weights.shape[:4], -1)


def _by_head(scale: Array, like: Array) -> Float[Array, "#B Hkv 1 1 S"]:
    return scale.reshape(-1, like.shape[1], 1, 1, like.shape[-1])


class Attention(nnx.Module):
    """Projections around `attend`.

    Args:
      d: width in and out.
      kv_heads: of keys and values; as many as `heads` unless given.
      head_dim: width of a head; `d / heads` unless given.
      d_memory: width of the memory of a cross-attention; d unless given.
      bias: of the projections of q, k and v, and of o unless `o_bias` says otherwise.
      qk_norm: epsilon of an RMSNorm over each query and key head, before RoPE (Qwen3); None: none.
    """

    def __init__(
        self,
        d: int,
        heads: int,
        kv_heads: int | None = None,
        *,
        head_dim: int | None = None,
        d_memory: int | None = None,
        bias: bool = True,
        o_bias: bool | None = None,
        qk_norm: float | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel: AttentionKernel = "auto"
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        width = d // heads if head_dim is None else head_dim
        d_q, d_kv = width * heads, width * self.kv_heads
        d_in, into = d if d_memory is None else d_memory, ("embed", "heads")
        self.q = Linear(d, d_q, bias=bias, axes=into, rngs=rngs)
        self.k = Linear(d_in, d_kv, bias=bias, axes=into, rngs=rngs)
        self.v = Linear(d_in, d_kv, bias=bias, axes=into, rngs=rngs)
        o_bias = bias if o_bias is None else o_bias
        self.o = Linear(d_q, d, bias=o_bias, axes=("heads", "embed"), rngs=rngs)
        self.q_norm = None if qk_norm is None else RMSNorm(width, eps=qk_norm, rngs=rngs)
        self.k_norm = None if qk_norm is None else RMSNorm(width, eps=qk_norm, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Lq D"],
        mask: Mask | Bool[Array, "#B #H #Lq Lk"] | None = None,
        *,
        memory: Float[Array, "B Lk M"] | None = None,
        turns: Turns | None = None,
    ) -> Float[Array, "B Lq D"]:
        """Self-attention with or without RoPE, or cross-attention onto `memory` (without)."""
        q, k, v = self._project(x, x if memory is None else memory, turns)
        q, k, v = (checkpoint_name(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
        return self._merge(attend(q, k, v, mask, kernel=self.kernel))

    def cached(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 L S"],
        slots: Slots,
        at: Int[Array, ""],
        *,
        layer: Int[Array, ""] | int | None = None,
        prefix: Readable | None = None,
        turns: Turns | None = None,
    ) -> tuple[Float[Array, "B L D"], Slots]:
        """Self-attention over slots, into which `x` is written from slot `at` on.

        Args:
          layer: which layer of a stack of slots this is; None where they are of one layer.
          prefix: slots of one row that all rows read too.
        """
        q, k, v = self._project(x, x, turns)
        slots = slots.write(k, v, at, layer)
        own = Readable(slots if layer is None else slots.layer(layer), mask)
        made = attend_slots(q, own) if prefix is None else attend_slots(q, prefix, own)
        return self._merge(made), slots

    def _project(self, x: Array, memory: Array, turns: Turns | None) -> tuple[Array, Array, Array]:
        q = self._split(self.q(x), self.heads)
        k = self._split(self.k(memory), self.kv_heads)
        v = self._split(self.v(memory), self.kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        whole = ("batch", None, "heads", None)  # every query reads all of its sequence
        return q, constrain(k, *whole), constrain(v, *whole)

    def _split(self, x: Array, heads: int) -> Array:
        x = x.reshape(*x.shape[:2], heads, x.shape[2] // heads)
        return constrain(x, "batch", "length", "heads", None)

    def _merge(self, x: Array) -> Array:
        return self.o(x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]))


def use_kernel(model: nnx.Module, kernel: AttentionKernel) -> None:
    """Let every `Attention` of a model use a kernel; "auto", which is what they do, is the rule."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Attention):
            module.kernel = kernel
