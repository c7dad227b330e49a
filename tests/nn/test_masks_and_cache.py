"""The worked examples of the docstrings, and the bookkeeping of the cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsvlm_jax.nn import KVCache, cache_mask, causal_segment_mask, key_mask
from rsvlm_jax.nn.cache import write_slots


def ints(*rows: list[int]) -> jax.Array:
    return jnp.asarray(rows, jnp.int32)


def drawn(mask: jax.Array) -> list[str]:
    """Rows of one sample, one head, as in the docstrings."""
    return ["".join("x" if v else "." for v in row) for row in np.asarray(mask)[0, 0]]


def test_causal_segment_mask_of_the_docstring() -> None:
    mask = causal_segment_mask(ints([1, 1, 2, 2, 0]), ints([0, 1, 0, 1, 0]))
    assert drawn(mask) == ["x....", "xx...", "..x..", "..xx.", "....."]


def test_key_mask_of_the_docstring() -> None:
    assert drawn(key_mask(jnp.asarray([[True, False, True]]))) == ["x.x"]


def test_cache_mask_of_the_docstring() -> None:
    valid = jnp.asarray([[True, False, True, True, True, False]])
    assert drawn(cache_mask(jnp.asarray([3], jnp.int32), 2, valid)) == ["x.xx..", "x.xxx."]


def test_cache_is_claimed_written_and_advanced() -> None:
    cache = KVCache.empty(2, 1, 4, 1, 2, jnp.float32)
    cache = cache.claim(jnp.asarray([[True, False]]))
    assert cache.valid.tolist() == [[True, False, False, False]]
    assert cache.length.tolist() == [0]
    cache = cache.advance(cache.k + 1, cache.v + 2, by=2).claim(jnp.asarray([[True]]))
    assert cache.valid.tolist() == [[True, False, True, False]]
    assert cache.length.tolist() == [2]
    assert (cache.k == 1).all()
    assert (cache.v == 2).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_slots_are_written_from_each_samples_own_length(dtype: jnp.dtype) -> None:
    slots = jnp.zeros((2, 4, 1, 1), dtype)
    new = jnp.ones((2, 2, 1, 1), jnp.float32)
    out = write_slots(slots, new, jnp.asarray([0, 2], jnp.int32))
    assert out.dtype == dtype
    assert out[:, :, 0, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
