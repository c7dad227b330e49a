"""What a step of the decode loop moves: weights and slots are read, nothing is copied."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from talker import CONFIG, EOS, NEW, PREFIX, RNG, made, say, say_on

from rsvlm_jax.config import GenerationConfig
from rsvlm_jax.generate import chunks, encode_prefix, engine, generate
from rsvlm_jax.generate.request import Request, make_request
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import KVCache
from rsvlm_jax.nn.slots import by_layer, in_a_stack


def request(decoder: Llama, rows: int, cache: KVCache | None = None) -> Request:
    return make_request(
        decoder, PREFIX[:rows], jnp.ones((rows, 5), bool), cache=cache, eos=EOS, reg=None,
        config=GenerationConfig(max_new_tokens=NEW), banned=(), prompt_tokens=None, machine=None,
        cache_length=None, keep_hidden=False, keep_cache=False,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_copies_no_slots(rows: int) -> None:
    asked = request(made(Llama, seed=2), rows)
    state, _ = engine.start(asked)
    program = engine.advance().lower(
        asked.program, asked.leaves, asked.rules, state, np.int32(4), None, None
    )
    text = program.compile().as_text()
    body = re.search(r"body=(%[\w.\-]+)", text)
    assert body is not None
    step = text[text.index(f"\n{body.group(1)} (") :]
    step = step[: step.index("\n}")]
    size = rows * CONFIG.kv_heads * (5 + NEW) * CONFIG.head_width
    made_new = re.findall(r"= f32\[([\d,]+)\]\S* (copy|transpose)\(", step)
    assert not [s for s, _ in made_new if np.prod([int(n) for n in s.split(",")]) >= size]
    writes = re.findall(r"= f32\[[\d,]+\]\S* fusion\(.*dynamic_update_slice", step)
    assert len(writes) <= 2 * CONFIG.layers + 1  # keys and values of a layer; the scores said


def test_a_prefix_is_handed_around_programs() -> None:
    decoder = made(Llama, seed=2)
    prefix = encode_prefix(decoder, PREFIX[:1], jnp.ones((1, 5), bool))
    state, _ = engine.start(request(decoder, 3, prefix.cache(3, 5 + NEW)))
    assert state.cache.shared is prefix


def test_slots_of_unrolled_layers_are_those_of_the_stack() -> None:
    stack = made(Llama, seed=2).empty_cache(3, 4, jnp.int8).slots
    stack = jax.tree.map(lambda x: jnp.asarray(RNG.integers(-9, 9, x.shape)).astype(x.dtype), stack)
    layers = by_layer(stack)
    assert layers[0].k.shape == (3 * CONFIG.kv_heads, CONFIG.head_width, 4)
    jax.tree.map(np.testing.assert_array_equal, in_a_stack(layers, 3), stack)
    rows = jnp.asarray([2, 0])
    picked = in_a_stack(tuple(s.rows(rows, 3) for s in layers), 2)
    jax.tree.map(np.testing.assert_array_equal, picked, stack.rows(rows, 3))


@pytest.mark.parametrize(("unseen", "sizes"), [(1e9, [1, 2, 2, 4, 8, 3]), (0.0, [1, *[2] * 9, 1])])
def test_chunks_grow_where_they_come_fast(
    monkeypatch: pytest.MonkeyPatch, unseen: float, sizes: list[int]
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 2)
    monkeypatch.setattr(chunks, "UNSEEN", unseen)
    streamed = say_on(made(Llama, seed=2), eos=(), max_new_tokens=20)
    assert [c.tokens.shape[1] for c in streamed] == sizes


def test_generate_looks_for_stop_strings_in_growing_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "UNSEEN", 1e9)
    decoder = made(Llama, seed=2)
    free = say(decoder, eos=(), max_new_tokens=20)
    stop = str(int(free.tokens[0, 11])).join("<>")
    asked = GenerationConfig(max_new_tokens=20, stop=(stop,))
    got = generate(
        decoder, PREFIX[:1], jnp.ones((1, 5), bool), config=asked, eos=(),
        decode=lambda ids: "".join(f"<{i}>" for i in ids),
    )  # fmt: skip
    first = 1 + free.tokens[0].tolist().index(int(free.tokens[0, 11]))
    assert got.length.tolist() == [first]
