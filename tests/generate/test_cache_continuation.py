"""Going on after what was said: as if it had all been one prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from talker import ALL, NEW, PREFIX, made, say, say_on

from rsvlm_jax.generate.prefix import encode_prefix
from rsvlm_jax.models.llama import Llama

QUESTION = jnp.asarray(np.random.default_rng(6).standard_normal((3, 4, 16)), jnp.float32)
ASKED = jnp.asarray([[1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]], bool)


@pytest.fixture(scope="module")
def decoder() -> Llama:
    return made(Llama, seed=2)


def one_prompt(model: Llama, row: int, said: list[int]) -> jax.Array:
    """Prompt, answer and question of one sample, without padding."""
    answer = model.embed(jnp.asarray(said, jnp.int32).reshape(1, -1))
    question = QUESTION[row][np.asarray(ASKED[row])][None]
    return jnp.concatenate([PREFIX[row : row + 1], answer, question], axis=1)


@pytest.mark.parametrize("asked", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_second_turn_is_that_of_one_long_prompt(decoder: Llama, asked: dict) -> None:
    first = say(decoder, keep_cache=True, cache_length=32, eos=(4, 18))
    second = say(decoder, QUESTION, ASKED, cache=first.cache, **asked)
    assert len(set(first.length.tolist())) > 1  # texts of different length
    for row in range(3):
        said = first.tokens[row, : int(first.length[row])].tolist()
        prompt = one_prompt(decoder, row, said)
        pad = jnp.zeros((1, 20 - prompt.shape[1], 16), jnp.float32)
        valid = jnp.arange(20)[None, :] >= pad.shape[1]
        alone = say(decoder, jnp.concatenate([pad, prompt], axis=1), valid, **asked)
        assert second.length[row] == alone.length[0]
        assert second.tokens[row].tolist() == alone.tokens[0].tolist()
        np.testing.assert_allclose(second.score[row], alone.score[0], rtol=1e-4)


def test_a_cache_is_not_used_up(decoder: Llama) -> None:
    cache = say(decoder, keep_cache=True, cache_length=40).cache
    one, two = (say(decoder, QUESTION, ASKED, cache=cache) for _ in range(2))
    np.testing.assert_array_equal(one.tokens, two.tokens)


def test_a_shared_prefix_is_not_used_up(decoder: Llama) -> None:
    prefix = encode_prefix(decoder, PREFIX[:1], ALL[:1])
    whole = jnp.concatenate([jnp.tile(PREFIX[:1], (3, 1, 1)), QUESTION], axis=1)
    alone = say(decoder, whole, jnp.concatenate([ALL, ASKED], axis=1))
    for _ in range(2):
        out = say(decoder, QUESTION, ASKED, cache=prefix.cache(3, 4 + NEW))
        np.testing.assert_array_equal(out.tokens, alone.tokens)
        np.testing.assert_allclose(out.score, alone.score, rtol=1e-5)


def test_three_turns_streamed(decoder: Llama) -> None:
    """Each turn after the cache of the one before, in chunks and at once."""
    streamed = whole = None
    for turn in range(3):
        x, valid = (PREFIX, ALL) if turn == 0 else (QUESTION * turn, ASKED)
        asked = {"keep_cache": True, "max_new_tokens": 4}
        if turn == 0:
            asked["cache_length"] = 26
        whole = say(decoder, x, valid, cache=whole and whole.cache, **asked)
        on = say_on(decoder, x, valid, chunk=2, cache=streamed and streamed.cache, **asked)
        streamed = on.result
        np.testing.assert_array_equal(streamed.tokens, whole.tokens)
        np.testing.assert_array_equal(streamed.cache.tokens(), whole.cache.tokens())


def test_the_cache_holds_prompt_and_text_without_the_end(decoder: Llama) -> None:
    out = say(decoder, keep_cache=True, eos=4)
    np.testing.assert_array_equal(out.cache.tokens(), 5 + np.asarray(out.length))
    assert (np.asarray(out.length) < NEW).any()
    assert 4 in np.asarray(out.tokens)


def test_a_stop_string_leaves_nothing_behind_it(decoder: Llama) -> None:
    """The next turn does not see what was read behind a stop string."""

    def decode(ids: object) -> str:
        return "".join(chr(97 + i) for i in ids)

    free = say(decoder, eos=())
    stop = (decode(free.tokens[0, 2:3].tolist()),)
    asked = {"eos": (), "stop": stop, "decode": decode, "keep_cache": True, "cache_length": 32}
    turns = []
    for chunk in (1, 8):
        first = say_on(decoder, chunk=chunk, **asked).result
        turns.append(say(decoder, QUESTION, ASKED, cache=first.cache))
    assert int(first.length[0]) == 3
    np.testing.assert_array_equal(turns[0].tokens, turns[1].tokens)
    pad = jnp.zeros((1, 8, 16), jnp.float32)
    prompt = one_prompt(decoder, 0, free.tokens[0, :3].tolist())
    valid = jnp.arange(20)[None, :] >= 8
    alone = say(decoder, jnp.concatenate([pad, prompt], axis=1), valid)
    np.testing.assert_array_equal(turns[0].tokens[0], alone.tokens[0])
