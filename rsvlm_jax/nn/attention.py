"""Multi-head and grouped-query attention, for self- and cross-attention, with or without RoPE.

    x [B,Lq,D] -> q -> [B,Lq,H,Dh] ----+
                                       attend -> [B,Lq,H,Dh] -> o -> [B,Lq,D]
    x or memory [B,Lk,D] -> k,v [B,Lk,Hkv,Dh]

The products are plain einsums; fused kernels are a matter of the backend, not of this file.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.mesh.constraints import constrain

from .cache import write_slots
from .linear import Linear
from .rope import rope


def attend(
    q: Float[Array, "B Lq H Dh"],
    k: Float[Array, "B Lk Hkv Dh"],
    v: Float[Array, "B Lk Hkv Dh"],
    mask: Bool[Array, "#B #H #Lq Lk"] | None = None,
) -> Float[Array, "B Lq H Dh"]:
    """Scaled dot-product attention, softmax in float32.

    Heads are grouped: query head h reads key head `h // (H // Hkv)`, as in Hugging Face's Llama.
    A row whose keys are all masked gives zeros, with finite gradients.
    """
    heads, kv_heads = q.shape[2], k.shape[2]
    q = q.reshape(*q.shape[:2], kv_heads, heads // kv_heads, q.shape[3])
    scores = jnp.einsum("bqhgd,bkhd->bhgqk", q, k, preferred_element_type=jnp.float32)
    scores = scores * (q.shape[-1] ** -0.5)
    if mask is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        if mask.shape[1] == 1:
            mask = mask[:, :, None]
        else:
            mask = mask.reshape(mask.shape[0], kv_heads, heads // kv_heads, *mask.shape[2:])
        # A finite floor, not -inf: where all keys are masked, -inf gives NaN in both directions.
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        weights = jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)
    out = jnp.einsum("bhgqk,bkhd->bqhgd", weights.astype(v.dtype), v)
    return out.reshape(*out.shape[:2], heads, out.shape[-1])


class Attention(nnx.Module):
    """Projections around `attend`.

    Args:
      d: width in and out; `d / heads` is the width of a head.
      kv_heads: of keys and values; as many as `heads` unless given.
      bias: of all four projections.
      rope_theta: base of the rotary embedding; None for none.
    """

    def __init__(
        self,
        d: int,
        heads: int,
        kv_heads: int | None = None,
        *,
        bias: bool = True,
        rope_theta: float | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.rope_theta = rope_theta
        d_kv = d // heads * self.kv_heads
        self.q = Linear(d, d, bias=bias, rngs=rngs)
        self.k = Linear(d, d_kv, bias=bias, rngs=rngs)
        self.v = Linear(d, d_kv, bias=bias, rngs=rngs)
        self.o = Linear(d, d, bias=bias, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Lq D"],
        mask: Bool[Array, "#B #H #Lq Lk"] | None = None,
        *,
        memory: Float[Array, "B Lk D"] | None = None,
        position: Int[Array, "B Lq"] | None = None,
    ) -> Float[Array, "B Lq D"]:
        """Self-attention, or cross-attention onto `memory` (which takes no RoPE)."""
        q, k, v = self._project(x, x if memory is None else memory, position)
        return self._merge(attend(q, k, v, mask))

    def cached(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 L S"],
        position: Int[Array, "B L"],
        k: Float[Array, "B S Hkv Dh"],
        v: Float[Array, "B S Hkv Dh"],
        at: Int[Array, " B"],
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B S Hkv Dh"], Float[Array, "B S Hkv Dh"]]:
        """Self-attention over this layer's cache, into which `x` is written from slot `at` on."""
        q, k_new, v_new = self._project(x, x, position)
        k, v = write_slots(k, k_new, at), write_slots(v, v_new, at)
        return self._merge(attend(q, k.astype(q.dtype), v.astype(q.dtype), mask)), k, v

    def _project(
        self, x: Array, memory: Array, position: Array | None
    ) -> tuple[Array, Array, Array]:
        q = self._split(self.q(x), self.heads)
        k = self._split(self.k(memory), self.kv_heads)
        v = self._split(self.v(memory), self.kv_heads)
        if self.rope_theta is not None and position is not None:
            q, k = rope(q, position, self.rope_theta), rope(k, position, self.rope_theta)
        return q, k, v

    def _split(self, x: Array, heads: int) -> Array:
        x = x.reshape(*x.shape[:2], heads, x.shape[2] // heads)
        return constrain(x, "batch", "length", "heads", None)

    def _merge(self, x: Array) -> Array:
        return self.o(x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]))
