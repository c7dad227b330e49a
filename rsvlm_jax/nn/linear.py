"""Affine maps and embedding tables.

Kernels are (in, out). Master weights stay as they are stored (float32); every layer computes in
the dtype of its input, so the caller chooses the compute dtype by casting what it passes in. What
the backward pass sums over samples and positions, the gradient of a weight, it sums in float32
(`matmul`, `spread`): so do the devices that each have a part of it.

A weight is stored in parts and used whole, but for the axes of activations that its own axes bear
the names of: so it is gathered, once where it is used, and activations never are for its sake
(`placed`).

`rsvlm_jax.nn.quantize` puts codes and scales in the place of a kernel or of a table of tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, lecun_normal, normal
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from rsvlm_jax.core.shapes import Array, Float, Int, Shaped
from rsvlm_jax.mesh.constraints import ACTIVATIONS, constrain

from .codes import attend_int8, matmul_int8, matmul_nf4, take_int8

TILE = 8
"""Rows of float32 in a tile of a TPU."""


def expand_last(
    vector: Float[Array, " D"], like: Float[Array, "*shape D"]
) -> Float[Array, "*same D"]:
    """`vector` along the last axis of `like`, in its dtype, to be added or multiplied."""
    if vector.dtype == like.dtype:
        return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
    return spread(vector, like.shape, like.dtype)


def spread(
    array: Float[Array, "*own"], shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "*shape"]:
    """`array` repeated over the leading axes of `shape`, as `dtype`.

    Its gradient is summed over them in the dtype that it is stored in.
    """
    if array.dtype == jnp.dtype(dtype):
        return _repeated(array, shape)
    return _spread(array, shape, jnp.dtype(dtype))


def _repeated(array: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(array.reshape((1,) * (len(shape) - array.ndim) + array.shape), shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(array: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return _repeated(array.astype(dtype), shape)


def _spread_forward(array: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[Array, Array]:
    # What is left is a shape and a dtype: of stacked layers, the array itself would be copied.
    return _spread(array, shape, dtype), jnp.zeros((0, *array.shape), array.dtype)


def _spread_backward(
    shape: tuple[int, ...], dtype: jnp.dtype, like: Array, g: Array
) -> tuple[Array]:
    del shape, dtype
    leading = tuple(range(g.ndim - like.ndim + 1))
    return (g.astype(like.dtype).sum(axis=leading),)


_spread.defvjp(_spread_forward, _spread_backward)


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
    kernel: Float[Array, "one two"],
    dtype: DTypeLike | None = None,
    axes: Axes = (None, None),
    *,
    rows: bool = False,
) -> Float[Array, "*shape O"]:
    """`x @ kernel` in the dtype of `x`, accumulated and returned as `dtype`.

    Args:
      kernel: [I, O]; with `rows` [O, I], whose rows are multiplied.
      dtype: that of `x` unless given.
      axes: of the kernel as it is given.

    On several devices the kernel is gathered here, and again in the backward pass: what is kept
    between the two is the part that is stored. Its gradient is accumulated and returned in the
    dtype that it is stored in; the products of the backward pass, too, read the dtype of `x`.
    """
    dtype = x.dtype if dtype is None else jnp.dtype(dtype)
    if kernel.dtype == x.dtype and not _many_devices():
        return _product(x, kernel, rows, dtype)
    return _matmul(x, kernel, rows, dtype, axes)


def _product(x: Array, kernel: Array, rows: bool, dtype: jnp.dtype) -> Array:
    contracted = ((x.ndim - 1,), (1 if rows else 0,))
    return jax.lax.dot_general(x, kernel, (contracted, ((), ())), preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _matmul(x: Array, kernel: Array, rows: bool, dtype: jnp.dtype, axes: Axes) -> Array:
    return _product(x, placed(kernel.astype(x.dtype), axes, x), rows, dtype)


def _matmul_forward(
    x: Array, kernel: Array, rows: bool, dtype: jnp.dtype, axes: Axes
) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(x, kernel, rows, dtype, axes), (x, kernel)


def _matmul_backward(
    rows: bool, dtype: jnp.dtype, axes: Axes, kept: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    del dtype
    x, kernel = kept
    g = g.astype(x.dtype)
    of_x = _product(g, placed(kernel.astype(x.dtype), axes, x), not rows, x.dtype)
    leading = tuple(range(x.ndim - 1))
    # Not the transpose of one product: XLA has none of bfloat16 to a transposed float32 on a CPU.
    left, right = (g, x) if rows else (x, g)
    of_kernel = jax.lax.dot_general(
        left, right, ((leading, leading), ((), ())), preferred_element_type=kernel.dtype
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _take(table: Array, ids: Array, axes: Axes) -> Array:
    """Rows of a table, which is gathered for it; NaN for an id outside."""
    table = placed(table, axes, ids[..., None])
    return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)


def _take_forward(table: Array, ids: Array, axes: Axes) -> tuple[Array, tuple[Array, Array]]:
    return _take(table, ids, axes), (ids, jnp.zeros((0, *table.shape), table.dtype))


def _take_backward(axes: Axes, kept: tuple[Array, Array], g: Array) -> tuple[Array, None]:
    """Each device adds up what its own rows give, and the sums of all are scattered.

    Left to the compiler they are summed whole, on all devices, and sliced. The table is filled up
    to whole tiles of a TPU on each device: of others (32,064 rows over 16) it would do so still.
    """
    del axes
    ids, like = kept
    _, count, width = like.shape

    def added(ids: Array, g: Array, rows: int = count) -> Array:
        ids = jnp.where((ids >= 0) & (ids < count), ids, rows)
        return jnp.zeros((rows, width), g.dtype).at[ids].add(g, mode="drop")

    mesh = jax.sharding.get_abstract_mesh()
    sizes = {} if mesh.empty else {axis: n for axis, n in mesh.shape.items() if n > 1}
    batch = tuple(a for a in ACTIVATIONS["batch"] if a in sizes)
    rows = math.prod(sizes[a] for a in batch)
    alone = "fsdp" not in sizes or sizes.keys() - {*batch} or ids.ndim != 2
    if alone or ids.shape[0] % rows:
        return added(ids, g), None
    step = TILE * sizes["fsdp"]
    filled = -(-count // step) * step

    def summed(ids: Array, g: Array) -> Array:
        own = jax.lax.psum_scatter(added(ids, g, filled), "fsdp", scatter_dimension=0, tiled=True)
        rest = tuple(a for a in batch if a != "fsdp")
        return jax.lax.psum(own, rest) if rest else own

    split = PartitionSpec(batch)
    run = jax.shard_map(
        summed, in_specs=(split, split), out_specs=PartitionSpec("fsdp"), check_vma=False
    )
    return run(ids, g)[:count], None


_take.defvjp(_take_forward, _take_backward)


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
        return _take(self.embedding[...], ids, self.axes)

    def attend(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Scores of every row of the table (a tied language head), float32."""
        if self.embedding_int8 is not None and self.embedding_scale is not None:
            codes, scale = self.embedding_int8, self.embedding_scale
            return _of_codes(attend_int8, x, codes, scale, jnp.float32, self.axes)
        return matmul(x, self.embedding[...], jnp.float32, self.axes, rows=True)
