"""Draws: the right shares, the same whatever stands beside them, greedy in the limit."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from talker import ALL, NEW, PREFIX, made, say, say_on, uncached

from rsvlm_jax.config import GenerationConfig
from rsvlm_jax.generate.sampling import Filters, Sampling, best, draw, filtered
from rsvlm_jax.models.llama import Llama

HOT = {"temperature": 3.0, "top_p": 0.95, "repetition_penalty": 1.2}
SCORES = jnp.asarray([[1.0, 2.0, 0.5, 3.0, -jnp.inf, 2.5]], jnp.float32)


@pytest.fixture(scope="module")
def decoder() -> Llama:
    return made(Llama, seed=2)


def draws(config: GenerationConfig, scores: jax.Array, n: int) -> np.ndarray:
    """`n` tokens of each row, at as many steps."""
    filters, sampling = Filters.of(config), Sampling.of(config)
    steps = jnp.arange(n, dtype=jnp.int32)
    return np.asarray(jax.jit(jax.vmap(lambda s: draw(scores, filters, sampling, s)))(steps)).T


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(temperature=1.0),
        GenerationConfig(temperature=2.0, top_k=3),
        GenerationConfig(temperature=0.7, top_p=0.8, seed=4),
        GenerationConfig(temperature=3.0, min_p=0.5),
    ],
)
def test_tokens_come_as_often_as_they_should(config: GenerationConfig) -> None:
    n = 20_000
    kept = filtered(SCORES, Filters.of(config), Sampling.of(config))
    share = np.asarray(jax.nn.softmax(kept, axis=1), np.float64)[0]
    count = np.bincount(draws(config, SCORES, n)[0], minlength=6)
    assert (count[share == 0] == 0).all()
    spread = np.sqrt(n * share * (1 - share))
    assert (np.abs(count - n * share) <= 4 * spread + 1e-6).all()


def test_rows_are_drawn_independently() -> None:
    first, second = draws(GenerationConfig(temperature=1.0), jnp.tile(SCORES, (2, 1)), 5_000)
    joint = np.histogram2d(first, second, bins=6, range=((0, 6), (0, 6)))[0] / 5_000
    np.testing.assert_allclose(joint, joint.sum(1)[:, None] * joint.sum(0)[None], atol=0.02)


def test_ties_are_kept_together() -> None:
    config = GenerationConfig(temperature=1.0, top_k=2)
    tied = jnp.asarray([[0.0, 1.0, 1.0, 1.0, -0.0]], jnp.float32)
    kept = filtered(tied, Filters.of(config), Sampling.of(config))
    assert jnp.isfinite(kept).tolist() == [[False, True, True, True, False]]
    config = dataclasses.replace(config, top_k=4)  # 0.0 and -0.0 are the same score
    assert jnp.isfinite(filtered(tied, Filters.of(config), Sampling.of(config))).all()


def test_the_best_token_is_the_first_of_the_highest() -> None:
    scores = jnp.asarray([[0.0, 2.0, 2.0], [-jnp.inf, -jnp.inf, -5.0]], jnp.float32)
    assert best(scores).tolist() == [1, 2]


def test_a_tiny_temperature_is_greedy_whatever_the_seed(decoder: Llama) -> None:
    greedy = say(decoder)
    for seed in range(3):
        drawn = say(decoder, temperature=1e-6, top_k=5, top_p=0.9, min_p=0.1, seed=seed)
        np.testing.assert_array_equal(drawn.tokens, greedy.tokens)
        np.testing.assert_allclose(drawn.score, greedy.score, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1e-50, 1e-42, 5e-324])
def test_a_temperature_below_float32_is_greedy_too(decoder: Llama, temperature: float) -> None:
    drawn = say(decoder, temperature=temperature, seed=4)
    np.testing.assert_array_equal(drawn.tokens, say(decoder).tokens)


def test_a_seed_is_a_text_and_another_seed_another(decoder: Llama) -> None:
    one, again, other = (say(decoder, eos=(), **HOT, seed=s).tokens for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).any(axis=1).all()
    same = say(decoder, jnp.repeat(PREFIX[:1], 3, axis=0), eos=(), **HOT).tokens
    assert len({tuple(row) for row in np.asarray(same).tolist()}) == 3  # rows differ


def test_draws_do_not_depend_on_neighbours(decoder: Llama) -> None:
    together = say(decoder, **HOT)
    alone = say(decoder, PREFIX[:1], ALL[:1], **HOT)
    np.testing.assert_array_equal(alone.tokens, together.tokens[:1])
    changed = say(decoder, PREFIX.at[1:].multiply(-1.0), **HOT)
    np.testing.assert_array_equal(changed.tokens[0], together.tokens[0])
    assert (np.asarray(changed.tokens[1]) != np.asarray(together.tokens[1])).any()


def test_draws_do_not_depend_on_chunks(decoder: Llama) -> None:
    whole = say(decoder, **HOT)
    for chunk in (1, 3, 8):
        streamed = say_on(decoder, chunk=chunk, **HOT)
        tokens = np.concatenate([c.tokens for c in streamed], axis=1)
        np.testing.assert_array_equal(streamed.result.tokens, whole.tokens)
        np.testing.assert_array_equal(tokens, whole.tokens[:, : tokens.shape[1]])


def test_the_score_is_the_log_probability_of_the_text(decoder: Llama) -> None:
    """The decoder's own, whatever was asked of the draw; the end token counts."""
    out = say(decoder, **HOT, seed=3, eos=(1, 10))
    x = jnp.concatenate([PREFIX, decoder.embed(out.tokens)], axis=1)
    _, logits = uncached(decoder, x, jnp.ones(x.shape[:2], jnp.int32))
    said = jax.nn.log_softmax(logits[:, 4:-1])
    each = jnp.take_along_axis(said, out.tokens[:, :, None], axis=2)[:, :, 0]
    counts = jnp.arange(NEW)[None, :] <= out.length[:, None]
    np.testing.assert_allclose(out.score, jnp.where(counts, each, 0.0).sum(axis=1), rtol=1e-4)
    assert (np.asarray(out.length) < NEW).any()


def test_a_penalty_looks_at_the_prompt_and_at_the_text(decoder: Llama) -> None:
    free = say(decoder, eos=())
    first = jnp.full((3, 2), -1, jnp.int32).at[:, 0].set(free.tokens[:, 0])
    shy = say(decoder, eos=(), repetition_penalty=1e6, prompt_tokens=first)
    for row in range(3):
        said = shy.tokens[row].tolist()
        assert int(free.tokens[row, 0]) not in said  # not again
        assert len(set(said)) == NEW  # nothing twice
    unasked = say(decoder, eos=(), repetition_penalty=1e6)
    np.testing.assert_array_equal(unasked.tokens[:, 0], free.tokens[:, 0])
