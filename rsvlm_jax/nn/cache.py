"""The key-value cache of incremental decoding: a frozen pytree of fixed size.

    slot      0    1    2    3    4    5       S slots for every sample
    slots    tok  pad  tok  tok   -    -       keys and values of all layers (`rsvlm_jax.nn.slots`)
    valid     x    .    x    x    .    .       which slots hold a real token
    position  0    0    1    2    -    -       of the token, for sliding windows
    used                          ^ 4          where the next token goes, in every row

Slots are written in order of arrival; padding takes a slot but is never valid. What stands in
slots that are not valid changes no output bit.

A `SharedPrefix` is what all rows have read before their own slots, one image and its instructions,
say: its keys and values are there once and are read once a step, whatever the number of rows. The
layers attend to it by themselves; masks and slots are of the rows' own tokens only.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Int

from .slots import AllSlots, Slots


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (after RoPE) and values of all layers.

    Attributes:
      slots: one stack of all layers, which a scan carries, or the slots of each layer, where the
        layers are unrolled (`rsvlm_jax.models.decoder.unstacked`).
      valid: which slots may be read.
      position: of the token in each slot; 0 where none was written.
      used: slots written so far, the same in every row.
      shared: what all rows read before their own slots.
    """

    slots: AllSlots
    valid: Bool[Array, "B S"]
    position: Int[Array, "B S"]
    used: Int[Array, ""]
    shared: SharedPrefix | None = None

    @classmethod
    def empty(
        cls, layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: DTypeLike
    ) -> KVCache:
        """No token yet. dtype: of keys and values; int8 stores codes and scales."""
        return cls(
            slots=Slots.empty(batch, slots, kv_heads, head_dim, dtype, layers),
            valid=jnp.zeros((batch, slots), bool),
            position=jnp.zeros((batch, slots), jnp.int32),
            used=jnp.int32(0),
        )

    @property
    def length(self) -> Int[Array, " B"]:
        """Slots written so far, in each row."""
        return jnp.broadcast_to(self.used, self.valid.shape[:1])

    def claim(self, valid: Bool[Array, "B L"]) -> KVCache:
        """The cache with the next L slots marked valid or padding; `length` stays.

        Called before the layers write them. Writing past the last slot is a mistake of the caller
        that cannot be seen under `jit`: the slots asked for must fit.
        """
        return dataclasses.replace(self, valid=self._beside(self.valid, valid))

    def place(self, position: Int[Array, "B L"]) -> KVCache:
        """The cache with the positions of the next L slots; `length` stays."""
        written = self._beside(self.position, position.astype(jnp.int32))
        return dataclasses.replace(self, position=written)

    def advance(self, slots: AllSlots, by: int) -> KVCache:
        """The cache after `by` more tokens were written into `slots`."""
        return dataclasses.replace(self, slots=slots, used=self.used + by)

    def tokens(self) -> Int[Array, " B"]:
        """Valid tokens of each sample so far, shared ones included: the position of the next."""
        own = self.valid.sum(axis=1, dtype=jnp.int32)
        return own if self.shared is None else own + self.shared.tokens()

    def rows(self, index: Int[Array, " R"]) -> KVCache:
        """The cache of other samples: row r of the result is row `index[r]`."""
        is_slots = lambda x: isinstance(x, Slots)  # noqa: E731
        batch = self.valid.shape[0]
        return dataclasses.replace(
            self,
            slots=jax.tree.map(lambda s: s.rows(index, batch), self.slots, is_leaf=is_slots),
            valid=jnp.take(self.valid, index, axis=0),
            position=jnp.take(self.position, index, axis=0),
        )

    def grown(self, slots: int) -> KVCache:
        """The cache with `slots` slots, if it has fewer."""
        more = max(slots - self.valid.shape[1], 0)
        is_slots = lambda x: isinstance(x, Slots)  # noqa: E731
        return dataclasses.replace(
            self,
            slots=jax.tree.map(lambda s: s.grown(more), self.slots, is_leaf=is_slots),
            valid=jnp.pad(self.valid, ((0, 0), (0, more))),
            position=jnp.pad(self.position, ((0, 0), (0, more))),
        )

    def rewound(self, used: Int[Array, ""]) -> KVCache:
        """The cache as it was when `used` slots were written."""
        start = jnp.broadcast_to(used, self.valid.shape[:1])
        return dataclasses.replace(self.forget(start), used=used)

    def forget(self, start: Int[Array, " B"]) -> KVCache:
        """The cache without the tokens in slots from `start` on; their slots stay taken."""
        slot = jnp.arange(self.valid.shape[1], dtype=jnp.int32)[None, :]
        return dataclasses.replace(self, valid=self.valid & (slot < start[:, None]))

    def _beside(self, row: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice(row, new, (0, self.used))


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class SharedPrefix:
    """Keys and values of one prompt, read by all rows of a batch. Made by
    `rsvlm_jax.generate.encode_prefix`.

    Attributes:
      slots: of one row, B = 1.
      valid: which may be read.
      position: of the token in each slot.
    """

    slots: AllSlots
    valid: Bool[Array, "1 P"]
    position: Int[Array, "1 P"]

    def tokens(self) -> Int[Array, ""]:
        """Its valid tokens: the position of the first token after it."""
        return self.valid.sum(dtype=jnp.int32)

    def cache(self, batch: int, slots: int) -> KVCache:
        """A cache of `batch` rows that go on after this prefix, with `slots` slots of their own.

        Their keys and values are stored as those of the prefix are.
        """

        def own(of: Slots, *layers: int) -> Slots:
            return Slots.empty(batch, slots, of.heads(1), of.k.shape[-2], of.k.dtype, *layers)

        of = self.slots
        return KVCache(
            slots=own(of, of.k.shape[0]) if isinstance(of, Slots) else tuple(own(s) for s in of),
            valid=jnp.zeros((batch, slots), bool),
            position=jnp.zeros((batch, slots), jnp.int32),
            used=jnp.int32(0),
            shared=self,
        )
