"""The key-value cache of incremental decoding: a frozen pytree of fixed size.

    slot     0    1    2    3    4    5        S slots for every sample
    k, v    tok  pad  tok  tok   -    -        [layers, B, S, Hkv, Dh]
    valid    x    .    x    x    .    .        which slots hold a real token
    length                       ^ 4           where the next token goes

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
      length: slots written so far.
    """

    k: Float[Array, "layers B S Hkv Dh"]
    v: Float[Array, "layers B S Hkv Dh"]
    valid: Bool[Array, "B S"]
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
            length=jnp.zeros((batch,), jnp.int32),
        )

    def claim(self, valid: Bool[Array, "B L"]) -> KVCache:
        """The cache with the next L slots marked valid or padding; `length` stays.

        Called before the layers write them. Writing past the last slot is a mistake of the caller
        that cannot be seen under `jit`: the slots asked for must fit.
        """
        written = jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice(row, new, (at,)))
        return dataclasses.replace(self, valid=written(self.valid, valid, self.length))

    def advance(
        self, k: Float[Array, "layers B S Hkv Dh"], v: Float[Array, "layers B S Hkv Dh"], by: int
    ) -> KVCache:
        """The cache after `by` more slots were written into `k` and `v`."""
        return dataclasses.replace(self, k=k, v=v, length=self.length + by)


def write_slots(
    slots: Float[Array, "B S Hkv Dh"], new: Float[Array, "B L Hkv Dh"], at: Int[Array, " B"]
) -> Float[Array, "B S Hkv Dh"]:
    """One layer's keys or values with `new` written from slot `at` of each sample on."""

    def one(row: Array, block: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(row, block.astype(row.dtype), (start, 0, 0))

    return jax.vmap(one)(slots, new, at)
