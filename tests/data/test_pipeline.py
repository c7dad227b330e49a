"""Order, resume, augmentation, and evaluation that sees each sample once."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsvlm_jax.config import DataError, TargetConfig
from rsvlm_jax.data import Batch, CubeSource, eval_batches, train_batches
from rsvlm_jax.data.chance import uniforms

TARGET = TargetConfig("tree_cover")


def take(batches, n: int) -> list[Batch]:
    with batches:
        return list(itertools.islice(batches, n))


def same(a: Batch, b: Batch) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() and x.dtype == y.dtype for x, y in leaves)


@pytest.fixture(scope="module")
def asking(make_processor):
    return make_processor("questions")


def start(source, processor, **changes):
    return train_batches(source, processor, **{"batch_size": 6, "seed": 3, "threads": 0, **changes})


@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(0, 50))
def test_chance_depends_on_position_only(first: int, count: int, skip: int):
    whole = uniforms(1, 2, first, skip + count)
    np.testing.assert_array_equal(whole[skip:], uniforms(1, 2, first + skip, count))
    assert ((whole >= 0) & (whole < 1)).all()
    assert (uniforms(1, 3, first, count) != uniforms(1, 2, first, count)).any()


@pytest.mark.parametrize("batch_size", [4, 6, 64])
def test_every_sample_once_an_epoch(source, asking, batch_size: int):
    epochs = 4
    batches = start(source, asking, batch_size=batch_size)
    n = -(-epochs * len(source) // batch_size)
    seen = np.concatenate([b.sample for b in take(batches, n)])
    by_epoch = seen[: epochs * len(source)].reshape(epochs, -1)
    for order in by_epoch:
        assert sorted(order.tolist()) == list(range(len(source)))
    assert (by_epoch[0] != by_epoch[1]).any(), "shuffled anew"


def test_order_text_and_turns_do_not_depend_on_the_batch_size(source, asking):
    a, b = (
        take(start(source, asking, batch_size=4), 3),
        take(start(source, asking, batch_size=6), 2),
    )
    for get in (lambda x: x.sample, lambda x: x.tokens, lambda x: x.obs["s2_l1c"].pixels):
        np.testing.assert_array_equal(
            np.concatenate([get(x) for x in a]), np.concatenate([get(x) for x in b])
        )


@pytest.mark.parametrize("threads", [0, 2])
def test_resume_is_bitwise(source, asking, threads: int):
    whole = take(start(source, asking), 9)
    first = start(source, asking, threads=threads)
    for k in range(4):
        assert same(next(first), whole[k])
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    assert state["next_index"] == 4
    again = start(source, asking, threads=threads)
    again.set_state(state)
    assert all(same(a, b) for a, b in zip(take(again, 5), whole[4:], strict=True))


def test_another_seed_is_another_order(source, asking):
    a, b = take(start(source, asking), 1)[0], take(start(source, asking, seed=4), 1)[0]
    assert a.sample.tolist() != b.sample.tolist()


@pytest.mark.parametrize("change", [{"seed": 4}, {"batch_size": 5}, {"augment": False}])
def test_the_state_of_another_run_is_refused(source, asking, change: dict):
    with start(source, asking) as one:
        state = one.get_state()
    match = r"another sequence of samples.*expected order"
    with start(source, asking, **change) as other, pytest.raises(DataError, match=match):
        other.set_state(state)


def test_the_state_of_other_windows_is_refused(source, asking, cube_path, config, table):
    fewer = CubeSource(cube_path, config.inputs, TARGET, table, rows=np.arange(10))
    with start(source, asking) as one:
        state = one.get_state()
    match = r"another sequence of samples"
    with start(fewer, asking) as other, pytest.raises(DataError, match=match):
        other.set_state(state)


def test_augmentation_turns_windows_and_nothing_else(source, asking):
    plain, turned = (take(start(source, asking, augment=a), 20) for a in (False, True))
    moved = 0
    for a, b in zip(plain, turned, strict=True):
        x, y = a.obs["s2_l1c"], b.obs["s2_l1c"]
        moved += sum(bool((p != q).any()) for p, q in zip(x.pixels, y.pixels, strict=True))
        np.testing.assert_array_equal(
            np.sort(x.pixels.reshape(*x.pixels.shape[:3], -1)),
            np.sort(y.pixels.reshape(*y.pixels.shape[:3], -1)),
        )
        np.testing.assert_array_equal(a.target, b.target)
        np.testing.assert_array_equal(a.tokens, b.tokens)
    assert abs(moved / 120 - 7 / 8) < 0.12, "one of eight elements changes nothing"


def test_questions_and_plain(source, asking, make_processor):
    text = take(start(source, asking), 20)
    regs = np.concatenate([(b.tokens == 513).sum(1) for b in text])
    assert set(regs.tolist()) == {0, 3}
    assert abs((regs == 3).mean() - 0.6) < 0.15
    plain = take(start(source, make_processor()), 2)
    assert all((b.tokens == 513).sum() == 18 and not b.weight.any() for b in plain)


@pytest.mark.parametrize(("batch_size", "threads"), [(6, 0), (6, 2), (20, 0), (64, 0)])
def test_evaluation_sees_each_sample_once(source, asking, batch_size: int, threads: int):
    with eval_batches(source, asking, batch_size=batch_size, threads=threads) as batches:
        seen = list(batches)
    sample = np.concatenate([b.sample for b in seen])
    assert sample[sample >= 0].tolist() == list(range(20))
    assert {len(b.sample) for b in seen} == {batch_size}
    valid = np.concatenate([b.target_valid[:, 0] for b in seen])
    np.testing.assert_array_equal(valid[sample >= 0], source.has_target)
    assert not valid[sample < 0].any()
    assert not np.concatenate([b.weight for b in seen])[sample < 0].any()


def test_evaluation_asks_one_question(source, asking):
    question = asking.questions.held_out[0].question
    with eval_batches(source, asking, batch_size=8, question=question) as batches:
        tokens = np.concatenate([b.tokens for b in batches])
    assert (tokens == asking.regress_prompt(question).tokens).all()


@pytest.mark.parametrize("threads", [0, 2])
def test_a_corrupt_chunk_does_not_move_the_others(
    damaged, config, table, source, asking, threads: int
):
    hurt = CubeSource(damaged, config.inputs, TARGET, table)
    clean, cut = take(start(source, asking), 8), take(start(hurt, asking, threads=threads), 8)
    for a, b in zip(clean, cut, strict=True):
        bad = a.sample == 6
        np.testing.assert_array_equal(b.sample, np.where(bad, -1, a.sample))
        assert not b.weight[bad].any()
        np.testing.assert_array_equal(a.tokens, b.tokens)
        keep = [dataclasses.replace(x, obs={}) for x in (a, b)]
        for x, y in zip(jax.tree.leaves(keep[0]), jax.tree.leaves(keep[1]), strict=True):
            np.testing.assert_array_equal(x[~bad], y[~bad])
    assert list(hurt.bad) == [6]


@pytest.mark.parametrize("threads", [0, 2])
def test_too_many_bad_windows_stop_the_run(damaged, config, table, asking, threads: int):
    hurt = CubeSource(damaged, config.inputs, TARGET, table, rows=np.arange(4, 9))
    with pytest.raises(DataError, match=r"too many windows cannot be read"):
        take(start(hurt, asking, threads=threads), 2)
