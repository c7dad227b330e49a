"""Texts under a machine: always one of its words, whatever the decoder wants to say."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from talker import ALL, EOS, NEW, PREFIX, log_probability, machine, made, say, say_on

from rsvlm_jax.generate import Generated
from rsvlm_jax.models.llama import Llama

WORDS = ((7, 8, 9), (7, 3, 4, 5, 6, 7), (10,), (11, 12))
MACHINE = machine(*WORDS)


@pytest.fixture(scope="module")
def decoder() -> Llama:
    return made(Llama, seed=2)


def texts(out: Generated) -> list[tuple[int, ...]]:
    return [tuple(row[:n]) for row, n in zip(out.tokens.tolist(), out.length.tolist(), strict=True)]


def test_every_draw_is_a_word_and_all_words_come(decoder: Llama) -> None:
    prefix, valid = jnp.tile(PREFIX, (40, 1, 1)), jnp.tile(ALL, (40, 1))
    out = say(decoder, prefix, valid, machine=MACHINE, temperature=50.0)
    assert set(texts(out)) == set(WORDS)
    at = np.arange(NEW)[None, :]
    assert (np.asarray(out.tokens)[at >= np.asarray(out.length)[:, None]] == EOS).all()


@pytest.mark.parametrize("new", [1, 2, 3, 5])
def test_no_text_is_cut_short(decoder: Llama, new: int) -> None:
    """A word that does not fit into what is left is not begun."""
    prefix, valid = jnp.tile(PREFIX, (40, 1, 1)), jnp.tile(ALL, (40, 1))
    asked = {"machine": MACHINE, "temperature": 50.0, "max_new_tokens": new}
    fit = {word for word in WORDS if len(word) <= new}
    assert set(texts(say(decoder, prefix, valid, **asked))) == fit


def test_the_most_probable_word_is_said(decoder: Llama) -> None:
    """Of words of one token: the one with the best score."""
    free = say(decoder, max_new_tokens=1, banned=tuple(set(range(24)) - {4, 5, 6}))
    out = say(decoder, machine=machine((4,), (5,), (6,)))
    np.testing.assert_array_equal(out.tokens[:, 0], free.tokens[:, 0])
    assert out.length.tolist() == [1, 1, 1]


def test_streams_and_penalties_keep_to_the_machine(decoder: Llama) -> None:
    asked = {"machine": MACHINE, "temperature": 2.0, "top_p": 0.9, "repetition_penalty": 3.0}
    out = say_on(decoder, chunk=2, **asked).result
    assert set(texts(out)) <= set(WORDS)
    np.testing.assert_array_equal(out.tokens, say(decoder, **asked).tokens)


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_find_the_most_probable_of_all_words(decoder: Llama, beams: int) -> None:
    """With the sum of log-probabilities as rank, and as many beams as words: the best one."""
    out = say(decoder, machine=MACHINE, num_beams=beams, length_penalty=0.0)
    assert set(texts(out)) <= set(WORDS)
    for row, said in enumerate(texts(out)):
        each = {w: log_probability(decoder, PREFIX[row : row + 1], [*w, EOS]) for w in WORDS}
        np.testing.assert_allclose(out.score[row], each[said], rtol=1e-4)
        if beams == len(WORDS):
            assert said == max(each, key=lambda w: each[w])
