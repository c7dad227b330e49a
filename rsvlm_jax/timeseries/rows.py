"""Series of many pixels, some rows at a time, where the answer of a pixel is a series again.

    arrays [pixels ...] -> blocks [B ...] -> body -> arrays [B ...] -> [pixels ...]

As `blocks.in_blocks`, for bodies that keep pixels in front. One program; nothing but a block's
intermediate arrays is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def in_rows(body: Callable[..., Any], arrays: tuple[Any, ...], width: int) -> Any:
    """`body(*blocks)` over blocks of `width` pixels; a tree of [pixels, ...].

    Args:
      body: of arrays [width, ...]; its leaves have pixels in front.
      arrays: [pixels, ...] each. The last block is filled up with copies of the last pixel.
      width: at most.
    """
    pixels = arrays[0].shape[0]
    width = max(min(width, pixels), 1)
    count = max(-(-pixels // width), 1)
    width = max(-(-pixels // count), 1)  # blocks of one size, none of them half empty
    more = count * width - pixels

    def blocks(a: Any) -> Any:
        if pixels == 0:
            a = jnp.zeros((width, *a.shape[1:]), a.dtype)
        elif more:
            a = jnp.concatenate([a, jnp.broadcast_to(a[-1:], (more, *a.shape[1:]))])
        return a.reshape(count, width, *a.shape[1:])

    out = lax.map(lambda block: body(*block), tuple(blocks(a) for a in arrays))
    return jax.tree.map(lambda a: a.reshape(count * width, *a.shape[2:])[:pixels], out)
