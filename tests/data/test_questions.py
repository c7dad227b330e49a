"""What is asked, how often, and that it fits a small decoder."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm_jax.data import Facts, Questions, Tokenizer
from rsvlm_jax.data.questions import (
    HELD_OUT,
    REFUSAL,
    TARGET,
    UNKNOWN_HELD_OUT,
    number_word,
)

FACTS = Facts(("Sentinel-2",), True, False, 5, 13, 10.0, 8)


@pytest.fixture(scope="module")
def questions() -> Questions:
    return Questions("tree cover", FACTS)


def test_counts(questions: Questions):
    assert len(set(TARGET)) == len(questions.target) >= 20
    assert len({qa.question for qa in questions.other}) == len(questions.other) >= 12
    assert len(set(HELD_OUT)) == len(questions.held_out) >= 5
    assert len(Questions("tree cover").other) >= 10, "questions that need no fact"


def test_held_out_wordings_are_not_trained_on(questions: Questions):
    assert not set(HELD_OUT) & set(TARGET)
    assert {qa.answer for qa in questions.held_out} == {"The tree cover is <reg>."}


def test_questions_that_no_image_answers_are_held_out_too(questions: Questions):
    assert len(set(UNKNOWN_HELD_OUT)) == len(questions.held_out_other) >= 2
    assert not set(UNKNOWN_HELD_OUT) & {qa.question for qa in questions.pairs}
    assert {qa.answer for qa in questions.held_out_other} == {REFUSAL}


def test_only_questions_about_the_target_have_a_number(questions: Questions):
    assert all(qa.about_target and "tree cover" in qa.question for qa in questions.target)
    assert not any(qa.about_target or "tree cover" in qa.question for qa in questions.other)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What sensor took this image?", "Sentinel-2."),
        ("How many dates are shown?", "Five."),
        ("What is the ground sampling distance?", "10 meters."),
        ("How many bands are there?", "Thirteen."),
        ("Is this a radar image?", "No."),
        ("How many people live here?", REFUSAL),
    ],
)
def test_answers(questions: Questions, question: str, answer: str):
    assert dict(questions.other)[question] == answer


def test_an_unknown_fact_is_not_asked_about():
    asked = " ".join(qa.question for qa in Questions("tree cover", Facts(gsd=10.0)).other)
    assert "sampling distance" in asked
    assert "sensor" not in asked
    assert "dates" not in asked


@pytest.mark.parametrize("name", ["tree cover", "greenness", "above-ground biomass"])
def test_short_enough_for_the_small_decoder(name: str):
    t = Tokenizer.shipped()
    both = Questions(name, FACTS)
    for qa in (*both.pairs, *both.held_out, *both.held_out_other):
        n = len(t.encode(qa.question + "\n")) + len(t.encode(qa.answer.replace("<reg>", "")))
        assert n <= 64, f"{n} tokens: {qa}"


def test_draw_depends_on_seed_and_position_only(questions: Questions):
    whole = questions.draw(7, 0, 100)
    parts = np.concatenate([questions.draw(7, 0, 33), questions.draw(7, 33, 67)])
    np.testing.assert_array_equal(whole, parts)
    assert (whole != questions.draw(8, 0, 100)).any()


def test_shares(questions: Questions):
    rows = questions.draw(0, 0, 20000)
    assert abs((rows < len(questions.target)).mean() - 0.6) < 0.02
    assert set(rows) == set(range(len(questions.pairs)))


@pytest.mark.parametrize(("n", "word"), [(0, "Zero"), (5, "Five"), (20, "Twenty"), (68, "68")])
def test_number_word(n: int, word: str):
    assert number_word(n) == word
