"""Attention behind one function: `attend(q, k, v, mask)`, by the kernel that fits.

    choose.py    choose      the rule: platform, dtype, shapes, mask -> kernel, and why
    plain.py     plain       two products and a softmax; any mask
    chunked.py   chunked     online softmax over blocks, in plain JAX
    cudnn.py     cudnn       NVIDIA's fused kernel
    splash.py    splash      the Pallas kernel of TPUs
    placed.py    placed      a kernel on every device of a mesh

All give the same numbers to rounding; what a mask says is honoured by each.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rsvlm_jax.config.training import AttentionKernel
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.nn.masks import Mask

from .choose import Choice, Sizes, Target, choose, target
from .chunked import chunked
from .cudnn import cudnn
from .placed import Parts, parts, placed
from .plain import plain

CONTEXT = "context"
"""`checkpoint_name` of what attention gives, and of what its backward pass needs beside q, k, v."""


def attend(
    q: Float[Array, "B Lq H Dh"],
    k: Float[Array, "B Lk Hkv Dh"],
    v: Float[Array, "B Lk Hkv Dh"],
    mask: Mask | Bool[Array, "#B #H #Lq Lk"] | None = None,
    *,
    kernel: AttentionKernel = "auto",
) -> Float[Array, "B Lq H Dh"]:
    """Scaled dot-product attention, softmax in float32.

    Heads are grouped: query head h reads key head `h // (H // Hkv)`, as in Hugging Face's Llama.
    A row whose keys are all masked gives zeros, with finite gradients.

    Args:
      mask: None: every query reads every key.
      kernel: "auto" takes what `choose` says.

    Raises:
      ConfigError: a kernel is asked for that cannot compute it here.
    """
    mask = Mask() if mask is None else mask
    rule = mask if isinstance(mask, Mask) else None
    context = (parts(q, k) or Parts()).context
    sizes = Sizes(q.shape[1], k.shape[1], q.shape[3], q.dtype, context)
    made = choose(sizes, rule, target(), kernel).kernel
    if rule is None or made == "plain":
        return checkpoint_name(plain(q, k, v, _table(mask, sizes)), CONTEXT)
    if made == "chunked":
        return placed(_chunked, q, k, v, rule)
    if made == "cudnn":
        return placed(_cudnn, q, k, v, rule)
    from .splash import splash

    out, reads = splash(q, k, v, rule, name=CONTEXT), rule.reads(sizes.queries, sizes.keys)
    return out if reads is None else jnp.where(reads[:, :, None, None], out, jnp.zeros_like(out))


def _table(mask: Mask | Array, sizes: Sizes) -> Array | None:
    if not isinstance(mask, Mask):
        return mask
    everything = mask.all_alike and not mask.causal
    return None if everything else mask.table(sizes.queries, sizes.keys)


def _chunked(q: Array, k: Array, v: Array, mask: Mask, offset: Array) -> Array:
    return chunked(q, k, v, mask, offset=offset, name=CONTEXT)


def _cudnn(q: Array, k: Array, v: Array, mask: Mask, offset: Array) -> Array:
    del offset  # queries are not split
    return cudnn(q, k, v, mask)


__all__ = [
    "CONTEXT",
    "Choice",
    "Sizes",
    "Target",
    "attend",
    "choose",
    "chunked",
    "cudnn",
    "plain",
    "target",
]
