"""Resamplers: the tokens of one frame to fewer of them, `[F,P,Dv] -> [F,P',Dr]`.

    pixel_shuffle   squares of neighbours become one wide token; no parameters
    qformer         BLIP-2's querying transformer
    perceiver       queries of their own for each feature layer of the tower

They work frame by frame, before the fusion of dates. P' is `VLMConfig.frame_tokens` and Dr
`VLMConfig.frame_width`, known before anything is built.
"""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import (
    PerceiverConfig,
    PixelShuffleConfig,
    QFormerConfig,
    ResamplerConfig,
    VisionConfig,
)
from rsvlm_jax.config.training import Remat

from .perceiver import Perceiver
from .pixel_shuffle import PixelShuffle
from .qformer import Blip2QFormer, QFormer

Resampler = PixelShuffle | QFormer | Perceiver


def build_resampler(
    config: ResamplerConfig, vision: VisionConfig, *, remat: Remat = "none", rngs: nnx.Rngs
) -> Resampler:
    """The resampler that reads this tower.

    Args:
      remat: what of each layer's activations is kept for the backward pass.
    """
    match config:
        case PixelShuffleConfig():
            return PixelShuffle(config, vision.grid)
        case QFormerConfig():
            return QFormer(config, vision.out_width, remat=remat, rngs=rngs)
        case PerceiverConfig():
            return Perceiver(config, vision.out_width, remat=remat, rngs=rngs)


__all__ = [
    "Blip2QFormer",
    "Perceiver",
    "PixelShuffle",
    "QFormer",
    "Resampler",
    "build_resampler",
]
