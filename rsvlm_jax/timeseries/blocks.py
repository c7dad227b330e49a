"""Series of many pixels, a block at a time: what a block holds stays in the cache of a core.

    values [pixels T groups] -> blocks of [T groups B] -> one number a pixel [pixels]

Not a scheduler: pixels are cut by `lax.map` inside one program. Shard the pixels outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rsvlm_jax.config.errors import DataError

Numbers = jax.Array | np.ndarray
"""What public functions take."""

NUMBERS = 8192
"""Numbers of a block, about: five such arrays of float64 lie in a cache of half a megabyte."""

LEAST, MOST = 8, 512
"""Pixels of a block: a few vectors of the processor at least."""


def checked(values: Any, times: Any, mask: Any, axes: str) -> tuple[Any, Any]:
    """`refuse`, and `counted`: values with NaN, and times of their dtype."""
    refuse(values, times, mask, axes)
    return counted(values, times, mask)


def refuse(values: Any, times: Any, mask: Any, axes: str) -> None:
    """Raises `DataError` for shapes or types that do not belong together.

    Args:
      values: [pixels, T] or [pixels, T, groups].
      times: [T] or [pixels, T].
      mask: as values, True = counts; None = all that is finite.
      axes: the shape as the error names it.
    """
    where = f"values {axes}"
    if values.ndim != len(axes.split()):
        raise DataError("wrong number of axes", where=where, found=f"shape {values.shape}")
    if values.dtype not in (np.float32, np.float64):
        raise DataError(
            "series of another type", where=where, expected="float32 or float64", found=values.dtype
        )
    if times.shape not in ((values.shape[1],), values.shape[:2]):
        raise DataError(
            "times do not fit the values",
            expected=f"shape {(values.shape[1],)} or {values.shape[:2]}", found=times.shape,
        )  # fmt: skip
    if not np.issubdtype(times.dtype, np.number):
        raise DataError(
            "times are no numbers", found=times.dtype, remedy="use `decimal_years` or days"
        )
    if mask is not None and (mask.shape != values.shape or mask.dtype != np.bool_):
        raise DataError(
            "the mask does not fit the values", expected=f"bool of shape {values.shape}",
            found=f"{mask.dtype} of shape {mask.shape}",
        )  # fmt: skip
    if values.dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise DataError(
            "float64 would become float32", where=where,
            remedy="compute under `jax.enable_x64(True)`, or convert",
        )  # fmt: skip


def counted(values: Any, times: Any, mask: Any) -> tuple[Any, Any]:
    """Values with NaN for what does not count, and times of their dtype."""
    values, times = jnp.asarray(values), jnp.asarray(times, values.dtype)
    counts = jnp.isfinite(values) if mask is None else jnp.isfinite(values) & jnp.asarray(mask)
    known = jnp.isfinite(times)
    known = jnp.broadcast_to(known[None] if times.ndim == 1 else known, values.shape[:2])
    counts &= known if values.ndim == 2 else known[:, :, None]
    return jnp.where(counts, values, jnp.asarray(jnp.nan, values.dtype)), times


def in_blocks(
    body: Callable[[Any, Any], Any], x: Any, times: Any, *, numbers: int = NUMBERS
) -> Any:
    """`body(x [T groups B], t [T 1 B or 1])`, a tree of [B ...], of every block; a tree of
    [pixels ...].

    Args:
      body: of one block; T is odd, the rows of NaN that make it so come last.
      x: [pixels, T, groups] with NaN for what does not count.
      times: [T] or [pixels, T].
      numbers: of a block, about.
    """
    pixels, length, groups = x.shape
    width = min(max(numbers // max(length * groups, 1), LEAST), MOST, max(pixels, 1))
    count = -(-pixels // width)
    width = max(-(-pixels // max(count, 1)), 1)  # blocks of one size, none of them half empty
    more = count * width - pixels
    add = 1 - length % 2
    nan = jnp.nan
    x = jnp.pad(x, ((0, more), (0, add), (0, 0)), constant_values=nan)
    x = x.reshape(count, width, length + add, groups)
    if times.ndim == 1:
        t = jnp.pad(times, (0, add), constant_values=nan)[:, None, None]
        out = lax.map(lambda block: body(block.transpose(1, 2, 0), t), x)
    else:
        t = jnp.pad(times, ((0, more), (0, add)), constant_values=nan)
        t = t.reshape(count, width, length + add)
        out = lax.map(lambda b: body(b[0].transpose(1, 2, 0), b[1].T[:, None, :]), (x, t))
    return jax.tree.map(lambda a: a.reshape(count * width, *a.shape[2:])[:pixels], out)
