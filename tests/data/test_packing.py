"""Packing: every conversation in one row with room, and the loss that it has by itself."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from said import model, processor

from rsvlm_jax.config import DataError
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.data.messages import Message
from rsvlm_jax.data.packing import first_fit, lay_out
from rsvlm_jax.data.pieces import Row
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.train.losses import text_loss

IMAGE = 9
WORDS = {"vocabulary": 20, "image_token": IMAGE, "per_image": 2}


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 100))
def test_rows_have_room_and_are_as_few_as_promised(lengths: list[int], capacity: int):
    sizes = np.array(lengths, np.int64)
    row = first_fit(sizes, capacity)
    assert row.shape == sizes.shape
    if not lengths:
        return
    filled = np.bincount(row, weights=sizes)
    assert filled.max() <= capacity
    assert sorted(set(row.tolist())) == list(range(len(filled))), "no row is empty"
    fewest = -(-int(sizes.sum()) // capacity)
    assert len(filled) <= 11 / 9 * max(fewest, int((sizes > capacity / 2).sum())) * 1.5 + 1
    # Two rows that would fit into one are never left.
    assert len(filled) == 1 or np.sort(filled)[:2].sum() > capacity


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_rows_stand_in_the_order_of_their_first_conversation(lengths: list[int]):
    row = first_fit(np.array(lengths), 40)
    first = [row.tolist().index(r) for r in range(row.max() + 1)]
    assert first == sorted(first)


def test_the_example_of_the_docstring():
    assert first_fit(np.array([4, 8, 3, 6, 2]), 10).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("lengths", [[3, 11], [0, 3]])
def test_a_length_that_fits_no_row(lengths: list[int]):
    with pytest.raises(DataError, match=r"fits no row in first_fit; expected 1 \.\. 10 tokens"):
        first_fit(np.array(lengths), 10)


def row(ids: list[int]) -> Row:
    return Row(ids, [1.0] * len(ids), ids.count(IMAGE) // 2)


def test_a_row_as_arrays():
    laid = lay_out([[row([1, 5, 6]), row([1, IMAGE, IMAGE, 7])], [row([1, 2])]], 8, **WORDS)
    assert laid.tokens.tolist() == [[1, 5, 6, 1, 0, 0, 7, 0], [1, 2, 0, 0, 0, 0, 0, 0]]
    assert laid.segment.tolist() == [[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert laid.position.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert laid.image_slot.tolist() == [[-1, -1, -1, -1, 0, 1, -1, -1], [-1] * 8]
    assert laid.weight.tolist() == [[0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert laid.images.tolist() == [1, 0]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=4))
def test_slots_count_the_visual_tokens_of_a_row_in_order(rows: list[list[bool]]):
    laid = lay_out(
        [[row([1, IMAGE, IMAGE, 7] if image else [1, 7]) for image in some] for some in rows],
        16,
        **WORDS,
    )
    for slots, some, images in zip(laid.image_slot, rows, laid.images, strict=True):
        assert slots[slots >= 0].tolist() == list(range(2 * sum(some)))
        assert images == sum(some)
    starts = (laid.position == 0) & (laid.segment > 0)
    assert (laid.weight[starts] == 0).all(), "the context before is another conversation"
    assert starts.sum() == sum(map(len, rows))


def test_conversations_longer_than_their_row():
    with pytest.raises(DataError, match=r"longer than their row in row 1; expected at most 4.*5"):
        lay_out([[row([1, 2])], [row([1, 2, 3]), row([4, 5])]], 4, **WORDS)


def test_placeholders_of_another_number_of_images():
    with pytest.raises(DataError, match="the placeholders are not those of the images"):
        lay_out([[Row([1, IMAGE, IMAGE], [0.0] * 3, 2)]], 8, **WORDS)
    with pytest.raises(DataError, match="the placeholders are not those of the images"):
        lay_out([[Row([1, IMAGE, IMAGE], [0.0] * 3, 0)], [Row([1], [0.0], 1)]], 8, **WORDS)


def test_an_id_outside_the_vocabulary():
    with pytest.raises(DataError, match="an id outside the vocabulary"):
        lay_out([[row([1, 20])]], 8, **WORDS)


# ---- the loss ------------------------------------------------------------------------------------


def as_batch(laid, pixels: list[np.ndarray]) -> Batch:
    most = int(laid.images.max())
    index = np.arange(most)
    first = np.cumsum(laid.images) - laid.images
    of = np.where(index < laid.images[:, None], first[:, None] + index, -1).astype(np.int32)
    b = len(laid.tokens)
    return Batch(
        {}, laid.tokens, laid.segment, laid.position, laid.weight, laid.image_slot,
        np.zeros((b, 0), np.float32), np.zeros((b, 0), bool), np.arange(b, dtype=np.int32),
        Images(np.stack(pixels), of),
    )  # fmt: skip


def test_packed_loss_is_unpacked_loss():
    said = dataclasses.replace(processor(), template="plain")
    asked = [
        ("<image>", "A big lake.", 1),
        ("<image>", "There are some trees near the water, and a dog.", 1),
        ("<image><image>", "Yes.", 2),
        ("<image>", "I see a dog.", 1),
        ("<image>", "No.", 1),
    ]
    rows = []
    for question, answer, images in asked:
        found = said.encode([Message("user", question), Message("assistant", answer)])
        assert found.images == images
        rows.append(found)
    random = np.random.default_rng(0)
    pictures = [random.standard_normal((8, 8, 3)).astype(np.float32) for _ in range(6)]
    words = {
        "vocabulary": said.vocab_size,
        "image_token": said.image_token,
        "per_image": said.per_image,
    }
    capacity = sum(len(r.ids) for r in rows[:3])
    packed = as_batch(lay_out([rows[:3], rows[3:]], capacity, **words), pictures)
    padded = as_batch(lay_out([[r] for r in rows], capacity, **words), pictures)

    config = model()
    vlm = VisionLanguageModel(config, image_token=said.image_token, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(vlm)

    @jax.jit
    def loss(params, batch):
        made = nnx.merge(graphdef, params)
        return text_loss(made.decoder, made(batch).hidden, batch.tokens, batch.weight)

    (a, n), (b, m) = loss(params, packed), loss(params, padded)
    assert n == m == sum(sum(r.weight[1:]) for r in rows)
    assert a / n == pytest.approx(float(b / m), rel=1e-6)
    # And it would show: a conversation that reads the one before has another loss.
    leaking = dataclasses.replace(packed, segment=np.minimum(packed.segment, 1))
    assert abs(float(loss(params, leaking)[0] - a) / n) > 1e-3
