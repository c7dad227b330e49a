"""Host memory between files and devices: moved once, and not kept."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from rsvlm_jax.config import CheckpointError

from .transforms import Shape

_ALIGNMENT = 64
"""Bytes; of the buffers that XLA reads without a copy on CPU."""

_TILE = 240
"""Rows and columns; no power of two, whose strides would share cache lines."""


def aligned(shape: Shape, dtype: Any) -> np.ndarray:
    """Empty memory that JAX takes over on CPU without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def put(out: np.ndarray, x: np.ndarray) -> None:
    """`out[...] = x`, a transposed matrix tile by tile: four times as fast as NumPy's own loop."""
    if x.ndim != 2 or x.strides[0] >= x.strides[1]:
        out[...] = x
        return
    for i in range(0, x.shape[0], _TILE):
        for j in range(0, x.shape[1], _TILE):
            here = (slice(i, i + _TILE), slice(j, j + _TILE))
            out[here] = np.ascontiguousarray(x[here].T).T


def host(x: Any, layer: int | None) -> np.ndarray:
    """An array, or one layer of a stacked one, in host memory.

    Assembled from shards: `np.asarray` of a sharded array keeps the copy as long as the array.

    Raises:
      CheckpointError: parts of it lie with other processes.
    """
    if not isinstance(x, jax.Array):
        return np.asarray(x if layer is None else x[layer])
    if not x.is_fully_addressable:
        raise CheckpointError(
            "an array that other processes hold parts of", expected="all shards in this process",
            found=x.sharding, remedy="load it on one host to write it",
        )  # fmt: skip
    out = np.empty(x.shape if layer is None else x.shape[1:], x.dtype)
    for shard in x.addressable_shards:
        if shard.replica_id:
            continue
        if layer is None:
            out[shard.index] = np.asarray(shard.data)
            continue
        start, stop, _ = shard.index[0].indices(x.shape[0])
        if start <= layer < stop:
            # On CPU a view costs nothing; elsewhere only the layer is to come over.
            cpu = shard.device.platform == "cpu"
            mine = np.asarray(shard.data) if cpu else shard.data
            out[shard.index[1:]] = np.asarray(mine[layer - start])
    return out
