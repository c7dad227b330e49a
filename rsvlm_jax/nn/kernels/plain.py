"""Attention as two products with a softmax between: scores of [B, H, Lq, Lk] are written down."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rsvlm_jax.core.shapes import Array, Bool, Float


def plain(
    q: Float[Array, "B Lq H Dh"],
    k: Float[Array, "B Lk Hkv Dh"],
    v: Float[Array, "B Lk Hkv Dh"],
    mask: Bool[Array, "#B #H #Lq Lk"] | None = None,
) -> Float[Array, "B Lq H Dh"]:
    """As `attend`, of a table."""
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
