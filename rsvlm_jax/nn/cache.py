"""The key-value cache of incremental decoding: a frozen pytree of fixed size.

    slot      0    1    2    3    4    5       S slots for every sample
    k, v     tok  pad  tok  tok   -    -       [layers, B, S, Hkv, Dh]
    valid     x    .    x    x    .    .       which slots hold a real token
    position  0    0    1    2    -    -       of the token, for sliding windows
    length                        ^ 4          where the next token goes

Slots are written in order of arrival; padding takes a slot but is never valid. What stands in
slots that are not valid changes no output bit.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (after RoPE) and values of all layers.

    Attributes:
      k, v: of every layer and slot.
      valid: which slots may be read.
      position: of the token in each slot; 0 where none was written.
      length: slots written so far.
    """

    k: Float[Array, "layers B S Hkv Dh"]
    v: Float[Array, "layers B S Hkv Dh"]
    valid: Bool[Array, "B S"]
    position: Int[Array, "B S"]
    length: Int[Array, " B"]

    @classmethod
    def empty(
        cls, layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: DTypeLike
    ) -> KVCache:
        zeros = jnp.zeros((layers, batch, slots, kv_heads, head_dim), dtype)
        return cls(
            k=zeros,
            v=zeros,
            valid=jnp.zeros((batch, slots), bool),
            position=jnp.zeros((batch, slots), jnp.int32),
            length=jnp.zeros((batch,), jnp.int32),
        )

    def claim(self, valid: Bool[Array, "B L"]) -> KVCache:
        """The cache with the next L slots marked valid or padding; `length` stays.

        Called before the layers write them. Writing past the last slot is a mistake of the caller
        that cannot be seen under `jit`: the slots asked for must fit.
        """
        return dataclasses.replace(self, valid=_write_row(self.valid, valid, self.length))

    def place(self, position: Int[Array, "B L"]) -> KVCache:
        """The cache with the positions of the next L slots; `length` stays."""
        written = _write_row(self.position, position.astype(jnp.int32), self.length)
        return dataclasses.replace(self, position=written)

    def advance(
        self, k: Float[Array, "layers B S Hkv Dh"], v: Float[Array, "layers B S Hkv Dh"], by: int
    ) -> KVCache:
        """The cache after `by` more slots were written into `k` and `v`."""
        return dataclasses.replace(self, k=k, v=v, length=self.length + by)

    def tokens(self) -> Int[Array, " B"]:
        """Valid tokens of each sample so far: the position of the next one."""
        return self.valid.sum(axis=1, dtype=jnp.int32)

    def rows(self, index: Int[Array, " R"]) -> KVCache:
        """The cache of other samples: row r of the result is row `index[r]`."""
        return KVCache(
            k=jnp.take(self.k, index, axis=1),
            v=jnp.take(self.v, index, axis=1),
            valid=jnp.take(self.valid, index, axis=0),
            position=jnp.take(self.position, index, axis=0),
            length=jnp.take(self.length, index, axis=0),
        )

    def forget(self, start: Int[Array, " B"]) -> KVCache:
        """The cache without the tokens in slots from `start` on; their slots stay taken."""
        slot = jnp.arange(self.valid.shape[1], dtype=jnp.int32)[None, :]
        return dataclasses.replace(self, valid=self.valid & (slot < start[:, None]))


def _write_row(slots: Array, new: Array, at: Array) -> Array:
    """Rows [B,S] with `new` [B,L] from `at` [B] on."""
    return jax.vmap(lambda row, x, i: jax.lax.dynamic_update_slice(row, x, (i,)))(slots, new, at)


def write_slots(
    slots: Float[Array, "B S Hkv Dh"], new: Float[Array, "B L Hkv Dh"], at: Int[Array, " B"]
) -> Float[Array, "B S Hkv Dh"]:
    """One layer's keys or values with `new` written from slot `at` of each sample on."""

    def one(row: Array, block: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(row, block.astype(row.dtype), (start, 0, 0))

    return jax.vmap(one)(slots, new, at)
