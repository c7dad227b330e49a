"""Two towers on the same frames (EarthGPT: DINOv2 and ConvNeXt), their tokens joined by channels.

    images [F,H,W,3] --resize--------------------> first  -> [F,P,D1] -----------------------+
         \\--resize, normalised as the second's--> second -> [F,p,D2] --resize the grid--> [F,P,D2]
                                                                                             |
                                                                                       [F,P,D1+D2]

Frames arrive normalised by the mean and std of the first tower. Every resizing is bilinear and
antialiased. Gradients reach both towers and the frames.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import (
    ConvNextConfig,
    Dinov2Config,
    MixedConfig,
    SiglipConfig,
    ViTConfig,
)
from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.nn.linear import expand_last

from .clip_vit import CLIPVisionTower
from .convnext import ConvNextTower, resized
from .dinov2 import Dinov2Tower
from .siglip import SiglipVisionTower

SingleTower = CLIPVisionTower | SiglipVisionTower | Dinov2Tower | ConvNextTower


def single_tower(
    config: ViTConfig | SiglipConfig | Dinov2Config | ConvNextConfig,
    *,
    remat: Remat = "none",
    rngs: nnx.Rngs,
) -> SingleTower:
    """One tower, by its config."""
    match config:
        case ViTConfig():
            return CLIPVisionTower(config, remat=remat, rngs=rngs)
        case SiglipConfig():
            return SiglipVisionTower(config, remat=remat, rngs=rngs)
        case Dinov2Config():
            return Dinov2Tower(config, remat=remat, rngs=rngs)
        case ConvNextConfig():
            return ConvNextTower(config, remat=remat, rngs=rngs)


class MixedTower(nnx.Module):
    """Two towers; their parameters stand under `first/` and `second/`."""

    def __init__(self, config: MixedConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        self.config = config
        self.first = single_tower(config.first, remat=remat, rngs=rngs)
        self.second = single_tower(config.second, remat=remat, rngs=rngs)

    def __call__(self, images: Float[Array, "F H W 3"]) -> Float[Array, "F P Dv"]:
        a, b = self.config.first, self.config.second
        x = self.first(resized(images, a.image_size, a.image_size))
        # (frame * std_a + mean_a - mean_b) / std_b, in float32 before it is rounded.
        std = np.asarray(b.std, np.float32)
        scale = np.asarray(a.std, np.float32) / std
        shift = (np.asarray(a.mean, np.float32) - np.asarray(b.mean, np.float32)) / std
        frames = resized(images, b.image_size, b.image_size).astype(jnp.float32)
        frames = frames * expand_last(jnp.asarray(scale), frames)
        frames = frames + expand_last(jnp.asarray(shift), frames)
        y = self.second(frames.astype(images.dtype))
        y = resized(y.reshape(y.shape[0], *b.grid, y.shape[2]), *a.grid)
        return jnp.concatenate([x, y.reshape(y.shape[0], -1, y.shape[3])], axis=2)
