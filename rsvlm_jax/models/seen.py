"""Layers and means over tokens of which only some are seen; no value of the others matters."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.mesh.constraints import constrain
from rsvlm_jax.nn import Mask, scan

from .clip_vit import ViTBlock


def run_seen(
    layers: nnx.Module, x: Float[Array, "B N Dv"], seen: Bool[Array, "B N"], *, remat: Remat
) -> Float[Array, "B N Dv"]:
    """Blocks of `ViTBlock` in which only what is seen is read; 0 where it is not."""
    mask = Mask.keys(seen)

    def block(layer: ViTBlock, x: Array) -> tuple[Array, None]:
        return constrain(layer(x, mask), "batch", "length", "embed"), None

    x, _ = scan(layers, block, x, remat=remat)
    return jnp.where(seen[:, :, None], x, jnp.zeros_like(x))


def masked_mean(
    x: Float[Array, "*shape S Dv"], seen: Bool[Array, "*shape S"]
) -> Float[Array, "*shape Dv"]:
    """The mean of the seen vectors, in float32; 0 where there is none."""
    total = jnp.where(seen[..., None], x.astype(jnp.float32), 0.0).sum(axis=-2)
    count = seen.sum(axis=-1, dtype=jnp.float32)[..., None]
    return (total / jnp.maximum(count, 1.0)).astype(x.dtype)
