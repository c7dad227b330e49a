"""Weights as small integers: the two formats, and the products that read them.

int8    code = round(w / scale), scale = max |w| / 127 over the inputs of an output channel
nf4     four bits: the nearest of 16 values, which are quantiles of a normal distribution, times the
        largest |w| of a block of 64 inputs (QLoRA, Dettmers et al. 2023, section 3 and appendix E)

    w [in, out]  ->  int8   codes i8[in, out]      scale f32[1, out]        8 bits a weight
                     nf4    codes u8[in/2, out]    scale f32[in/64, out]    4.5 bits a weight

A byte of nf4 holds two inputs of one block, input j in the low half and j + 32 in the high half:
blocks follow each other, so that a range of them is a range of rows, and unpacking a block puts
two slabs one after the other.

A product makes the float weights of its own layer, in the dtype of its input, while it reads the
codes; the backward pass makes them again instead of keeping them (the weights of stacked layers
would pile up into a whole float model), and multiplies in that dtype too. No gradient reaches the
codes or the scales. Leading axes (stacked layers) are carried along.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rsvlm_jax.core import NF4_BLOCK as BLOCK
from rsvlm_jax.core.shapes import Array, Float, Int, Int8, UInt8

NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Of QLoRA's NormalFloat4, by code."""

_MIDDLES = tuple((a + b) / 2 for a, b in itertools.pairwise(NF4_VALUES))


def encode_int8(
    w: Float[Array, "*stacked I O"], axis: int = -2
) -> tuple[Int8[Array, "*stacked I O"], Float[Array, "*stacked one two"]]:
    """Codes and scales; halves round to even.

    Args:
      axis: over which a scale is shared: -2, the inputs of a kernel; -1, a row of a table.
    """
    w = w.astype(jnp.float32)
    scale = jnp.abs(w).max(axis=axis, keepdims=True) / 127
    codes = jnp.round(w / jnp.where(scale == 0, 1.0, scale))
    return jnp.clip(codes, -127, 127).astype(jnp.int8), scale


def encode_nf4(
    w: Float[Array, "*stacked I O"],
) -> tuple[UInt8[Array, "*stacked half O"], Float[Array, "*stacked blocks O"]]:
    """Codes, two a byte, and scales. I must be a multiple of `BLOCK`."""
    *stacked, d_in, d_out = w.shape
    blocks = w.astype(jnp.float32).reshape(*stacked, d_in // BLOCK, BLOCK, d_out)
    scale = jnp.abs(blocks).max(axis=-2, keepdims=True)
    unit = blocks / jnp.where(scale == 0, 1.0, scale)
    code = jnp.zeros(unit.shape, jnp.uint8)
    for middle in _MIDDLES:
        code = code + (unit > middle).astype(jnp.uint8)
    low, high = jnp.split(code, 2, axis=-2)
    packed = (low | (high << 4)).reshape(*stacked, d_in // 2, d_out)
    return packed, jnp.squeeze(scale, axis=-2)


def decode_int8(
    codes: Int8[Array, "*stacked I O"],
    scale: Float[Array, "*stacked one two"],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*stacked I O"]:
    """The weights that the codes stand for, multiplied in float32 and rounded once."""
    return (codes.astype(jnp.float32) * scale.astype(jnp.float32)).astype(dtype)


def decode_nf4(
    codes: UInt8[Array, "*stacked half O"],
    scale: Float[Array, "*stacked blocks O"],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*stacked I O"]:
    """As `decode_int8`."""
    *stacked, half, d_out = codes.shape
    packed = codes.reshape(*stacked, 2 * half // BLOCK, BLOCK // 2, d_out)
    code = jnp.concatenate([packed & 15, packed >> 4], axis=-2)
    unit = jnp.asarray(np.asarray(NF4_VALUES, np.float32))[code.astype(jnp.int32)]
    weights = (unit * scale.astype(jnp.float32)[..., None, :]).astype(dtype)
    return weights.reshape(*stacked, 2 * half, d_out)


def matmul_int8(
    x: Float[Array, "*shape I"],
    codes: Int8[Array, "I O"],
    scale: Float[Array, "1 O"],
    dtype: DTypeLike,
) -> Float[Array, "*shape O"]:
    """`x @ codes * scale`, accumulated and scaled in float32, as `dtype`."""
    return _int8(x, codes, scale, False, jnp.dtype(dtype))


def attend_int8(
    x: Float[Array, "*shape D"],
    codes: Int8[Array, "V D"],
    scale: Float[Array, "V 1"],
    dtype: DTypeLike,
) -> Float[Array, "*shape V"]:
    """`x @ table^T`, accumulated and scaled in float32, as `dtype`."""
    return _int8(x, codes, scale, True, jnp.dtype(dtype))


def matmul_nf4(
    x: Float[Array, "*shape I"],
    codes: UInt8[Array, "half O"],
    scale: Float[Array, "blocks O"],
    dtype: DTypeLike,
) -> Float[Array, "*shape O"]:
    """`x @ weights`, the weights in the dtype of `x`, as `dtype`."""
    return _nf4(x, codes, scale, jnp.dtype(dtype))


def _product(x: Array, weights: Array, rows: bool, dtype: DTypeLike) -> Array:
    """`x @ weights`, or with `rows` `x @ weights^T`, in the dtype of `x`; accumulates `dtype`."""
    contracted = ((x.ndim - 1,), (1 if rows else 0,))
    weights = weights.astype(x.dtype)
    return jax.lax.dot_general(x, weights, (contracted, ((), ())), preferred_element_type=dtype)


def _scaled(y: Array, scale: Array) -> Array:
    """`y` times the scale of each of its last axis, in float32."""
    scale = scale.astype(jnp.float32).reshape((1,) * (y.ndim - 1) + (-1,))
    return y.astype(jnp.float32) * scale


Kept = tuple[Array, Array, Array]
"""For the backward pass: codes and scale as they are stored, and nothing, of the dtype of `x`."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _int8(x: Array, codes: Array, scale: Array, rows: bool, dtype: jnp.dtype) -> Array:
    return _scaled(_product(x, codes, rows, jnp.float32), scale).astype(dtype)


def _int8_forward(
    x: Array, codes: Array, scale: Array, rows: bool, dtype: jnp.dtype
) -> tuple[Array, Kept]:
    return _int8(x, codes, scale, rows, dtype), (codes, scale, jnp.zeros(0, x.dtype))


def _int8_backward(rows: bool, dtype: jnp.dtype, kept: Kept, g: Array) -> tuple[Array, None, None]:
    del dtype
    codes, scale, like = kept
    return _product(_scaled(g, scale).astype(like.dtype), codes, not rows, like.dtype), None, None


_int8.defvjp(_int8_forward, _int8_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _nf4(x: Array, codes: Array, scale: Array, dtype: jnp.dtype) -> Array:
    return _product(x, decode_nf4(codes, scale, x.dtype), False, dtype)


def _nf4_forward(x: Array, codes: Array, scale: Array, dtype: jnp.dtype) -> tuple[Array, Kept]:
    return _nf4(x, codes, scale, dtype), (codes, scale, jnp.zeros(0, x.dtype))


def _nf4_backward(dtype: jnp.dtype, kept: Kept, g: Array) -> tuple[Array, None, None]:
    del dtype
    codes, scale, like = kept
    weights = decode_nf4(codes, scale, like.dtype)
    return _product(g.astype(like.dtype), weights, True, like.dtype), None, None


_nf4.defvjp(_nf4_forward, _nf4_backward)


def take_int8(
    codes: Int8[Array, "V D"], scale: Float[Array, "V 1"], ids: Int[Array, "*shape"]
) -> Float[Array, "*shape D"]:
    """Rows of a table by number, float32; a number outside it gives NaN."""
    rows = jnp.take(codes, ids, axis=0, mode="clip").astype(jnp.float32)
    return rows * jnp.take(scale, ids, axis=0, mode="fill", fill_value=jnp.nan)
