"""Draws of numbers: the texts' own distribution, found by force; all well-formed."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from talker import made

from rsvlm_jax.data.numbers import CHARACTERS, NumberFormat
from rsvlm_jax.generate import generate
from rsvlm_jax.generate.numbers import Drawn, draw_texts, number_machine, values_of
from rsvlm_jax.models.llama import Llama

IDS = tuple(range(3, 3 + len(CHARACTERS)))
EOS = 2
FORMATS = [
    NumberFormat("digits", 4, 1),
    NumberFormat("digits", 3, 2, signed=True),
    NumberFormat("digits", 2),
    NumberFormat("p10", 4),
    NumberFormat("p10", 1),
]


@pytest.fixture(scope="module")
def decoder():
    return made(Llama, 3)


@pytest.fixture(scope="module")
def prompt(decoder):
    tokens = jnp.asarray([[1, 7, 9, 20, 21], [1, 8, 3, 20, 10]])
    return 0.3 * decoder.embed(tokens), jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]) > 0


@functools.cache
def jitted(decoder, form: NumberFormat, draws: int):
    machine = number_machine(form, IDS, decoder.config.vocab_size)
    return jax.jit(lambda x, v: draw_texts(decoder, x, v, machine, IDS, form.width, draws))


def drawn(decoder, prompt, form: NumberFormat, draws: int) -> np.ndarray:
    return np.asarray(jitted(decoder, form, draws)(*prompt))


def in_words(texts: np.ndarray) -> list[str]:
    return ["".join(CHARACTERS[i] for i in text) for text in texts]


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f"{f.kind}{f.digits}{f.signed}")
def test_every_draw_can_be_read_and_is_its_value(decoder, prompt, form):
    texts = drawn(decoder, prompt, form, 32)
    values = np.asarray(values_of(form, jnp.asarray(texts)))
    for row, found in zip(texts, values, strict=True):
        expected = [form.read(t) for t in in_words(row)]
        assert None not in expected
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_draws_are_the_quantiles_of_the_distribution_of_texts(decoder, prompt):
    """All hundred texts of two digits, each scored by a pass of its own."""
    form, n = FORMATS[2], 400
    embeds, valid = prompt
    length = int(valid[0].sum())
    digits = np.array([IDS[CHARACTERS.index(c)] for c in "0123456789"])

    @jax.jit
    def shares(tokens: jax.Array) -> jax.Array:
        x = jnp.concatenate([embeds[:1], decoder.embed(tokens)[None]], axis=1)
        count = length + len(tokens)
        mask = jnp.tril(jnp.ones((count, count), bool))[None, None]
        hidden = decoder(x, mask, jnp.arange(count)[None])
        scores = decoder.logits(hidden)[0, -1, digits]
        return jax.nn.softmax(scores)

    def share(tokens: jax.Array) -> np.ndarray:
        return np.asarray(shares(tokens), np.float64)

    first = share(jnp.zeros(0, jnp.int32))
    probability = np.concatenate([first[i] * share(jnp.asarray(digits[i : i + 1]))
                                  for i in range(10)])  # fmt: skip
    found = np.sort(np.asarray(values_of(form, jnp.asarray(drawn(decoder, prompt, form, n))))[0])
    upper = np.cumsum(probability)
    for i, value in enumerate(found.astype(int)):
        u = (i + 0.5) / n
        assert upper[value] - probability[value] - 1e-4 <= u <= upper[value] + 1e-4


def test_a_row_does_not_depend_on_its_neighbours_nor_on_padding(decoder, prompt):
    embeds, valid = prompt
    both = drawn(decoder, prompt, FORMATS[3], 8)
    alone = drawn(decoder, (embeds[1:, :3], valid[1:, :3]), FORMATS[3], 8)
    np.testing.assert_array_equal(both[1], alone[0])
    noise = jnp.where(valid[:, :, None], embeds, 1e3)
    np.testing.assert_array_equal(drawn(decoder, (noise, valid), FORMATS[3], 8), both)


@pytest.mark.parametrize("form", [FORMATS[1], FORMATS[3]], ids=["digits", "p10"])
def test_greedy_decoding_with_the_machine_writes_a_number_and_ends(decoder, prompt, form):
    from rsvlm_jax.config import GenerationConfig

    machine = number_machine(form, IDS, decoder.config.vocab_size)
    config = GenerationConfig(max_new_tokens=form.width + 1)
    made = generate(decoder, *prompt, config=config, eos=EOS, machine=machine)
    for ids, length in zip(np.asarray(made.tokens), np.asarray(made.length), strict=True):
        assert length == form.width
        text = "".join(CHARACTERS[IDS.index(int(i))] for i in ids[:length])
        assert form.read(text) is not None


def test_the_distribution_of_draws_by_hand():
    values = jnp.asarray([[1.0, 2.0, 3.0, 10.0], [5.0, 5.0, 5.0, 5.0]])
    found = Drawn(values)
    np.testing.assert_allclose(found.mean[:, 0], [4.0, 5.0])
    np.testing.assert_allclose(found.median[:, 0], [2.5, 5.0])
    np.testing.assert_allclose(found.quantile(0.01)[:, 0], [1.0, 5.0])
    np.testing.assert_allclose(found.quantile(0.875)[:, 0], [10.0, 5.0])
    assert found.spread[1, 0] == pytest.approx(5e-3)
    for a, b in itertools.pairwise((0.05, 0.16, 0.5, 0.84, 0.95)):
        assert (np.asarray(found.quantile(a)) <= np.asarray(found.quantile(b))).all()
