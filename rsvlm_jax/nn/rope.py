"""Rotary position embedding in Hugging Face's half-split convention.

Feature i of the first half of a head turns with feature i of the second half:

    head   [ a0 a1 a2 a3 | b0 b1 b2 b3 ]      angle of pair (ai, bi) = position * theta^(-i / 4)

Checkpoints in the original Llama layout (adjacent pairs a0 b0 a1 b1 ...) are permuted when they are
imported (`rsvlm_jax.interop`), never here.
"""

from __future__ import annotations

import jax.numpy as jnp

from rsvlm_jax.core.shapes import Array, Float, Int


def rope(
    x: Float[Array, "B L H Dh"], position: Int[Array, "B L"], theta: float
) -> Float[Array, "B L H Dh"]:
    """Turn each pair of `x` by its position (Su et al. 2021, eq. 34); angles in float32."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position.astype(jnp.float32)[:, :, None, None] * frequency[None, None, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
