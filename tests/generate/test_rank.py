"""Likelihood of given answers against whole forward passes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from talker import ALL, PREFIX, made

from rsvlm_jax.config import ConfigError
from rsvlm_jax.generate import rank
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import causal_segment_mask

ANSWERS = [[3, 4, 5], [3], [7, 1, 1, 9, 20], [23, 2]]
VALID = ALL.at[0, 3:].set(False).at[2, 0].set(False)


@pytest.fixture(scope="module")
def decoder() -> Llama:
    return made(Llama, seed=2)


@nnx.jit
def log_probabilities(model: Llama, x: jax.Array) -> jax.Array:
    position = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
    mask = causal_segment_mask(jnp.ones_like(position), position)
    return jax.nn.log_softmax(model.logits(model(x, mask, position)))[0]


def by_hand(model: Llama, prompt: jax.Array, answer: list[int]) -> float:
    x = jnp.concatenate([prompt, model.embed(jnp.asarray(answer, jnp.int32))])
    said = np.asarray(log_probabilities(model, x[None]))[len(prompt) - 1 : -1]
    return float(said[np.arange(len(answer)), answer].sum())


def test_it_is_the_sum_of_log_softmax_of_a_forward_pass(decoder: Llama) -> None:
    got = rank(decoder, jnp.where(VALID[..., None], PREFIX, jnp.nan), VALID, ANSWERS)
    for row in range(3):
        for i, answer in enumerate(ANSWERS):
            wanted = by_hand(decoder, PREFIX[row][np.asarray(VALID[row])], answer)
            assert got.total[row, i] == pytest.approx(wanted, rel=1e-5)
            assert got.mean[row, i] == pytest.approx(wanted / len(answer), rel=1e-5)


def test_answers_of_one_token(decoder: Llama) -> None:
    got = rank(decoder, PREFIX, ALL, [[i] for i in range(24)])
    np.testing.assert_allclose(jnp.exp(got.total).sum(axis=1), np.ones(3), rtol=1e-5)
    np.testing.assert_array_equal(got.total, got.mean)


def test_an_answer_does_not_depend_on_the_others(decoder: Llama) -> None:
    alone = [rank(decoder, PREFIX, ALL, [a]).total[:, 0] for a in ANSWERS]
    together = rank(decoder, PREFIX, ALL, ANSWERS).total
    np.testing.assert_allclose(together, jnp.stack(alone, axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ([], r"nothing to rank in rank\(answers\)"),
        ([[1], []], r"an empty answer in rank\(answers\[1\]\)"),
        ([[1, 24]], r"no such token in rank\(answers\[0\]\); expected 0 .. 23; found 24"),
        ([[1] * 44], r"prompt \+ answer <= 48; found 5 \+ 44"),
    ],
)
def test_impossible_answers(decoder: Llama, answers: list[list[int]], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        rank(decoder, PREFIX, ALL, answers)


def test_a_prompt_without_a_token(decoder: Llama) -> None:
    with pytest.raises(ConfigError, match=r"a prompt without a token in rank\(prefix_valid\[1\]\)"):
        rank(decoder, PREFIX, ALL.at[1].set(False), ANSWERS)
