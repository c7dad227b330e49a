"""Prompt layout, loss weights, numbers as words."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsvlm_jax.config import DataError
from rsvlm_jax.data import Tokenizer, format_number
from rsvlm_jax.data.text import check_placeholders, ids_of, pad, stack

T = Tokenizer.shipped()
N, Q = 4, 3


def lay_out(question=None, answer=None, length=96):
    return pad(T, *ids_of(T, N, Q, question, answer), length)


def test_plain():
    text = lay_out(length=10)
    assert text.tokens.tolist() == [1, 512, 512, 512, 512, 513, 513, 513, 0, 0]
    assert text.segment.tolist() == [1] * 8 + [0] * 2
    assert text.position.tolist() == [*range(8), 0, 0]
    assert text.image_slot.tolist() == [-1, 0, 1, 2, 3, -1, -1, -1, -1, -1]
    assert not text.weight.any()


def test_only_the_answer_and_the_first_reg_are_supervised():
    text = lay_out("What is the tree cover?", "The tree cover is <reg>.")
    start = 1 + N + len(T.encode("What is the tree cover?\n"))
    said = len(T.encode("The tree cover is"))
    assert not text.weight[:start].any()
    assert text.weight[start : start + said].all()
    reg = np.flatnonzero(text.tokens == T.reg)
    assert reg.tolist() == [start + said, start + said + 1, start + said + 2]
    assert text.weight[reg].tolist() == [1, 0, 0]
    assert text.tokens[int(text.used) - 1] == T.eos
    assert text.weight[reg[-1] + 1 : int(text.used)].all()
    assert not text.weight[int(text.used) :].any()


def test_where_the_answer_begins():
    open_one = lay_out("What is the tree cover?")
    texts = stack([lay_out("What is the tree cover?", "The tree cover is <reg>."), open_one])
    assert texts.answer.tolist() == [int(open_one.used), -1]
    assert int(lay_out().answer) == -1
    assert texts.take(np.array(0)).repeat(2).answer.tolist() == [int(open_one.used)] * 2


def test_an_answer_without_a_number_has_no_reg():
    text = lay_out("How many dates are shown?", "Five.")
    assert T.reg not in text.tokens
    assert text.weight.sum() == len(T.encode("Five.")) + 1


def test_inference_prompt_is_the_prefix_of_the_training_prompt():
    asked = lay_out("What is the tree cover?")
    pair = lay_out("What is the tree cover?", "The tree cover is <reg>.")
    n = int(asked.used)
    for a, b in (
        (asked.tokens, pair.tokens),
        (asked.position, pair.position),
        (asked.segment, pair.segment),
        (asked.image_slot, pair.image_slot),
    ):
        np.testing.assert_array_equal(a[:n], b[:n])
    assert pair.weight[n] == 1, "the answer begins where the prompt ends"


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 20))
def test_slots_and_padding(visual: int, reg: int, spare: int):
    ids, weights = ids_of(T, visual, reg, "How big?", "It is <reg>.")
    text = pad(T, ids, weights, len(ids) + spare)
    slots = text.image_slot[text.image_slot >= 0]
    assert slots.tolist() == list(range(visual))
    assert (text.tokens[text.image_slot >= 0] == T.image).all()
    assert int(text.used) == len(ids)
    assert text.weight[0] == 0
    check_placeholders(text, T, visual, reg)


def test_prompt_too_long():
    n = 1 + N + len(T.encode("What is the tree cover?\n"))
    assert int(lay_out("What is the tree cover?", length=n).used) == n
    with pytest.raises(DataError, match=f"too long in prompt; expected at most {n - 1} .*{n}"):
        lay_out("What is the tree cover?", length=n - 1)


@pytest.mark.parametrize("mark", ["<image>", "<reg>", "</s>", "<s>"])
def test_placeholder_in_a_question(mark: str):
    with pytest.raises(DataError, match=r"a placeholder in the question"):
        lay_out(f"What is {mark} here?")


def test_empty_question():
    with pytest.raises(DataError, match=r"an empty question"):
        lay_out("  ")


def test_two_numbers_in_an_answer():
    with pytest.raises(DataError, match=r"more than once in answer; expected one number; found 2"):
        lay_out("What?", "From <reg> to <reg>.")


def test_placeholder_mismatch_names_sample_and_counts():
    good = lay_out("What?", "It is <reg>.")
    short = pad(T, *ids_of(T, N - 1, Q, "What?", "It is <reg>."), 96)
    expected = r"sample 1 of the batch; expected 5 <image>|expected 4 <image> and 0 or 3 <reg>"
    with pytest.raises(DataError, match=expected) as e:
        check_placeholders(stack([good, short]), T, N, Q)
    assert "sample 1 of the batch" in str(e.value)
    assert "found 3 <image> and 3 <reg>" in str(e.value)


@pytest.mark.parametrize(
    ("value", "lo", "hi", "unit", "text"),
    [
        (0.6312, 0.4102, 0.8031, "1", "0.63 (90 %: 0.41-0.80)"),
        (132.2, 101.4, 167.9, "Mg/ha", "132 Mg/ha (90 %: 101-168)"),
        (0.6312, None, None, "1", "0.631"),
        (1532.7, 700.0, 2400.0, "m", "1533 m (90 %: 700-2400)"),
        (0.05, -0.102, 0.2, "1", "0.05 (90 %: -0.10 to 0.20)"),
        (-0.0001, -0.11, 0.12, "", "0.00 (90 %: -0.11 to 0.12)"),
        (0.00123, 0.00101, 0.00144, "1", "0.00123 (90 %: 0.00101-0.00144)"),
        (0.5, 0.5, 0.5, "1", "0.500 (90 %: 0.500-0.500)"),
        (math.nan, 0.1, 0.2, "1", "no estimate"),
        (0.25, math.nan, 0.5, "dB", "0.250 dB"),
    ],
)
def test_format(value, lo, hi, unit, text):
    assert format_number(value, lo, hi, unit) == text


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e5),
    st.floats(1e-6, 1e5),
)
def test_format_keeps_two_digits_of_the_width(value: float, below: float, above: float):
    text = format_number(value, value - below, value + above, "Mg/ha")
    number = r"(-?[\d.]+)"
    m = re.fullmatch(rf"{number} Mg/ha \(90 %: {number}(?: to |-){number}\)", text)
    assert m is not None
    shown = [float(g) for g in m.groups()]
    exact = (value, value - below, value + above)
    width = below + above
    for a, b in zip(shown, exact, strict=True):
        assert abs(a - b) <= max(0.051 * width, 1e-9 * abs(b)) or abs(a - b) <= 0.5 < width
    assert "-0 " not in text
