"""The worked examples of the docstrings, and the bookkeeping of the cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsvlm_jax.nn import KVCache, Mask, cache_mask, causal_segment_mask, key_mask, window_mask


def ints(*rows: list[int]) -> jax.Array:
    return jnp.asarray(rows, jnp.int32)


def drawn(mask: jax.Array) -> list[str]:
    """Rows of one sample, one head, as in the docstrings."""
    return ["".join("x" if v else "." for v in row) for row in np.asarray(mask)[0, 0]]


def test_mask_of_the_docstring() -> None:
    segment = ints([1, 1, 1, 2, 2, 0])
    mask = Mask.rows(segment, jnp.asarray([[True, False, True, True, True, False]]))
    assert drawn(mask.table(6, 6)) == ["x.....", "x.....", "x.x...", "...x..", "...xx.", "......"]
    assert drawn(mask.within(2).table(6, 6))[2] == "..x..."
    assert mask.reads(6, 6).tolist() == [[True] * 5 + [False]]


def test_a_mask_says_what_the_tables_say() -> None:
    segment, position = ints([1, 1, 2, 2, 0]), ints([0, 1, 0, 1, 0])
    valid = jnp.asarray([[True, False, True, True, True]])
    rows = causal_segment_mask(segment, position)
    assert drawn(Mask.rows(segment).table(5, 5)) == drawn(rows)
    assert drawn(Mask.rows(segment, valid).table(5, 5)) == drawn(rows & key_mask(valid))
    assert drawn(Mask.keys(valid).table(1, 5)) == drawn(key_mask(valid))
    assert Mask(causal=True).reads(5, 5) is None


def test_causal_segment_mask_of_the_docstring() -> None:
    mask = causal_segment_mask(ints([1, 1, 2, 2, 0]), ints([0, 1, 0, 1, 0]))
    assert drawn(mask) == ["x....", "xx...", "..x..", "..xx.", "....."]


def test_key_mask_of_the_docstring() -> None:
    assert drawn(key_mask(jnp.asarray([[True, False, True]]))) == ["x.x"]


def test_cache_mask_of_the_docstring() -> None:
    valid = jnp.asarray([[True, False, True, True, True, False]])
    assert drawn(cache_mask(jnp.asarray([3], jnp.int32), 2, valid)) == ["x.xx..", "x.xxx."]


def test_window_mask_of_the_docstring() -> None:
    position = ints([0, 1, 1, 2, 3])
    causal = causal_segment_mask(ints([1, 1, 0, 1, 1]), position)
    window = window_mask(position, position, 2)
    assert [r for i, r in enumerate(drawn(causal & window)) if i != 2] == [
        "x....",
        "xx...",
        ".x.x.",
        "...xx",
    ]
    # The row of the padding itself is nobody's: what it reads changes nothing.
    slots, valid = ints([0, 1, 1, 2, 3, 4]), jnp.asarray([[True, True, False, True, True, True]])
    one = cache_mask(jnp.asarray([5], jnp.int32), 1, valid) & window_mask(ints([4]), slots, 2)
    assert drawn(one) == ["....xx"]


@pytest.mark.parametrize("window", [1, 3, 9])
def test_a_window_has_as_many_keys_as_it_says(window: int) -> None:
    position = ints([*range(8)])
    mask = causal_segment_mask(jnp.ones_like(position), position)
    count = (mask & window_mask(position, position, window)).sum(axis=3)[0, 0]
    assert count.tolist() == [min(i + 1, window) for i in range(8)]


def test_positions_are_placed_from_each_samples_own_length() -> None:
    cache = KVCache.empty(1, 2, 4, 1, 2, jnp.float32)
    cache = cache.place(ints([0, 1], [0, 0])).advance(cache.slots, by=2)
    cache = cache.place(ints([2], [1]))
    assert cache.position.tolist() == [[0, 1, 2, 0], [0, 0, 1, 0]]
    assert cache.length.tolist() == [2, 2]


def test_cache_is_claimed_written_and_advanced() -> None:
    cache = KVCache.empty(2, 1, 4, 1, 2, jnp.float32)
    cache = cache.claim(jnp.asarray([[True, False]]))
    assert cache.valid.tolist() == [[True, False, False, False]]
    assert cache.length.tolist() == [0]
    written = jax.tree.map(lambda x: x + 1, cache.slots)
    cache = cache.advance(written, by=2).claim(jnp.asarray([[True]]))
    assert cache.valid.tolist() == [[True, False, True, False]]
    assert cache.length.tolist() == [2]
    assert (cache.slots.k == 1).all()
    assert (cache.slots.v == 1).all()
