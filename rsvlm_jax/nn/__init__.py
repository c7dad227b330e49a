"""Layers: plain Flax NNX modules without mesh, sharding metadata or hidden random state.

    variables   Stat: saved, never trained
    linear      Linear, Embed            norm    LayerNorm, RMSNorm
    mlp         Mlp, SwiGLU              rope    rope (half-split)
    attention   attend, Attention        masks   causal_segment_mask, key_mask, cache_mask
    cache       KVCache                  patch   PatchEmbed
    mixer       MixerBlock               stack   stack, scan

Parameters are float32, kernels (in, out); every layer computes in the dtype of its input, and
reductions (softmax, norms) run in float32.
"""

from .attention import Attention, attend
from .cache import KVCache
from .linear import Embed, Linear
from .masks import cache_mask, causal_segment_mask, key_mask
from .mixer import MixerBlock
from .mlp import Mlp, SwiGLU
from .norm import LayerNorm, RMSNorm
from .patch import PatchEmbed
from .rope import rope
from .stack import scan, stack
from .variables import Stat

__all__ = [
    "Attention",
    "Embed",
    "KVCache",
    "LayerNorm",
    "Linear",
    "MixerBlock",
    "Mlp",
    "PatchEmbed",
    "RMSNorm",
    "Stat",
    "SwiGLU",
    "attend",
    "cache_mask",
    "causal_segment_mask",
    "key_mask",
    "rope",
    "scan",
    "stack",
]
