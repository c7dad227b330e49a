"""Attention masks. True means "may be read". Axes are [B, heads or 1, queries or 1, keys]."""

from __future__ import annotations

import jax.numpy as jnp

from rsvlm_jax.core.shapes import Array, Bool, Int


def causal_segment_mask(
    segment: Int[Array, "B L"], position: Int[Array, "B L"]
) -> Bool[Array, "B 1 L L"]:
    """Each token reads itself and what stands before it in its own segment; padding reads nothing.

    Two packed examples and one slot of padding::

        segment    1 1 2 2 0             keys  0 1 2 3 4
        position   0 1 0 1 0     query 0       x . . . .
                                       1       x x . . .
                                       2       . . x . .
                                       3       . . x x .
                                       4       . . . . .    (a fully masked row attends to zeros)
    """
    same = segment[:, :, None] == segment[:, None, :]
    before = position[:, :, None] >= position[:, None, :]
    return (same & before & (segment > 0)[:, None, :])[:, None]


def key_mask(valid: Bool[Array, "B S"]) -> Bool[Array, "B 1 1 S"]:
    """Every query reads the valid keys; combine with other masks by `&`.

    Three tokens of which the middle one is missing::

        valid      x . x                 keys  0 1 2
                                 any query     x . x
    """
    return valid[:, None, None, :]


def cache_mask(
    length: Int[Array, " B"], queries: int, valid: Bool[Array, "B S"]
) -> Bool[Array, "B 1 L S"]:
    """Queries about to be written at slots `length .. length + queries - 1` of a cache of S slots.

    They read the valid slots up to and including their own. Three slots are filled, the second of
    them with padding, and two tokens arrive; slot 5 is still empty::

        valid      x . x x x .           slots 0 1 2 3 4 5
        length     3             query 0       x . x x . .
                                       1       x . x x x .
    """
    slot = jnp.arange(valid.shape[1], dtype=jnp.int32)[None, None, :]
    own = length[:, None, None] + jnp.arange(queries, dtype=jnp.int32)[None, :, None]
    return ((slot <= own) & valid[:, None, :])[:, None]


def window_mask(
    query: Int[Array, "B L"], key: Int[Array, "#B S"], window: int
) -> Bool[Array, "B 1 L S"]:
    """Which keys lie within a sliding window, by position; combine with a causal mask by `&`.

    A token reads `window` keys at most, itself included. Positions decide, not slots, so padding
    and missing tokens take no room in the window. Window 2 and a slot of padding, with
    `causal_segment_mask`::

        position   0 1 . 2 3             keys  0 1 . 2 3
                                 query 0       x . . . .
                                       1       x x . . .
                                       .       . . . . .
                                       2       . x . x .
                                       3       . . . x x

    One token at position 4 over a cache, with `cache_mask`; slot 5 is its own::

        position   0 1 . 2 3 4           slots 0 1 . 2 3 4
                                 query 4       . . . . x x
    """
    return (query[:, :, None] - key[:, None, :] < window)[:, None]
