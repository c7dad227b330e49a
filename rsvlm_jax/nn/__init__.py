"""Layers: plain Flax NNX modules without mesh, sharding metadata or hidden random state.

    variables   Stat: saved, never trained
    linear      Linear, Embed            norm    LayerNorm, RMSNorm
    mlp         Mlp, SwiGLU              rope    rope, turns, rotate
    attention   attend, Attention        masks   causal_segment_mask, key_mask,
    slots       Slots                            cache_mask, window_mask, Mask
    cache       KVCache, SharedPrefix    stack   stack, unstack, scan
    patch       PatchEmbed, FlexPatch
    kernels/    attend: plain, chunked, cudnn, splash, and which of them
    mixer       MixerBlock               lora    add_lora, split_lora, merge_lora
    codes       int8 and nf4             quantize  quantize, quantize_params, dequantize_params

Parameters are float32, kernels (in, out); every layer computes in the dtype of its input, and
reductions (softmax, norms) run in float32.
"""

from .attention import Attention, Readable, use_kernel
from .cache import KVCache, SharedPrefix
from .kernels import attend
from .linear import Embed, Linear
from .lora import add_lora, merge_lora, split_lora
from .masks import Mask, cache_mask, causal_segment_mask, key_mask, window_mask
from .mixer import MixerBlock
from .mlp import Mlp, SwiGLU
from .norm import LayerNorm, RMSNorm
from .patch import FlexPatch, PatchEmbed
from .quantize import dequantize_params, plain_shapes, quantize, quantize_params
from .rope import Turns, rope, rotate, turns
from .slots import Slots
from .stack import scan, stack, unstack
from .variables import Stat

__all__ = [
    "Attention",
    "Embed",
    "FlexPatch",
    "KVCache",
    "LayerNorm",
    "Linear",
    "Mask",
    "MixerBlock",
    "Mlp",
    "PatchEmbed",
    "RMSNorm",
    "Readable",
    "SharedPrefix",
    "Slots",
    "Stat",
    "SwiGLU",
    "Turns",
    "add_lora",
    "attend",
    "cache_mask",
    "causal_segment_mask",
    "dequantize_params",
    "key_mask",
    "merge_lora",
    "plain_shapes",
    "quantize",
    "quantize_params",
    "rope",
    "rotate",
    "scan",
    "split_lora",
    "stack",
    "turns",
    "unstack",
    "use_kernel",
    "window_mask",
]
