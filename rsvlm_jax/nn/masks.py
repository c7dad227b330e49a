"""What attention may read: told by segments (`Mask`), or as a table of queries x keys.

A `Mask` costs a number a token, and every kernel of `rsvlm_jax.nn.kernels` honours it: training and
whole passes use it. The tables are for decoding, where the slots of a cache are read, and for
whatever no segments can tell; True means "may be read", axes are [B, heads or 1, queries or 1,
keys], and only the plain kernel takes them.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Int


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Each query reads the keys of its own segment; segment 0 reads nothing and is not read.

    Two packed examples, the first with a token that nobody may read, and one slot of padding;
    causal::

        query      1 1 1 2 2 0           keys  0 1 2 3 4 5
        key        1 0 1 2 2 0   query 0       x . . . . .
                                       1       x . . . . .
                                       2       x . x . . .
                                       3       . . . x . .
                                       4       . . . x x .
                                       5       . . . . . .   (attends to zeros)

    With a window of 2, query 2 reads key 2 alone: key 0 is two tokens away. A segment is a run of
    neighbours: its tokens stand one after the other, those that nobody reads included.

    Attributes:
      query: segment of each query; None: all are of segment 1.
      key: segment of each key; None: the keys are the queries' own tokens, and all are read.
      causal: no query reads a key that stands after it. Queries and keys are the same tokens.
      window: keys that a query of a causal mask reads at most, itself included.
      segments: that a row has at most, where that is known. 1: rows are not packed, and what is
        not of segment 1 is padding on the right.
    """

    query: Int[Array, "B Lq"] | None = None
    key: Int[Array, "B Lk"] | None = None
    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    window: int | None = dataclasses.field(default=None, metadata={"static": True})
    segments: int | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def rows(
        cls,
        segment: Int[Array, "B L"],
        readable: Bool[Array, "B L"] | None = None,
        *,
        segments: int | None = None,
    ) -> Mask:
        """Of rows of text, causal: `Batch.segment`, and which tokens others may read at all."""
        key = None if readable is None else jnp.where(readable, segment, 0)
        return cls(segment, key, causal=True, segments=segments)

    @classmethod
    def keys(cls, valid: Bool[Array, "B Lk"]) -> Mask:
        """Every query reads the valid keys."""
        return cls(key=valid.astype(jnp.int32))

    def within(self, window: int | None) -> Mask:
        """The same with a sliding window; None: without one."""
        return dataclasses.replace(self, window=window)

    @property
    def all_alike(self) -> bool:
        """Whether rows do not differ: there are no segments."""
        return self.query is None and self.key is None

    def table(self, queries: int, keys: int) -> Bool[Array, "#B 1 Lq Lk"]:
        """As a table."""
        row = jnp.arange(queries, dtype=jnp.int32)
        column = jnp.arange(keys, dtype=jnp.int32)
        key = self.query if self.key is None else self.key
        return self.part(self.query, key, row, column)[:, None]

    def part(
        self,
        query: Int[Array, "B Lq"] | None,
        key: Int[Array, "B Lk"] | None,
        row: Int[Array, " Lq"],
        column: Int[Array, " Lk"],
    ) -> Bool[Array, "#B Lq Lk"]:
        """Of the table, some queries and keys: their segments and their numbers in the whole."""
        allowed = jnp.ones((1, row.shape[0], column.shape[0]), bool)
        if key is not None:
            own = jnp.ones_like(key[:, :1]) if query is None else query
            allowed = (own[:, :, None] == key[:, None, :]) & (key > 0)[:, None, :]
        if self.causal:
            ahead = row[:, None] - column[None, :]
            allowed = allowed & (ahead >= 0)[None]
            if self.window is not None:
                allowed = allowed & (ahead < self.window)[None]
        return jnp.broadcast_to(allowed, (allowed.shape[0], row.shape[0], column.shape[0]))

    def reads(self, queries: int, keys: int) -> Bool[Array, "#B Lq"] | None:
        """Which queries read any key; None: all do."""
        return None if self.all_alike else self.table(queries, keys)[:, 0].any(axis=2)


def causal_segment_mask(
    segment: Int[Array, "B L"], position: Int[Array, "B L"]
) -> Bool[Array, "B 1 L L"]:
    """Each token reads itself and what stands before it in its own segment; padding reads nothing.

    Two packed examples and one slot of padding::

        segment    1 1 2 2 0             keys  0 1 2 3 4
        position   0 1 0 1 0     query 0       x . . . .
                                       1       x x . . .
                                       2       . . x . .
                                       3       . . x x .
                                       4       . . . . .    (a fully masked row attends to zeros)
    """
    same = segment[:, :, None] == segment[:, None, :]
    before = position[:, :, None] >= position[:, None, :]
    return (same & before & (segment > 0)[:, None, :])[:, None]


def key_mask(valid: Bool[Array, "B S"]) -> Bool[Array, "B 1 1 S"]:
    """Every query reads the valid keys; combine with other masks by `&`.

    Three tokens of which the middle one is missing::

        valid      x . x                 keys  0 1 2
                                 any query     x . x
    """
    return valid[:, None, None, :]


def cache_mask(
    length: Int[Array, " B"], queries: int, valid: Bool[Array, "B S"]
) -> Bool[Array, "B 1 L S"]:
    """Queries about to be written at slots `length .. length + queries - 1` of a cache of S slots.

    They read the valid slots up to and including their own. Three slots are filled, the second of
    them with padding, and two tokens arrive; slot 5 is still empty::

        valid      x . x x x .           slots 0 1 2 3 4 5
        length     3             query 0       x . x x . .
                                       1       x . x x x .
    """
    slot = jnp.arange(valid.shape[1], dtype=jnp.int32)[None, None, :]
    own = length[:, None, None] + jnp.arange(queries, dtype=jnp.int32)[None, :, None]
    return ((slot <= own) & valid[:, None, :])[:, None]


def window_mask(
    query: Int[Array, "B L"], key: Int[Array, "#B S"], window: int
) -> Bool[Array, "B 1 L S"]:
    """Which keys lie within a sliding window, by position; combine with a causal mask by `&`.

    A token reads `window` keys at most, itself included. Positions decide, not slots, so padding
    and missing tokens take no room in the window. Window 2 and a slot of padding, with
    `causal_segment_mask`::

        position   0 1 . 2 3             keys  0 1 . 2 3
                                 query 0       x . . . .
                                       1       x x . . .
                                       .       . . . . .
                                       2       . x . x .
                                       3       . . . x x

    One token at position 4 over a cache, with `cache_mask`; slot 5 is its own::

        position   0 1 . 2 3 4           slots 0 1 . 2 3 4
                                 query 4       . . . . x x
    """
    return (query[:, :, None] - key[:, None, :] < window)[:, None]
