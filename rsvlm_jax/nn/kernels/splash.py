"""Splash attention, the Pallas kernel of TPUs, behind the interface of `attend`.

    lengths -> multiples of 128 (of each part, where queries are split): 577 -> 640
    key of segment 0 -> segment -1, which no query has, padding included
    head width -> 128 where it is less: the lanes of a register, which would be filled anyway

Causal masks and windows are static: blocks that they leave out are not computed. Where queries are
split over "context", what the kernel knows of its mask is split with them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as library,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)
from jax.sharding import NamedSharding, PartitionSpec

from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.nn.masks import Mask

from .placed import Parts, parts, placed

LANES = 128
"""Block sizes are multiples of it, and lengths of blocks."""

BLOCKS = (512, 256, 128)


def splash(
    q: Float[Array, "B Lq H Dh"],
    k: Float[Array, "B Lk Hkv Dh"],
    v: Float[Array, "B Lk Hkv Dh"],
    mask: Mask,
    *,
    name: str = "context",
    interpret: bool = False,
) -> Float[Array, "B Lq H Dh"]:
    """As `attend`, but a query that reads nothing has any finite output.

    Args:
      name: `checkpoint_name` of what the backward pass needs.
      interpret: run it without a TPU, slowly.
    """
    length, keys, width = q.shape[1], k.shape[1], q.shape[3]
    split = parts(q, k) or Parts()
    q = _padded(q * (width**-0.5), LANES * split.context)
    k, v = _padded(k, LANES), _padded(v, LANES)
    mask = _segments(mask, q.shape[0], (length, q.shape[1]), (keys, k.shape[1]))
    made = _kernel(mask, q.shape[2] // split.tensor, q.shape[1], k.shape[1], split, name, interpret)
    if split.context == 1:
        out = placed(functools.partial(_local, kernel=made), q, k, v, mask)
    else:
        mesh = jax.sharding.get_abstract_mesh()
        spec = made.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, split.length)))

        def local(q: Array, k: Array, v: Array, mask: Mask, offset: Array, kernel: Any) -> Array:
            return _local(q, k, v, mask, offset, kernel=kernel)

        out = placed(local, q, k, v, mask, made, specs=(spec,))
    return out[:, :length, :, :width]


def _padded(x: Array, multiple: int) -> Array:
    """Zeros behind the length and behind the head."""
    more = -x.shape[1] % multiple, max(LANES - x.shape[3], 0)
    if not any(more):
        return x
    return jnp.pad(x, ((0, 0), (0, more[0]), (0, 0), (0, more[1])))


def _segments(mask: Mask, batch: int, queries: tuple[int, int], keys: tuple[int, int]) -> Mask:
    """Of padded lengths; given as (without, with). Without need of any, None stays None."""
    if mask.all_alike and (keys[0] == keys[1] or mask.causal):
        return mask  # a causal mask hides padding: it stands behind
    query, key = mask.query, mask.key
    if key is None:
        key = jnp.ones((batch, keys[0]), jnp.int32) if query is None else query
    if query is None:
        query = jnp.ones((batch, queries[0]), jnp.int32)
    query, key = (
        jnp.pad(x, ((0, 0), (0, size[1] - size[0]))) for x, size in ((query, queries), (key, keys))
    )
    return dataclasses.replace(mask, query=query, key=key)


def _kernel(
    mask: Mask, heads: int, queries: int, keys: int, split: Parts, name: str, interpret: bool
) -> Any:
    """The kernel of one device's heads, with its mask cut into parts where queries are."""
    shape = (queries, keys)
    if mask.causal and mask.window is not None:
        one: Any = masks.LocalMask(shape, (mask.window - 1, 0), 0)
    else:
        one = masks.CausalMask(shape) if mask.causal else masks.FullMask(shape)
    bq = next(b for b in BLOCKS if queries // split.context % b == 0)
    bk = next(b for b in BLOCKS if keys % b == 0)
    sizes = library.BlockSizes(
        block_q=bq, block_kv=bk, block_kv_compute=bk,
        block_q_dkv=bq, block_kv_dkv=bk, block_kv_dkv_compute=bk,
        block_q_dq=bq, block_kv_dq=bk,
    )  # fmt: skip
    return library.make_splash_mha(
        masks.MultiHeadMask([one] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=split.context,
        residual_checkpoint_name=name,
        interpret=interpret,
    )


def _local(q: Array, k: Array, v: Array, mask: Mask, offset: Array, *, kernel: Any) -> Array:
    del offset  # the kernel's mask knows
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    if mask.query is None:
        out = jax.vmap(kernel)(q, k, v)
    else:
        key = mask.query if mask.key is None else mask.key
        ids = library.SegmentIds(mask.query, jnp.where(key > 0, key, -1))
        out = jax.vmap(kernel)(q, k, v, ids)
    return out.transpose(0, 2, 1, 3)
