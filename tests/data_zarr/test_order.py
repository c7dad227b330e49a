"""Orders are pure functions: complete, without repetition, and what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_zarr.errors import CubeError
from data_zarr.order import block_order, grouped, interleave


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 9), st.integers(1, 6))
def test_every_block_gives_its_crops_once(n: int, blocks: int, crops: int, window: int):
    block_of = np.random.default_rng(n).integers(0, blocks, n)
    rows = block_order(block_of, crops, window, 3, n)
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_array_equal(
        np.bincount(block_of[rows], minlength=blocks),
        np.minimum(np.bincount(block_of, minlength=blocks), crops),
    )
    np.testing.assert_array_equal(rows, block_order(block_of, crops, window, 3, n))
    # A window of blocks is finished before the next begins.
    first_seen = list(dict.fromkeys(block_of[rows].tolist()))
    number = np.array([first_seen.index(b) // window for b in block_of[rows]])
    assert (np.diff(number) >= 0).all()


def test_neighbours_of_a_batch_lie_in_different_blocks():
    block_of = np.repeat(np.arange(64), 50)
    rows = block_order(block_of, 16, 16, 0, 0)
    assert all(len(set(block_of[b].tolist())) == 16 for b in rows.reshape(-1, 16))


def test_another_epoch_draws_other_rows():
    block_of = np.repeat(np.arange(8), 100)
    drawn = [set(block_order(block_of, 5, 4, 0, e).tolist()) for e in range(40)]
    assert len(set().union(*drawn)) > 0.8 * 800, "in time all rows are seen"
    assert block_order(block_of, 5, 4, 0, 0).tolist() != block_order(block_of, 5, 4, 1, 0).tolist()


def test_the_block_order_of_a_release_is_kept():
    # A literal: a resumed run must see the samples that it would have seen.
    assert block_order(np.repeat([0, 1, 2], 3), 2, 2, 0, 0).tolist() == [0, 3, 2, 5, 6, 7]


@pytest.mark.parametrize(("crops", "window"), [(0, 4), (4, 0)])
def test_impossible_blocks(crops: int, window: int):
    with pytest.raises(CubeError, match=r"impossible blocks; expected crops >= 1, window >= 1"):
        block_order(np.zeros(3, np.int64), crops, window, 0, 0)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 120), st.integers(1, 9), st.integers(0, 40), st.integers(1, 5))
def test_batches_of_one_group(n: int, batch: int, offset: int, groups: int):
    rng = np.random.default_rng(n)
    order, group_of = rng.permutation(n), rng.integers(0, groups, n)
    found = grouped(order, group_of, batch, offset)
    assert sorted(found.tolist()) == list(range(n))
    head = min(-offset % batch, n)
    np.testing.assert_array_equal(found[:head], order[:head])
    full = int((np.bincount(group_of[order[head:]], minlength=groups) // batch).sum())
    for k in range(full):
        held = group_of[found[head + k * batch : head + (k + 1) * batch]]
        assert len(set(held.tolist())) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(0, 10**9))
def test_a_mixture_keeps_its_shares(weights: list[float], first: int):
    sequence, own = interleave(np.arange(first, first + 400), weights)
    share = np.array(weights) / sum(weights)
    for i in range(len(weights)):
        mine = own[sequence == i]
        assert (np.diff(mine) == 1).all(), "each sequence comes whole and in order"
        assert abs(len(mine) - share[i] * 400) <= len(weights) + 1


def test_a_mixture_is_a_function_of_the_position():
    sequence, own = interleave(np.arange(50), [3.0, 1.0, 1.0])
    np.testing.assert_array_equal(sequence[20:], interleave(np.arange(20, 50), [3.0, 1.0, 1.0])[0])
    np.testing.assert_array_equal(own[20:], interleave(np.arange(20, 50), [3.0, 1.0, 1.0])[1])
    assert interleave(np.arange(7), [2.0, 1.0])[0].tolist() == [1, 0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [2.0, -1.0]])
def test_impossible_mixture(weights: list[float]):
    with pytest.raises(CubeError, match=r"impossible mixture; expected weights of at"):
        interleave(np.arange(3), weights)
