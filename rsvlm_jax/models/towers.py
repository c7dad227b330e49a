"""The vision tower of any config: `images [F,H,W,3] -> tokens [F,P,Dv]`.

P is `config.tokens` and Dv `config.out_width`, known before anything is built.
"""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import MixedConfig, VisionConfig
from rsvlm_jax.config.training import Remat

from .mixed import MixedTower, SingleTower, single_tower

VisionTower = SingleTower | MixedTower


def vision_tower(config: VisionConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> VisionTower:
    """Build it.

    Args:
      remat: what of each layer's activations is kept for the backward pass.
    """
    if isinstance(config, MixedConfig):
        return MixedTower(config, remat=remat, rngs=rngs)
    return single_tower(config, remat=remat, rngs=rngs)
