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
from .norm import RMSNorm
from .rope import Turns, rotate


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
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        width = d // heads if head_dim is None else head_dim
        d_q, d_kv = width * heads, width * self.kv_heads
        self.q = Linear(d, d_q, bias=bias, rngs=rngs)
        d_in = d if d_memory is None else d_memory
        self.k = Linear(d_in, d_kv, bias=bias, rngs=rngs)
        self.v = Linear(d_in, d_kv, bias=bias, rngs=rngs)
        self.o = Linear(d_q, d, bias=bias if o_bias is None else o_bias, rngs=rngs)
        self.q_norm = None if qk_norm is None else RMSNorm(width, eps=qk_norm, rngs=rngs)
        self.k_norm = None if qk_norm is None else RMSNorm(width, eps=qk_norm, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Lq D"],
        mask: Bool[Array, "#B #H #Lq Lk"] | None = None,
        *,
        memory: Float[Array, "B Lk M"] | None = None,
        turns: Turns | None = None,
    ) -> Float[Array, "B Lq D"]:
        """Self-attention with or without RoPE, or cross-attention onto `memory` (without)."""
        q, k, v = self._project(x, x if memory is None else memory, turns)
        return self._merge(attend(q, k, v, mask))

    def cached(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 L S"],
        k: Float[Array, "B S Hkv Dh"],
        v: Float[Array, "B S Hkv Dh"],
        at: Int[Array, " B"],
        *,
        turns: Turns | None = None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B S Hkv Dh"], Float[Array, "B S Hkv Dh"]]:
        """Self-attention over this layer's cache, into which `x` is written from slot `at` on."""
        q, k_new, v_new = self._project(x, x, turns)
        k, v = write_slots(k, k_new, at), write_slots(v, v_new, at)
        return self._merge(attend(q, k.astype(q.dtype), v.astype(q.dtype), mask)), k, v

    def _project(self, x: Array, memory: Array, turns: Turns | None) -> tuple[Array, Array, Array]:
        q = self._split(self.q(x), self.heads)
        k = self._split(self.k(memory), self.kv_heads)
        v = self._split(self.v(memory), self.kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        return q, k, v

    def _split(self, x: Array, heads: int) -> Array:
        x = x.reshape(*x.shape[:2], heads, x.shape[2] // heads)
        return constrain(x, "batch", "length", "heads", None)

    def _merge(self, x: Array) -> Array:
        return self.o(x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]))
