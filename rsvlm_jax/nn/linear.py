"""Affine maps and embedding tables.

Kernels are (in, out). Master weights stay as they are stored (float32); every layer computes in
the dtype of its input, so the caller chooses the compute dtype by casting what it passes in.

A weight is stored in parts and used whole, but for the axes of activations that its own axes bear
the names of: so it is gathered, once where it is used, and activations never are for its sake
(`placed`).

`rsvlm_jax.nn.quantize` puts codes and scales in the place of a kernel or of a table of tokens.
"""

from __future__ import annotations

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


def placed(weight: Shaped[Array, "I O"], axes: Axes, x: Array) -> Shaped[Array, "I O"]:
    """A weight, or codes of it, as it is multiplied with `x`; the identity without a mesh.

    Not for one position a row, a step of decoding: there are less activations than weights, and
    which of them moves is left to the compiler.
    """
    return weight if x.ndim == 3 and x.shape[1] == 1 else constrain(weight, *axes)


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
            a, b = (f[...].astype(x.dtype) for f in (self.kernel_lora_a, self.kernel_lora_b))
            low = x @ placed(a, (self.axes[0], None), x)
            y = y + self.lora_scale * (low @ placed(b, (None, self.axes[1]), x))
        return y if self.bias is None else y + expand_last(self.bias[...], y)

    def scores(self, x: Float[Array, "*shape I"]) -> Float[Array, "*shape O"]:
        """`x @ kernel` accumulated in float32, of a language head: without bias or LoRA."""
        return self._product(x, jnp.float32)

    def _product(self, x: Array, dtype: DTypeLike) -> Array:
        if self.kernel_scale is None:
            kernel = placed(self.kernel[...].astype(x.dtype), self.axes, x)
            return jnp.matmul(x, kernel, preferred_element_type=jnp.dtype(dtype))
        if self.kernel_int8 is not None:
            codes = placed(self.kernel_int8[...], self.axes, x)
            return matmul_int8(x, codes, self.kernel_scale[...], dtype)
        assert self.kernel_nf4 is not None
        codes = placed(self.kernel_nf4[...], self.axes, x)
        return matmul_nf4(x, codes, self.kernel_scale[...], dtype)


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
            codes = placed(self.embedding_int8[...], self.axes, x)
            return attend_int8(x, codes, self.embedding_scale[...], jnp.float32)
        table = placed(self.embedding[...].astype(x.dtype), self.axes, x)
        return jax.lax.dot_general(
            x, table, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
