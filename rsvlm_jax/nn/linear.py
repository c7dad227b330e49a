"""Affine maps and embedding tables.

Kernels are (in, out). Master weights stay as they are stored (float32); every layer computes in
the dtype of its input, so the caller chooses the compute dtype by casting what it passes in.

A weight is stored in parts and used whole, but for the axes of activations that its own axes bear
the names of: so it is gathered, once where it is used, and activations never are for its sake
(`placed`).

`rsvlm_jax.nn.quantize` puts codes and scales in the place of a kernel or of a table of tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, lecun_normal, normal
from jax.typing import DTypeLike

from rsvlm_jax.core.shapes import Array, Float, Int, Shaped
from rsvlm_jax.mesh.constraints import constrain

from .codes import attend_int8, matmul_int8, matmul_nf4, take_int8


def expand_last(
    vector: Float[Array, " D"], like: Float[Array, "*shape D"]
) -> Float[Array, "*ones D"]:
    """`vector` with the rank and dtype of `like`, along its last axis."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + vector.shape)


Axes = tuple[str | None, str | None]
"""Of a kernel [in, out] or a table [rows, width]: names of `rsvlm_jax.mesh.ACTIVATIONS`."""


def _many_devices() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def placed(weight: Shaped[Array, "I O"], axes: Axes, x: Array) -> Shaped[Array, "I O"]:
    """A weight, or codes of it, as it is multiplied with `x`; the identity without a mesh.

    Not for one position a row, a step of decoding: there are less activations than weights, and
    which of them moves is left to the compiler.
    """
    return weight if x.ndim == 3 and x.shape[1] == 1 else constrain(weight, *axes)


def matmul(
    x: Float[Array, "*shape I"],
    kernel: Float[Array, "I O"],
    dtype: DTypeLike | None = None,
    axes: Axes = (None, None),
) -> Float[Array, "*shape O"]:
    """`x @ kernel` in the dtype of `x`, accumulated and returned as `dtype`, that of `x` unless
    given.

    On several devices the kernel is gathered here, and again in the backward pass: what is kept
    between the two is the part that is stored. Its gradient is summed in the dtype that it is
    stored in.
    """
    dtype = x.dtype if dtype is None else jnp.dtype(dtype)
    if not _many_devices():
        return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=dtype)
    return _matmul(x, kernel, dtype, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _matmul(x: Array, kernel: Array, dtype: jnp.dtype, axes: Axes) -> Array:
    return jnp.matmul(x, placed(kernel.astype(x.dtype), axes, x), preferred_element_type=dtype)


def _matmul_forward(
    x: Array, kernel: Array, dtype: jnp.dtype, axes: Axes
) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(x, kernel, dtype, axes), (x, kernel)


def _matmul_backward(
    dtype: jnp.dtype, axes: Axes, kept: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    del dtype
    x, kernel = kept
    g, used = g.astype(x.dtype), placed(kernel.astype(x.dtype), axes, x)
    of_x = jax.lax.dot_general(
        g, used, (((g.ndim - 1,), (1,)), ((), ())), preferred_element_type=x.dtype
    )
    leading = tuple(range(x.ndim - 1))
    of_kernel = jax.lax.dot_general(
        x, g, ((leading, leading), ((), ())), preferred_element_type=kernel.dtype
    )
    return of_x, of_kernel


_matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(nnx.Module):
    """`x @ kernel + bias` on the last axis.

    Args:
      d_in, d_out: sizes of the last axis before and after.
      axes: what `d_in` and `d_out` are of activations; None: nothing that a mesh splits.
      bias: whether a bias is added (zeros at the start).
      init: of the kernel; variance 1 / d_in unless given.

    `rsvlm_jax.nn.add_lora` puts two factors beside the kernel; their product is added to it.
    Quantised, a layer has no `kernel`, but `kernel_int8` or `kernel_nf4` and `kernel_scale`.
    """

    # Of the class: a layer without them has the same definition as if they did not exist.
    kernel_int8: nnx.Param | None = None
    kernel_nf4: nnx.Param | None = None
    kernel_scale: nnx.Param | None = None
    kernel_lora_a: nnx.Param | None = None
    kernel_lora_b: nnx.Param | None = None
    lora_scale: float = 1.0

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        bias: bool = True,
        axes: Axes = (None, None),
        rngs: nnx.Rngs,
        init: Initializer | None = None,
    ) -> None:
        make = lecun_normal() if init is None else init
        self.axes = axes
        self.kernel = nnx.Param(make(rngs.params(), (d_in, d_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d_out,), jnp.float32)) if bias else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel, also where it is quantised: (*stacked, in, out)."""
        if self.kernel_nf4 is not None:
            *stacked, half, d_out = self.kernel_nf4.shape
            return (*stacked, 2 * half, d_out)
        return tuple((self.kernel if self.kernel_int8 is None else self.kernel_int8).shape)

    def __call__(self, x: Float[Array, "*shape I"]) -> Float[Array, "*shape O"]:
        y = self._product(x, x.dtype)
        if self.kernel_lora_a is not None and self.kernel_lora_b is not None:
            low = matmul(x, self.kernel_lora_a[...], axes=(self.axes[0], None))
            high = matmul(low, self.kernel_lora_b[...], axes=(None, self.axes[1]))
            y = y + self.lora_scale * high
        return y if self.bias is None else y + expand_last(self.bias[...], y)

    def scores(self, x: Float[Array, "*shape I"]) -> Float[Array, "*shape O"]:
        """`x @ kernel` accumulated in float32, of a language head: without bias or LoRA."""
        return self._product(x, jnp.float32)

    def _product(self, x: Array, dtype: DTypeLike) -> Array:
        if self.kernel_scale is None:
            return matmul(x, self.kernel[...], dtype, self.axes)
        if self.kernel_int8 is not None:
            return _of_codes(matmul_int8, x, self.kernel_int8, self.kernel_scale, dtype, self.axes)
        return _of_codes(matmul_nf4, x, self.kernel_nf4, self.kernel_scale, dtype, self.axes)


def _of_codes(
    product: Callable[..., Array], x: Array, codes: Any, scale: Any, dtype: DTypeLike, axes: Axes
) -> Array:
    """A product with codes; between the passes the stored part of them is kept, as in `matmul`."""

    def made(x: Array, codes: Array, scale: Array) -> Array:
        return product(x, placed(codes, axes, x), scale, dtype)

    if not _many_devices():
        return product(x, codes[...], scale[...], dtype)
    return jax.checkpoint(made, prevent_cse=False)(x, codes[...], scale[...])


class Embed(nnx.Module):
    """A table of vectors, looked up by id. An id outside the table gives NaN, not a neighbour.

    Args:
      axes: as those of `Linear`.

    Quantised, it has no `embedding`, but `embedding_int8` and `embedding_scale`.
    """

    embedding_int8: nnx.Param | None = None
    embedding_scale: nnx.Param | None = None

    def __init__(
        self,
        count: int,
        width: int,
        *,
        axes: Axes = (None, None),
        rngs: nnx.Rngs,
        init: Initializer | None = None,
    ) -> None:
        make = normal(0.02) if init is None else init
        self.axes = axes
        self.embedding = nnx.Param(make(rngs.params(), (count, width), jnp.float32))

    def __call__(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
        if self.embedding_int8 is not None and self.embedding_scale is not None:
            codes = placed(self.embedding_int8[...], self.axes, ids[..., None])
            return take_int8(codes, self.embedding_scale[...], ids)
        table = placed(self.embedding[...], self.axes, ids[..., None])
        return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)

    def attend(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Scores of every row of the table (a tied language head), float32."""
        if self.embedding_int8 is not None and self.embedding_scale is not None:
            codes, scale = self.embedding_int8, self.embedding_scale
            return _of_codes(attend_int8, x, codes, scale, jnp.float32, self.axes)
        table = self.embedding[...]
        if _many_devices():
            return matmul(x, table.T, jnp.float32, (self.axes[1], self.axes[0]))
        return jax.lax.dot_general(
            x, table.astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
