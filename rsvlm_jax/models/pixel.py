"""The `pixel` front: one linear token for each date of a band set that never becomes a frame.

    Observation [B,T,C,H,W] -> masked window mean [B,T,C] -> z-score, missing flag -> [B,T,Dv]

For weather, terrain, index series and point series. A band without a valid pixel enters as 0 with
its flag set; a date without any is not valid.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import BandSetSpec
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.nn import Linear, Stat


class PixelFront(nnx.Module):
    """One token a date.

    Args:
      spec: the band set; scale and offset are applied here.
      width: Dv.
    """

    def __init__(self, spec: BandSetSpec, width: int, *, rngs: nnx.Rngs) -> None:
        bands = len(spec.bands)
        self.spec = spec
        self.mean = Stat(jnp.zeros((bands,), jnp.float32))
        self.std = Stat(jnp.ones((bands,), jnp.float32))
        self.project = Linear(2 * bands, width, rngs=rngs)

    def set_stats(self, mean: Float[Array, " C"], std: Float[Array, " C"]) -> None:
        """Statistics of the bands over the training split, in physical units."""
        self.mean[...], self.std[...] = mean, std

    def __call__(self, obs: Observation) -> tuple[Float[Array, "B T Dv"], Bool[Array, "B T"]]:
        values = obs.physical(self.spec)
        valid = jnp.broadcast_to(obs.valid, values.shape)
        count = valid.sum(axis=(3, 4), dtype=jnp.float32)
        there = count > 0
        mean = values.sum(axis=(3, 4)) / jnp.maximum(count, 1.0)
        z = (mean - self.mean[...][None, None]) / self.std[...][None, None]
        z = jnp.where(there, z, 0.0)
        missing = (~there).astype(jnp.float32)
        return self.project(jnp.concatenate([z, missing], axis=-1)), there.any(axis=2)
