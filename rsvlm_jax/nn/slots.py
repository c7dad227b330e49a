"""Slots of keys and values: how they are laid out, written, read, and stored as int8.

    k  [.., B, Hkv, Dh, S]      a new token is a column:  scores  = q [Dh] . k
    v  [.., B, Hkv, S, Dh]      a new token is a row:     output  = weights [S] . v

So both products of a decode step read their operand as it lies; with keys the other way round XLA
transposes all of them at every step. A token is written in place: of one layer's slots, or of one
layer in a stack of all, which then goes through a loop as its carry and is never copied.

Where layers are unrolled, rows and heads are one axis, B * Hkv: XLA's products have one batch axis,
and slots of one row that went through a loop in another shape than the products read were copied
four times at every turn on a CPU. A stack keeps them apart, as a mesh shards them.

int8: a vector of one slot and head is its codes, -127 .. 127, times one float32 scale. Scores are
multiplied by the scales of the keys and weights by those of the values, so that the dequantised
vectors are never written down.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Float, Int, Shaped


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """Keys (after RoPE) and values of one layer, or of a stack of layers.

    The axes of `heads` are B * Hkv in one, or of a stack layers, B, Hkv (without layers: one layer
    of a stack).

    Attributes:
      k, v: floats, or int8 codes.
      k_scale, v_scale: of the codes of a slot and head; None with floats.
    """

    k: Shaped[Array, "*heads Dh S"]
    v: Shaped[Array, "*heads S Dh"]
    k_scale: Float[Array, "*heads S"] | None = None
    v_scale: Float[Array, "*heads S"] | None = None

    @classmethod
    def empty(
        cls, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: DTypeLike, *layers: int
    ) -> Slots:
        """Zeros; `layers` is the leading axis of a stack, or nothing."""
        shape = (*layers, batch, kv_heads) if layers else (batch * kv_heads,)
        dtype = jnp.dtype(dtype)
        scales = (None, None)
        if dtype == jnp.int8:
            scales = tuple(jnp.zeros((*shape, slots), jnp.float32) for _ in range(2))
        k = jnp.zeros((*shape, head_dim, slots), dtype)
        v = jnp.zeros((*shape, slots, head_dim), dtype)
        return cls(k, v, *scales)

    def layer(self, index: Int[Array, ""] | int) -> Slots:
        """One layer of a stack."""
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, index, axis=0, keepdims=False), self
        )

    def heads(self, batch: int) -> int:
        """Hkv, of slots of so many rows."""
        return self.k.shape[0] // batch if self.k.ndim == 3 else self.k.shape[-3]

    def rows(self, index: Int[Array, " R"], batch: int) -> Slots:
        """Slots of other samples: row r of the result is row `index[r]` of `batch` rows."""
        axis = max(self.k.ndim - 4, 0)
        if self.k.ndim == 3:
            heads = self.heads(batch)
            index = index[:, None] * heads + jnp.arange(heads, dtype=index.dtype)[None, :]
            index = index.reshape(-1)
        return jax.tree.map(lambda x: jnp.take(x, index, axis=axis), self)

    def merged(self) -> Slots:
        """One layer of a stack with rows and heads as one axis."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self)

    def apart(self, batch: int) -> Slots:
        """What was merged, as it was."""
        return jax.tree.map(lambda x: x.reshape(batch, -1, *x.shape[1:]), self)

    def grown(self, more: int) -> Slots:
        """With `more` empty slots behind the others."""

        def pad(x: Array, axis: int) -> Array:
            return jnp.pad(x, [(0, more if i == x.ndim + axis else 0) for i in range(x.ndim)])

        return Slots(
            k=pad(self.k, -1),
            v=pad(self.v, -2),
            k_scale=None if self.k_scale is None else pad(self.k_scale, -1),
            v_scale=None if self.v_scale is None else pad(self.v_scale, -1),
        )

    def write(
        self,
        k: Float[Array, "B L Hkv Dh"],
        v: Float[Array, "B L Hkv Dh"],
        at: Int[Array, ""],
        layer: Int[Array, ""] | int | None = None,
    ) -> Slots:
        """With L tokens written from slot `at` on; the tokens must fit.

        Args:
          layer: which of a stack; None where this is one layer.
        """
        k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
        if self.k.ndim == 3:
            k, v = k.reshape(-1, *k.shape[2:]), v.reshape(-1, *v.shape[2:])
        k_scale, v_scale = self.k_scale, self.v_scale
        if k_scale is not None and v_scale is not None:
            (k, k_new), (v, v_new) = _codes(k), _codes(v)
            k_scale = _put(k_scale, k_new, at, layer, axis=-1)
            v_scale = _put(v_scale, v_new, at, layer, axis=-1)
        return Slots(
            k=_put(self.k, k.swapaxes(-1, -2), at, layer, axis=-1),
            v=_put(self.v, v, at, layer, axis=-2),
            k_scale=k_scale,
            v_scale=v_scale,
        )


def _put(whole: Array, new: Array, at: Array, layer: Array | int | None, axis: int) -> Array:
    """`whole` with `new` from `at` on along an axis, in a layer of it."""
    start: list[Array | int] = [0] * new.ndim
    start[axis] = at
    if layer is not None:
        new, start = new[None], [layer, *start]
    return jax.lax.dynamic_update_slice(whole, new.astype(whole.dtype), start)


def _codes(x: Array) -> tuple[Array, Array]:
    """int8 codes of vectors on the last axis, and what a code is worth."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=-1) / 127.0
    codes = jnp.round(x / jnp.where(scale > 0, scale, 1.0)[..., None])
    return codes.astype(jnp.int8), scale


AllSlots = Slots | tuple[Slots, ...]
"""Of all layers: a stack, which a scan carries, or one after the other, for unrolled layers."""


def by_layer(slots: AllSlots) -> tuple[Slots, ...]:
    """The slots of each layer."""
    if isinstance(slots, tuple):
        return slots
    return tuple(slots.layer(i).merged() for i in range(slots.k.shape[0]))


def in_a_stack(slots: AllSlots, batch: int) -> Slots:
    """The slots of all layers, with a leading axis; `batch` rows."""
    if isinstance(slots, Slots):
        return slots
    apart = [s.apart(batch) for s in slots]
    return jax.tree.map(lambda *layers: jnp.stack(layers), *apart)
