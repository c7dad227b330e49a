"""The `rgb` front of one band set: plan, statistics and stretch in one module.

Observation [B,T,C,H,W] -> images [B,T*G,S,S,3], valid [B,T,G,cells of the tower's grid]
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import (
    BandSetSpec,
    ConvNextConfig,
    MixedConfig,
    SpectralConfig,
    VisionConfig,
)
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.models.planes import composite, plane_count
from rsvlm_jax.nn import Stat

from .encoder_input import FrameStats, patch_valid, to_encoder
from .plan import make_plan
from .recombine import recombine


class SpectralFront(nnx.Module):
    """Recombination and normalisation; no parameters, only statistics.

    Until `set_stats` is called, frames pass in physical units.
    """

    def __init__(self, spec: BandSetSpec, config: SpectralConfig, vision: VisionConfig) -> None:
        self.config, self.vision = config, vision
        self.plan = make_plan(spec, config)
        shape = (len(self.plan.groups), 3)
        self.mean = Stat(jnp.zeros(shape, jnp.float32))
        self.std = Stat(jnp.ones(shape, jnp.float32))
        self.low = Stat(jnp.zeros(shape, jnp.float32))
        self.high = Stat(jnp.ones(shape, jnp.float32))

    def set_stats(self, stats: FrameStats) -> None:
        """Statistics of the training split (`frame_stats`)."""
        self.mean[...], self.std[...] = stats.mean, stats.std
        self.low[...], self.high[...] = stats.low, stats.high

    def __call__(
        self, obs: Observation
    ) -> tuple[Float[Array, "B TG S S 3"], Bool[Array, "B T G P"]]:
        frames = recombine(obs, self.plan)
        stats = FrameStats(self.mean[...], self.std[...], self.low[...], self.high[...])
        vision = self.vision
        images = to_encoder(
            frames,
            stats,
            vision.image_size,
            stretch=self.config.stretch,
            mean=vision.mean,
            std=vision.std,
        )
        valid = patch_valid(frames, vision.image_size, cell_size(vision))
        b, t, g, _ = valid.shape
        return images.reshape(b, t * g, *images.shape[1:]), valid

    @property
    def plane_count(self) -> int:
        """F of `planes`."""
        return plane_count(3 * len(self.plan.groups), len(self.plan.groups))

    def planes(self, obs: Observation) -> Float[Array, "B H W F"]:
        """The recombined pixels as a dense head reads them, unstretched, in their own size."""
        frames = recombine(obs, self.plan)
        mean, std = (x[...][None, None, :, None, None] for x in (self.mean, self.std))
        z = jnp.moveaxis((frames.pixels - mean) / std, 5, 3)
        b, t, g, _, h, w = z.shape
        return composite(z.reshape(b, t, g * 3, h, w), frames.valid)


def cell_size(vision: VisionConfig) -> int:
    """Edge in pixels of a cell of the tower's grid (`vision.grid`): its patch, or its stride."""
    if isinstance(vision, MixedConfig):
        return cell_size(vision.first)
    if isinstance(vision, ConvNextConfig):
        return vision.patch_size * 2 ** max(vision.stage_of(vision.feature_stages[0]) - 1, 0)
    return vision.patch_size
