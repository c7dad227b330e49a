"""The decode loop: against a loop without cache, alone and in a batch, `<reg>` blocks, the ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from talker import ALL, EOS, NEW, PREFIX, REG, made, say, silence, uncached

from rsvlm_jax.generate import reg_block
from rsvlm_jax.models.llama import Llama


@pytest.fixture(scope="module")
def decoder() -> Llama:
    """Random, with variables large enough that what was said changes what is said."""
    return made(Llama, seed=2)


def by_hand(model: Llama, prefix: jax.Array) -> tuple[list[int], np.ndarray]:
    """Greedy text of one sample by whole forward passes, and the states at its tokens."""
    length = prefix.shape[1]
    x = jnp.pad(prefix, ((0, 0), (0, 5 + NEW - length), (0, 0)))
    ones = jnp.ones(x.shape[:2], jnp.int32)
    tokens: list[int] = []
    for i in range(length, length + NEW):
        _, logits = uncached(model, x, ones)
        tokens.append(int(jnp.argmax(logits[0, i - 1])))
        x = x.at[0, i].set(model.embed(jnp.asarray(tokens[-1], jnp.int32)))
    hidden, _ = uncached(model, x, ones)
    return tokens, np.asarray(hidden[0, length : length + NEW])


def check_against_uncached(model: Llama, valid: jax.Array) -> None:
    """Text and states of every row equal those of its valid embeddings alone, without a cache."""
    junk = jnp.where(valid[:, :, None], PREFIX, jnp.nan)
    out = say(model, junk, valid, keep_hidden=True)
    for row in range(3):
        tokens, hidden = by_hand(model, PREFIX[row][np.asarray(valid[row])][None])
        n = tokens.index(EOS) if EOS in tokens else NEW
        assert n > 2
        assert len(set(tokens[:n])) > 2  # a text that says something
        assert out.length[row] == n
        assert out.tokens[row, :n].tolist() == tokens[:n]
        np.testing.assert_allclose(out.hidden[row, :n], hidden[:n], atol=1e-5)


def test_cached_text_and_states_equal_the_uncached(decoder: Llama) -> None:
    check_against_uncached(decoder, ALL)


def test_a_batch_of_different_lengths_equals_each_alone(decoder: Llama) -> None:
    # Padding on the right, in the middle (a missing visual token) and on the left.
    check_against_uncached(
        decoder, jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], bool)
    )


def test_the_end_token_ends_a_sample_and_no_other(decoder: Llama) -> None:
    free = say(decoder, keep_hidden=True)
    eos = int(free.tokens[0, 2])  # what the first sample says third now ends a text
    out = say(decoder, eos=eos, keep_hidden=True)
    for row in range(3):
        said = free.tokens[row].tolist()
        n = said.index(eos) if eos in said else NEW
        assert out.length[row] == n
        assert out.tokens[row].tolist() == said[:n] + [eos] * (NEW - n)
        assert (np.asarray(out.hidden[row, n:]) == 0).all()
        np.testing.assert_allclose(out.hidden[row, :n], free.hidden[row, :n], atol=1e-6)


def test_an_immediate_end_is_an_empty_text(decoder: Llama) -> None:
    only = silence(decoder, EOS)
    out = say(decoder, banned=only)
    assert out.length.tolist() == [0] * 3
    assert out.tokens.tolist() == [[EOS] * NEW] * 3


def test_banned_tokens_are_never_said(decoder: Llama) -> None:
    free = say(decoder)
    banned = int(free.tokens[0, 0])
    out = say(decoder, banned=(banned,))
    assert banned not in np.asarray(out.tokens)


def test_reg_tokens_come_as_one_whole_block(decoder: Llama) -> None:
    out = say(decoder, reg=(REG, 3), banned=silence(decoder, 7, REG))
    free = say(decoder, banned=silence(decoder, 7, REG))
    for row in range(3):
        said = out.tokens[row].tolist()
        if REG in free.tokens[row, : NEW - 2].tolist():
            at = free.tokens[row].tolist().index(REG)
            assert said == [7] * at + [REG] * 3 + [7] * (NEW - at - 3)
        else:
            assert said == [7] * NEW
    assert (np.asarray(out.tokens) == REG).any()  # else nothing was tested


def test_a_block_is_forced_although_the_model_would_say_something_else(decoder: Llama) -> None:
    only = silence(decoder, REG)
    out = say(decoder, reg=(REG, NEW), banned=only)
    assert out.tokens.tolist() == [[REG] * NEW] * 3
    assert out.length.tolist() == [NEW] * 3


def test_no_block_is_begun_that_does_not_fit(decoder: Llama) -> None:
    reg, ban = (REG, NEW + 1), silence(decoder, 7, REG)
    out = say(decoder, reg=reg, banned=ban)
    assert out.tokens.tolist() == [[7] * NEW] * 3
    hidden, has = reg_block(out, reg)
    assert hidden.shape == (3, NEW + 1, 16)
    assert not has.any()


def test_block_states_are_those_after_the_reg_tokens_are_read(decoder: Llama) -> None:
    ban = silence(decoder, REG, 7)
    out = say(decoder, reg=(REG, 2), banned=ban)
    x = jnp.concatenate([PREFIX, decoder.embed(out.tokens)], axis=1)
    hidden, _ = uncached(decoder, x, jnp.ones(x.shape[:2], jnp.int32))
    block, has = reg_block(out, (REG, 2))
    assert has.any()
    for row in range(3):
        said = out.tokens[row].tolist()
        assert has[row] == (REG in said)
        at = 5 + (said.index(REG) if REG in said else 0)
        wanted = hidden[row, at : at + 2] if REG in said else np.zeros((2, 16))
        np.testing.assert_allclose(block[row], wanted, atol=1e-5)


def test_bfloat16(decoder: Llama) -> None:
    out = say(decoder, PREFIX.astype(jnp.bfloat16), max_new_tokens=3, keep_hidden=True)
    assert out.hidden.dtype == jnp.bfloat16
    assert jnp.isfinite(out.hidden).all()


def test_a_longer_cache_changes_no_text(decoder: Llama) -> None:
    short = say(decoder)
    long = say(decoder, cache_length=20)
    np.testing.assert_array_equal(short.tokens, long.tokens)
