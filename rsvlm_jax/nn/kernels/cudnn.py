"""cuDNN's fused attention behind the interface of `attend`: never through a table.

    no segments              the public API: full, or causal
    rows that are padded     the public API: lengths
    rows that are packed     offsets and lengths of the segments: the packed layout, which JAX has
                             beneath the public API only (`jax._src.cudnn`; 0.10.2 to 0.12 agree)

A table would become a bias of [B, 1, Lq, Lk], written down, read by every head, and slow. What the
kernel leaves in the place of padding is never read: neither forward nor backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.nn.masks import Mask

MOST_SEGMENTS = 16
"""Of a packed row: the kernel keeps a statistic of [B x segments, H, Lq], most of it empty."""


def cudnn(
    q: Float[Array, "B L H Dh"],
    k: Float[Array, "B Lk Hkv Dh"],
    v: Float[Array, "B Lk Hkv Dh"],
    mask: Mask,
) -> Float[Array, "B L H Dh"]:
    """As `attend`, of a mask whose keys are the queries' own tokens (`Mask.key` is None).

    Where the mask says wrongly how many segments a row has at most, or that its padding is on the
    right, that row is NaN.
    """
    if mask.query is None:
        return _public(q, k, v, mask)
    real, right = mask.query > 0, _as_told(mask)
    q, k, v = (jnp.where(real[:, :, None, None], x, jnp.zeros_like(x)) for x in (q, k, v))
    if mask.segments == 1:
        out = _public(q, k, v, mask, real.sum(axis=1, dtype=jnp.int32))
    else:
        out = _packed(q, k, v, mask)
    out = jnp.where(real[:, :, None, None], out, jnp.zeros_like(out))
    return jnp.where(right[:, None, None, None], out, jnp.full_like(out, jnp.nan))


def _as_told(mask: Mask) -> Bool[Array, " B"]:
    """Which rows have no more segments than the mask says."""
    assert mask.query is not None
    assert mask.segments is not None
    if mask.segments > 1:
        return _runs(mask.query, mask.segments).count <= mask.segments
    first = jnp.arange(mask.query.shape[1], dtype=jnp.int32)[None]
    length = (mask.query > 0).sum(axis=1, dtype=jnp.int32)
    return (mask.query == (first < length[:, None]).astype(jnp.int32)).all(axis=1)


def _public(
    q: Array, k: Array, v: Array, mask: Mask, lengths: Int[Array, " B"] | None = None
) -> Array:
    return jax.nn.dot_product_attention(
        q, k, v,
        is_causal=mask.causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        local_window_size=None if mask.window is None else (mask.window - 1, 0),
        implementation="cudnn",
    )  # fmt: skip


class Runs(NamedTuple):
    """Segments of rows: where they start, -1 behind the last place; how long they are; how many.

    Two segments of a row of five, and room for three::

        segment  1 1 2 2 0        start  0 2 5 -1        length  2 2 0        count  2
    """

    start: Int[Array, "B M+1"]
    length: Int[Array, "B M"]
    count: Int[Array, " B"]


def _runs(segment: Int[Array, "B L"], most: int) -> Runs:
    b, size = segment.shape
    before = jnp.pad(segment, ((0, 0), (1, 0)))[:, :-1]
    real = segment > 0
    number = jnp.cumsum(real & (segment != before), axis=1, dtype=jnp.int32)
    place = jnp.arange(1, most + 1, dtype=jnp.int32)[None, :, None]
    of = real[:, None, :] & (number[:, None, :] == place)
    length = of.sum(axis=2, dtype=jnp.int32)
    start = jnp.where(length > 0, of.argmax(axis=2).astype(jnp.int32), jnp.int32(size))
    # An empty segment has a place too, so that starts and lengths stay aligned over the batch.
    start = jnp.concatenate([start, jnp.full((b, 1), -1, jnp.int32)], axis=1)
    return Runs(start, length, number[:, -1])


def _packed(q: Array, k: Array, v: Array, mask: Mask) -> Any:
    from jax._src.cudnn import fused_attention_stablehlo as library

    assert mask.query is not None
    assert mask.segments is not None
    # JAX 0.10.2 counts the offsets of keys in query heads (0.12 does not): as many of both.
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    runs = _runs(mask.query, mask.segments)
    kind = library.MaskType.PADDING_CAUSAL if mask.causal else library.MaskType.PADDING
    return library.dot_product_attention(
        q, k, v,
        q_seqlen=runs.length, kv_seqlen=runs.length,
        q_offsets=runs.start, kv_offsets=runs.start,
        scale=q.shape[3] ** -0.5,
        mask_type=kind,
    )  # fmt: skip
