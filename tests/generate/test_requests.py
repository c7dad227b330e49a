"""What cannot be generated is refused in one line; what can is one program a shape."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from talker import ALL, EOS, PREFIX, REG, machine, made, say, say_on

from rsvlm_jax.config import ConfigError
from rsvlm_jax.models.llama import Llama

WORDS = machine((7, 8, 9), (7, 3, 4, 5))


@pytest.fixture(scope="module")
def decoder() -> Llama:
    return made(Llama, seed=2)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "cache_too_small": (
        {"cache_length": 6},
        r"the cache does not hold prompt and answer in generate\(cache_length\); "
        r"expected >= 5 \+ 8; found 6",
    ),
    "more_tokens_than_positions": (
        {"max_new_tokens": 44},
        r"more positions than the decoder was made for in generate\(max_new_tokens\); "
        r"expected prompt \+ max_new_tokens <= 48; found 5 \+ 44",
    ),
    "unknown_end_token": (
        {"eos": 24}, r"no such token in generate\(eos\); expected 0 .. 23; found 24",
    ),
    "unknown_banned_token": ({"banned": (-1,)}, r"no such token in generate\(banned\)"),
    "unknown_reg_token": ({"reg": (99, 2)}, r"no such token in generate\(reg\)"),
    "unknown_prompt_token": (
        {"prompt_tokens": jnp.full((3, 5), 24), "repetition_penalty": 2.0},
        r"no such token in generate\(prompt_tokens\)",
    ),
    "no_block": ({"reg": (23, 0)}, r"not a size in generate\(reg\); expected Q > 0; found 0"),
    "empty_row": (
        {"valid": ALL.at[1].set(False)},
        r"a prompt without a token in generate\(prefix_valid\[1\]\)",
    ),
    "machine_of_another_vocabulary": (
        {"machine": machine((7, 8), rows=30)},
        r"a machine of another vocabulary in generate\(machine\); expected 24 tokens; found 30",
    ),
    "machine_that_no_token_can_start": (
        {"machine": machine(())}, r"no token can start the text of this machine",
    ),
    "machine_without_an_end": (
        {"machine": machine((7, 8), end=False)},
        r"the shortest text of this machine does not fit in .*; found no text that ends",
    ),
    "machine_whose_shortest_text_does_not_fit": (
        {"machine": WORDS, "max_new_tokens": 2},
        r"the shortest text of this machine does not fit in generate\(max_new_tokens\); "
        r"expected at most 2 tokens; found 3 tokens",
    ),
    "machine_without_an_end_token": (
        {"machine": WORDS, "eos": ()}, r"a machine's text ends by an end token",
    ),
    "machine_that_writes_an_end_token": (
        {"machine": WORDS, "eos": (EOS, 8)},
        r"not together with this machine in generate\(eos\); .* never writes; found 8",
    ),
    "machine_that_writes_a_banned_token": (
        {"machine": WORDS, "banned": (3,)}, r"not together with this machine in generate\(banned\)",
    ),
    "machine_and_reg": (
        {"machine": WORDS, "reg": (REG, 2)}, r"not together with this machine in generate\(reg\)",
    ),
    "beams_and_reg": (
        {"num_beams": 2, "reg": (REG, 2)}, r"not together with beams in generate\(reg\)",
    ),
    "beams_and_hidden": (
        {"num_beams": 2, "keep_hidden": True}, r"not together with beams in generate\(keep_hidden",
    ),
    "beams_and_cache": (
        {"num_beams": 2, "keep_cache": True}, r"not together with beams in generate\(keep_cache\)",
    ),
    "machine_and_stop": (
        {"machine": WORDS, "stop": ("#",), "decode": str},
        r"a stop string would cut what a machine keeps whole in generate\(config\.stop\)",
    ),
    "stop_without_decode": ({"stop": ("#",)}, r"stop strings are found in text in generate\(deco"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(decoder: Llama, name: str) -> None:
    asked, line = REFUSED[name]
    for ask in (say, say_on) if "num_beams" not in asked else (say,):
        with pytest.raises(ConfigError, match=line) as error:
            ask(decoder, **asked)
        assert "\n" not in str(error.value)


def test_refused_caches(decoder: Llama) -> None:
    filled = say(decoder, cache_length=16, max_new_tokens=2, keep_cache=True).cache
    for asked, line in (
        ({}, r"the cache does not hold .* in generate\(cache\); expected >= 7 \+ 5 \+ 8; found 16"),
        ({"cache_length": 30}, r"a cache and the length of one in generate\(cache_length\)"),
    ):
        with pytest.raises(ConfigError, match=line):
            say(decoder, cache=filled, **asked)
    with pytest.raises(ConfigError, match=r"another batch in generate\(cache\); expected 2 rows;"):
        say(decoder, PREFIX[:2], ALL[:2], cache=filled)


def test_refused_streams(decoder: Llama) -> None:
    with pytest.raises(ConfigError, match=r"beams are known only at the end .* use generate"):
        say_on(decoder, num_beams=2)
    with pytest.raises(ConfigError, match=r"not a size in stream\(chunk\)"):
        say_on(decoder, chunk=0)


def test_parameters_of_numpy_say_the_same(decoder: Llama) -> None:
    graphdef, state = nnx.split(decoder)
    other = nnx.merge(graphdef, jax.tree.map(np.asarray, state))
    np.testing.assert_array_equal(say(other).tokens, say(decoder).tokens)


def test_parameters_that_were_changed_are_used() -> None:
    """What was prepared for a decoder is kept, but not longer than its parameters."""
    model, other = made(Llama, seed=2), made(Llama, seed=7)
    first = say(model).tokens.tolist()
    nnx.update(model, nnx.state(other))
    assert say(model).tokens.tolist() == say(other).tokens.tolist() != first


class Counting(Llama):
    """Counts how often its forward pass is traced."""

    traces = 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        Counting.traces += 1
        return super().__call__(*args, **kwargs)


def traces(*asked: dict[str, Any]) -> list[int]:
    """Of each request in turn, with weights of its own."""
    counts = []
    for seed, each in enumerate(asked):
        before = Counting.traces
        ask = say_on if "chunk" in each else say
        out = ask(made(Counting, seed=seed), **each)
        if "chunk" in each:
            assert out.result.tokens.shape[0] == 3
        counts.append(Counting.traces - before)
    return counts


PENALISED = {"prompt_tokens": jnp.full((3, 5), 4), "repetition_penalty": 2.0}


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (
            {"keep_hidden": True},
            [
                {"reg": (REG, 2), "banned": (5,), "eos": 3},
                {"valid": ALL.at[0, 3:].set(False), "eos": (1, 2), "keep_hidden": True},
                {"prefix": PREFIX + 1.0, "eos": (), "keep_hidden": True, "seed": 9},
                {"chunk": 3, "keep_hidden": True},
                {"chunk": 8, "reg": (REG, 3)},
            ],
        ),
        (
            {"temperature": 1.0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, **PENALISED},
            [
                {"temperature": 2.0, "top_k": 9, "top_p": 0.6, "min_p": 0.3, "seed": 4}
                | PENALISED | {"repetition_penalty": 0.5},
                {"temperature": 2.0, "top_k": 9, "top_p": 0.6, "min_p": 0.3, "chunk": 2}
                | PENALISED,
            ],
        ),
        (
            {"num_beams": 2},
            [
                {"num_beams": 2, "length_penalty": 0.5, "early_stopping": True, "eos": 4},
                {"num_beams": 2, "banned": (1, 2, 3), "seed": 2},
            ],
        ),
        (
            {"machine": WORDS},
            [{"machine": machine((3, 4, 5), (3, 7, 8, 9))}, {"machine": WORDS, "chunk": 2}],
        ),
    ],
    ids=["greedy", "drawn", "beams", "machine"],
)  # fmt: skip
def test_one_trace_serves_all_requests_of_a_shape(
    first: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    once, *more = traces(first, *others)
    assert once > 0
    assert more == [0] * len(others)
