"""The decoder of any config."""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import DecoderConfig, GPT2Config
from rsvlm_jax.config.training import Remat

from .gpt2 import GPT2
from .llama import Llama


def language_model(config: DecoderConfig, *, remat: Remat = "none", rngs: nnx.Rngs) -> Llama | GPT2:
    """Build it.

    Args:
      remat: what of each layer's activations is kept for the backward pass.
    """
    if isinstance(config, GPT2Config):
        return GPT2(config, remat=remat, rngs=rngs)
    return Llama(config, remat=remat, rngs=rngs)
