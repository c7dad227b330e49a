"""Which conversations stand in which batch: each once an epoch, similar ones together."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config import ConfigError
from rsvlm_jax.data.grouping import best_lengths, grouping, rounded
from rsvlm_jax.data.plan import Plan, Tokens

LENGTH = 64


def made(n: int, *, batch: int = 4, seed: int = 0, texts: float = 0.3, weights=None, **changes):
    random = np.random.default_rng(n)
    tokens = random.integers(5, LENGTH + 1, n)
    images = (random.random(n) > texts).astype(np.int64)
    words = {"pack": False, "group": True, **changes}
    given = np.ones(n) if weights is None else np.asarray(weights, float)
    return Plan(tokens, images, given, batch_size=batch, seed=seed, length=LENGTH, **words)


def flat(plan: Plan, batches: range) -> list[int]:
    return [s for k in batches for row in plan.rows(k) for s in row]


kinds = st.sampled_from([{}, {"group": False}, {"pack": True}, {"pack": True, "group": False}])


@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(1, 9), st.integers(0, 3), kinds)
def test_every_conversation_once_an_epoch(n: int, batch: int, seed: int, kind: dict):
    plan = made(n, batch=batch, seed=seed, **kind)
    order = flat(plan, range(4 * plan.epoch_batches() + 2))
    for epoch in range(3):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(1, 9), kinds, st.integers(0, 40))
def test_a_batch_does_not_depend_on_those_before(n: int, batch: int, kind: dict, k: int):
    plan = made(n, batch=batch, **kind)
    before = [(plan.rows(i), plan.shape(i), plan.tokens(i)) for i in range(k + 1)][-1]
    fresh = made(n, batch=batch, **kind)
    assert (fresh.rows(k), fresh.shape(k), fresh.tokens(k)) == before
    carried = pickle.loads(pickle.dumps(plan))
    assert carried.rows(k) == before[0]
    assert plan.rows(0) == fresh.rows(0)


@given(st.integers(1, 150), st.integers(1, 9), kinds)
def test_batches_hold_what_they_say(n: int, batch: int, kind: dict):
    plan = made(n, batch=batch, **kind)
    for k in range(plan.epoch_batches()):
        rows, shape = plan.rows(k), plan.shape(k)
        assert len(rows) == batch
        tokens = [int(plan._tokens[list(r)].sum()) for r in rows]
        images = [int(plan._images[list(r)].sum()) for r in rows]
        assert max(tokens) <= shape.length <= LENGTH
        assert shape.length in plan.lengths
        assert max(images) <= shape.images <= plan.most_images
        counted = Tokens(sum(tokens), batch * shape.length, sum(images), batch * shape.images)
        assert plan.tokens(k) == counted


def test_epochs_are_shuffled_anew_and_seeds_differ():
    plan = made(40)
    first, second = (flat(plan, range(10 * e, 10 * e + 10)) for e in range(2))
    assert first != second
    assert first != flat(made(40, seed=1), range(10))


def test_grouped_batches_are_of_one_kind_and_of_similar_length():
    plan = made(800, batch=8)
    mixed, spread = 0, []
    for k in range(100):
        rows = [r[0] for r in plan.rows(k)]
        mixed += len(set(plan._images[rows].tolist())) > 1
        spread.append(np.ptp(plan._tokens[rows]))
    assert mixed <= 4, "one in each window"
    assert np.median(spread) <= 4
    shapes = {plan.shape(k) for k in range(100)}
    assert len(shapes) <= 2 * 4, "few programs"
    assert len(plan.lengths) == 4
    share = sum((plan.tokens(k) for k in range(100)), Tokens(0, 0, 0, 0)).share
    loose = made(800, batch=8, group=False)
    apart = sum((loose.tokens(k) for k in range(100)), Tokens(0, 0, 0, 0))
    assert share > 0.75 > 0.6 > apart.share
    assert {loose.shape(k) for k in range(100)} == {(LENGTH, 1)}, "one program"


def test_grouped_batches_come_in_random_order():
    plan = made(800, batch=8)
    longest = [max(plan._tokens[r[0]] for r in plan.rows(k)) for k in range(25)]
    rises = np.diff(longest) > 0
    assert 4 < rises.sum() < 20


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=80),
    st.integers(1, 7),
    st.integers(0, 6),
)
def test_grouping_is_a_permutation_of_whole_batches(rows: list, batch: int, offset: int):
    images, tokens = (np.array([r[i] for r in rows], np.int64) for i in range(2))
    order = grouping(images, tokens, batch, offset, 0, 0)
    assert sorted(order.tolist()) == list(range(len(rows)))
    head = min(-offset % batch, len(rows))
    rest = (len(rows) - head) % batch
    np.testing.assert_array_equal(order[:head], np.arange(head))
    if rest:
        np.testing.assert_array_equal(order[-rest:], np.arange(len(rows) - rest, len(rows)))


# ---- lengths -------------------------------------------------------------------------------------


def cost(lengths: tuple[int, ...], tokens: list[int]) -> int:
    return sum(min(x for x in lengths if x >= t) for t in tokens)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 4))
def test_best_lengths_are_the_best(tokens: list[int], count: int):
    found = best_lengths(tokens, count, 60)
    assert list(found) == sorted(set(found))
    assert len(found) <= count
    assert max(tokens) <= found[-1] <= 60
    edges = sorted({min(-(-t // 8) * 8, 60) for t in tokens})
    choices = itertools.combinations(edges, min(count, len(edges)))
    fewest = min(cost(c, tokens) for c in choices if c[-1] >= max(tokens))
    assert cost(found, tokens) == fewest


def test_lengths_are_multiples_of_what_suits_their_size():
    assert best_lengths([1000, 1100, 2048], 3, 4096) == (1024, 1152, 2048)
    assert best_lengths([17], 4, 20) == (20,)


def test_numbers_of_images_are_rounded_to_few():
    assert [rounded(i) for i in (0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 17, 25)] == [
        0, 1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 24, 32,
    ]  # fmt: skip


# ---- mixtures ------------------------------------------------------------------------------------


def test_a_weight_is_how_often_a_file_is_read():
    weights = [2.0] * 30 + [1.0] * 40
    plan = made(70, batch=5, weights=weights)
    assert plan.epoch_samples == 30 + 20
    order = flat(plan, range(20))
    counts = np.bincount(order, minlength=70)
    assert counts[:30].tolist() == [2] * 30
    assert abs(int(counts[30:].sum()) - 40) <= 1
    assert counts[30:].max() == 1
    for first in range(0, 90, 10):
        share = sum(s < 30 for s in flat(plan, range(first // 5, first // 5 + 2)))
        assert 2 <= share <= 10


def test_files_of_one_weight_are_shuffled_together():
    assert flat(made(50, weights=[3.0] * 50), range(12)) == flat(made(50), range(12))


def test_a_weight_that_hardly_counts():
    with pytest.raises(ConfigError, match=r"a weight that hardly counts.*found 1e-06 of 99"):
        made(100, weights=[1.0] * 99 + [1e-6])


# ---- packed --------------------------------------------------------------------------------------


def test_packed_rows_are_full():
    tight = made(900, batch=8, pack=True)
    total = sum((tight.tokens(k) for k in range(tight.epoch_batches() - 1)), Tokens(0, 0, 0, 0))
    assert total.share > 0.93
    assert {tight.shape(k).length for k in range(tight.epoch_batches())} == {LENGTH}
    assert total.images / total.frames > 0.7
    loose = made(900, batch=8, pack=True, group=False)
    apart = sum((loose.tokens(k) for k in range(loose.epoch_batches() - 1)), Tokens(0, 0, 0, 0))
    assert apart.images / apart.frames < total.images / total.frames
