"""The decoder of any config."""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import DecoderConfig, GPT2Config

from .gpt2 import GPT2
from .llama import Llama


def language_model(config: DecoderConfig, *, remat: bool = False, rngs: nnx.Rngs) -> Llama | GPT2:
    """Build it.

    Args:
      remat: recompute the activations of each layer in the backward pass.
    """
    if isinstance(config, GPT2Config):
        return GPT2(config, remat=remat, rngs=rngs)
    return Llama(config, remat=remat, rngs=rngs)
