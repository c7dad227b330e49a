"""A kernel on every device of the mesh in force, each on its own part.

    batch    over "slice", "data", "fsdp"       heads    over "tensor"
    queries  over "context"                     keys     whole along their length

as `rsvlm_jax.mesh.constraints` places what enters attention. A loop or a hand-written kernel is
opaque to the compiler's partitioner: left to it, everything would be gathered to every device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.nn.masks import Mask

BATCH, HEADS, LENGTH = ("slice", "data", "fsdp"), "tensor", "context"
"""Axes of the mesh, as far as it has them."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """How an attention is split.

    Attributes:
      batch: mesh axes; empty: not split.
      heads, length: a mesh axis or None.
      tensor, context: into how many parts heads and queries are split.
      repeat: how often each key head is written so that they split as the query heads do.
    """

    batch: tuple[str, ...] = ()
    heads: str | None = None
    length: str | None = None
    tensor: int = 1
    context: int = 1
    repeat: int = 1


def parts(q: Any, k: Any) -> Parts | None:
    """Of queries [B,Lq,H,Dh] and keys on the mesh in force; None: there is nothing to split.

    An axis of the mesh that does not divide its dimension is left out, as `constrain` does.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return None
    sizes = dict(mesh.shape)
    batch = tuple(axis for axis in BATCH if sizes.get(axis, 1) > 1)
    if q.shape[0] % math.prod(sizes[axis] for axis in batch):
        batch = ()
    tensor, context, repeat = sizes.get(HEADS, 1), sizes.get(LENGTH, 1), 1
    heads, kv_heads = q.shape[2], k.shape[2]
    if kv_heads % tensor:
        repeat = tensor // math.gcd(kv_heads, tensor)
        if heads % (kv_heads * repeat):
            tensor, repeat = 1, 1
    if q.shape[1] % context:
        context = 1
    return Parts(
        batch=batch,
        heads=HEADS if tensor > 1 else None,
        length=LENGTH if context > 1 else None,
        tensor=tensor,
        context=context,
        repeat=repeat,
    )


def placed(
    kernel: Callable[..., Float[Array, "B Lq H Dh"]],
    q: Float[Array, "B Lq H Dh"],
    k: Float[Array, "B Lk Hkv Dh"],
    v: Float[Array, "B Lk Hkv Dh"],
    mask: Mask,
    *more: Any,
    specs: tuple[Any, ...] = (),
) -> Float[Array, "B Lq H Dh"]:
    """`kernel(q, k, v, mask, offset, *more)` of each device's part.

    Args:
      kernel: `offset` is the number of its first query in the row.
      more: further arrays, placed by `specs`.
    """
    split = parts(q, k)
    if split is None:
        return kernel(q, k, v, mask, jnp.int32(0), *more)
    if split.repeat > 1:
        k, v = (jnp.repeat(x, split.repeat, axis=2) for x in (k, v))
    key = mask.key
    if key is None and split.length is not None:
        key = mask.query  # a part of the queries reads keys of other parts
    rule = dataclasses.replace(mask, query=None, key=None)

    def local(q: Array, k: Array, v: Array, segments: tuple, *more: Any) -> Array:
        offset = jnp.int32(0)
        if split.length is not None:
            offset = lax.axis_index(split.length).astype(jnp.int32) * q.shape[1]
        own = dataclasses.replace(rule, query=segments[0], key=segments[1])
        return kernel(q, k, v, own, offset, *more)

    batch = split.batch or None
    queries = PartitionSpec(batch, split.length, split.heads, None)
    keys = PartitionSpec(batch, None, split.heads, None)
    segments = tuple(
        None if x is None else PartitionSpec(batch, axis)
        for x, axis in ((mask.query, split.length), (key, None))
    )
    run = jax.shard_map(
        local, in_specs=(queries, keys, keys, segments, *specs), out_specs=queries, check_vma=False
    )
    return run(q, k, v, (mask.query, key), *more)
