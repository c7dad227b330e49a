"""One prompt shared by many texts: the same tokens and states as if each had read it itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from talker import ALL, CONFIG, NEW, PREFIX, RNG, say, say_on

from rsvlm_jax.config import ConfigError, GPT2Config
from rsvlm_jax.generate import encode_prefix
from rsvlm_jax.models.gpt2 import GPT2
from rsvlm_jax.models.llama import Llama
from rsvlm_jax.nn import Slots, cache_mask
from rsvlm_jax.nn.slots import by_layer

IMAGE = jnp.asarray(RNG.standard_normal((1, 11, 16)), jnp.float32)
SEEN = jnp.ones((1, 11), bool).at[0, 4:6].set(False)  # visual tokens that are missing
KINDS = {
    "llama": (Llama, CONFIG),
    "window": (Llama, dataclasses.replace(CONFIG, sliding_window=6)),
    "gpt2": (GPT2, GPT2Config(vocab_size=24, width=16, layers=2, heads=4, mlp_dim=24)),
}
SEED = {"llama": 2, "window": 2, "gpt2": 7}  # of which each says several things
VALID = ALL.at[0, 3:].set(False).at[2, 0].set(False)


def made(name: str) -> Llama | GPT2:
    kind, config = KINDS[name]
    graphdef, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(SEED[name])
    return nnx.merge(
        graphdef,
        jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), state),
    )


@pytest.fixture(scope="module", params=list(KINDS))
def decoder(request: pytest.FixtureRequest) -> Llama | GPT2:
    return made(request.param)


def whole(valid: jax.Array = VALID) -> tuple[jax.Array, jax.Array]:
    """Prefix and questions as one prompt."""
    shared = [jnp.repeat(x, 3, axis=0) for x in (IMAGE, SEEN)]
    return jnp.concatenate([shared[0], PREFIX], axis=1), jnp.concatenate([shared[1], valid], axis=1)


def test_greedy_text_and_states_after_a_prefix_equal_those_without(decoder: Llama) -> None:
    prefix = encode_prefix(decoder, jnp.where(SEEN[..., None], IMAGE, jnp.nan), SEEN)
    wanted = say(decoder, *whole(), keep_hidden=True)
    assert len(set(np.asarray(wanted.tokens).ravel().tolist())) > 3  # a text that says something
    cache = prefix.cache(3, 5 + NEW)
    got = say(decoder, PREFIX, VALID, cache=cache, keep_hidden=True, keep_cache=True)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.hidden, wanted.hidden, rtol=1e-5, atol=1e-5)
    logits = [np.asarray(decoder.logits(x.hidden)) for x in (got, wanted)]
    assert np.abs(logits[0] - logits[1]).max() <= 1e-5 * np.abs(logits[1]).max()
    again = say(decoder, PREFIX, VALID, cache=cache)  # the prefix was not used up
    np.testing.assert_array_equal(again.tokens, wanted.tokens)
    assert got.cache.tokens().tolist() == (9 + VALID.sum(axis=1) + got.length).tolist()


def test_beams_and_streams_after_a_prefix() -> None:
    decoder = made("llama")
    cache = encode_prefix(decoder, IMAGE, SEEN).cache(3, 5 + NEW)
    asked = {"num_beams": 3}
    wanted = say(decoder, *whole(), **asked)
    got = say(decoder, PREFIX, VALID, cache=cache, **asked)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.score, wanted.score, rtol=1e-5)
    streamed = say_on(decoder, PREFIX, VALID, cache=cache, chunk=3)
    chunks = np.concatenate([c.tokens for c in streamed], axis=1)
    wanted = say(decoder, *whole())
    np.testing.assert_array_equal(chunks[:, : wanted.tokens.shape[1]], wanted.tokens)


def test_a_text_goes_on_after_the_answer_to_a_prefix() -> None:
    """Two turns: the cache of the first answer is handed to the second question."""
    decoder = made("llama")
    first = say(
        decoder, PREFIX, ALL, eos=(), keep_cache=True,
        cache=encode_prefix(decoder, IMAGE, SEEN).cache(3, 5 + NEW + 2 + NEW),
    )  # fmt: skip
    more = jnp.asarray(RNG.standard_normal((3, 2, 16)), jnp.float32)
    got = say(decoder, more, jnp.ones((3, 2), bool), eos=(), cache=first.cache)
    x, valid = whole(ALL)
    x = jnp.concatenate([x, decoder.embed(first.tokens), more], axis=1)
    valid = jnp.concatenate([valid, jnp.ones((3, NEW + 2), bool)], axis=1)
    np.testing.assert_array_equal(got.tokens, say(decoder, x, valid, eos=()).tokens)


def test_what_stands_in_slots_that_are_not_valid_changes_no_bit(decoder: Llama) -> None:
    prefix = encode_prefix(decoder, IMAGE, SEEN)
    cache = prefix.cache(3, 8).claim(jnp.ones((3, 2), bool).at[1, 0].set(False))

    def junk(slots: Slots, valid: jax.Array) -> Slots:
        out = jnp.repeat(~valid, len(slots.k) // len(valid), axis=0)[:, None, :]
        k = jnp.where(out, 1e3, slots.k)
        return dataclasses.replace(slots, k=k, v=jnp.where(out.swapaxes(1, 2), -1e3, slots.v))

    spoilt = dataclasses.replace(
        cache,
        slots=tuple(junk(s, cache.valid) for s in by_layer(cache.slots)),
        shared=dataclasses.replace(
            prefix, slots=tuple(junk(s, prefix.valid) for s in by_layer(prefix.slots))
        ),
    )
    x, position = PREFIX[:, :2], jnp.asarray([[9, 10]] * 3, jnp.int32)

    @nnx.jit
    def read(decoder: Llama, cache: object) -> jax.Array:
        return decoder(x, cache_mask(cache.length, 2, cache.valid), position, cache)[0]

    np.testing.assert_array_equal(read(decoder, cache), read(decoder, spoilt))


@pytest.mark.parametrize("kind", ["llama", "window"])
def test_int8_keys_and_values_say_nearly_the_same(kind: str) -> None:
    decoder = made(kind)
    prefix = encode_prefix(decoder, IMAGE, SEEN, dtype="int8")
    assert {s.k.dtype for s in by_layer(prefix.slots)} == {jnp.dtype("int8")}
    one = {"keep_hidden": True, "max_new_tokens": 1, "eos": ()}
    got = say(decoder, PREFIX, VALID, cache=prefix.cache(3, 5 + 1), **one)
    wanted = say(decoder, *whole(), **one)
    logits = [np.asarray(decoder.logits(x.hidden[:, 0])) for x in (got, wanted)]
    worst = np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max()
    assert 1e-6 < worst < 0.05


@pytest.mark.parametrize(
    ("valid", "line"),
    [
        (jnp.zeros((1, 11), bool), r"a prefix without a token in encode_prefix\(valid\)"),
        (jnp.ones((1, 48), bool), r"leaves no room for a text.*< 48 tokens; found 48"),
    ],
)
def test_impossible_prefixes(valid: jax.Array, line: str) -> None:
    embeds = jnp.zeros((1, valid.shape[1], 16), jnp.float32)
    with pytest.raises(ConfigError, match=line):
        encode_prefix(made("llama"), embeds, valid)
