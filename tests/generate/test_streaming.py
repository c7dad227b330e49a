"""Streams: chunks make the whole, stop strings end a text at the same token whatever the chunk."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pytest
from talker import ALL, EOS, NEW, PREFIX, REG, made, say, say_on, silence

from rsvlm_jax.generate import Generated, text_of
from rsvlm_jax.models.llama import Llama

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHUNKS = (1, 2, 3, 8, 50)
each = pytest.mark.parametrize("chunk", CHUNKS)


@pytest.fixture(scope="module")
def decoder() -> Llama:
    return made(Llama, seed=2)


def decode(ids: Sequence[int]) -> str:
    return "".join(LETTERS[i] for i in ids)


def same(a: Generated, b: Generated) -> None:
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.length, b.length)
    np.testing.assert_allclose(a.score, b.score, rtol=1e-6)
    if a.hidden is not None:
        np.testing.assert_array_equal(a.hidden, b.hidden)
    if a.cache is not None and b.cache is not None:
        np.testing.assert_array_equal(a.cache.valid.sum(axis=1), b.cache.valid.sum(axis=1))


@each
def test_chunks_make_the_whole(decoder: Llama, chunk: int) -> None:
    whole = say(decoder, keep_hidden=True, keep_cache=True)
    streamed = say_on(decoder, chunk=chunk, decode=decode, keep_hidden=True, keep_cache=True)
    chunks = list(streamed)
    assert chunks[0].tokens.shape[1] == 1
    assert all(c.tokens.shape[1] <= chunk for c in chunks)
    tokens = np.concatenate([c.tokens for c in chunks], axis=1)
    np.testing.assert_array_equal(tokens, whole.tokens[:, : tokens.shape[1]])
    np.testing.assert_array_equal(sum(c.length for c in chunks), whole.length)
    assert chunks[-1].done.all()
    for row in range(3):
        text = "".join(c.text[row] for c in chunks if c.text is not None)
        assert text == decode(whole.tokens[row, : int(whole.length[row])].tolist())
    same(streamed.result, whole)


def test_a_result_may_be_asked_for_at_once(decoder: Llama) -> None:
    streamed = say_on(decoder, chunk=3)
    next(streamed)
    same(streamed.result, say(decoder))
    assert streamed.result is streamed.result
    assert list(streamed) == []


@each
def test_the_end_of_all_texts_ends_the_stream(decoder: Llama, chunk: int) -> None:
    chunks = list(say_on(decoder, chunk=chunk, banned=silence(decoder, EOS)))
    assert len(chunks) == 1
    assert chunks[0].done.all()
    assert chunks[0].length.tolist() == [0, 0, 0]


def test_reg_blocks_come_through_chunks(decoder: Llama) -> None:
    asked = {"reg": (REG, 3), "banned": silence(decoder, 7, REG)}
    same(say_on(decoder, chunk=2, **asked).result, say(decoder, **asked))


def stops(decoder: Llama) -> tuple[tuple[str, ...], Generated]:
    """Stop strings that end two of three texts, the second of them over two tokens."""
    free = say(decoder, eos=())
    texts = [decode(row) for row in free.tokens.tolist()]
    return (texts[0][3], texts[1][1:3]), free


@each
def test_stop_strings_end_a_text_wherever_chunks_end(decoder: Llama, chunk: int) -> None:
    stop, free = stops(decoder)
    streamed = say_on(
        decoder, chunk=chunk, eos=(), stop=stop, decode=decode, keep_hidden=True, keep_cache=True
    )
    chunks = list(streamed)
    batch = say(decoder, eos=(), stop=stop, decode=decode, keep_hidden=True, keep_cache=True)
    unstopped = say(decoder, eos=(), keep_hidden=True)
    same(streamed.result, batch)
    ended = 0
    for row in range(3):
        said = decode(free.tokens[row].tolist())
        ids = batch.tokens[row, : int(batch.length[row])].tolist()
        text = "".join(c.text[row] for c in chunks if c.text is not None)
        wanted = min((said.split(s)[0] for s in stop), key=len)
        assert text == text_of(ids, decode, stop) == wanted
        assert decode(ids) == said[: len(ids)]
        assert sum(int(c.length[row]) for c in chunks) == len(ids)
        assert batch.tokens[row, len(ids) :].tolist() == [0] * (NEW - len(ids))
        np.testing.assert_array_equal(
            batch.hidden[row, : len(ids)], unstopped.hidden[row, : len(ids)]
        )
        assert not np.asarray(batch.hidden[row, len(ids) :]).any()
        assert int(batch.cache.valid[row].sum()) == 5 + len(ids)
        ended += len(ids) < NEW
    assert ended >= 2


def test_a_stream_ends_when_all_texts_have_stopped(decoder: Llama) -> None:
    chunks = list(say_on(decoder, chunk=2, eos=(), stop=tuple(LETTERS), decode=decode))
    assert len(chunks) == 1
    assert chunks[0].done.all()
    assert chunks[0].text == ("", "", "")


def test_beams_are_cut_at_a_stop_string(decoder: Llama) -> None:
    whole = say(decoder, num_beams=2)
    said = decode(whole.tokens[0, : int(whole.length[0])].tolist())
    out = say(decoder, num_beams=2, stop=(said[1],), decode=decode)
    n = said.index(said[1]) + 1
    assert out.length[0] == n
    assert out.tokens[0].tolist() == [*whole.tokens[0, :n].tolist(), *[EOS] * (NEW - n)]


def test_one_token_is_a_text(decoder: Llama) -> None:
    whole = say(decoder, max_new_tokens=1)
    assert whole.tokens.shape == (3, 1)
    chunks = list(say_on(decoder, max_new_tokens=1))
    assert len(chunks) == 1
    np.testing.assert_array_equal(chunks[0].tokens, whole.tokens)
    kept = say(decoder, max_new_tokens=1, keep_hidden=True)
    assert np.asarray(kept.hidden).any()


def test_a_prompt_of_padding_and_one_token(decoder: Llama) -> None:
    valid = ALL.at[0].set(jnp.arange(5) == 2)
    alone = say(decoder, PREFIX[:1, 2:3], jnp.ones((1, 1), bool), cache_length=20)
    np.testing.assert_array_equal(say(decoder, PREFIX, valid).tokens[0], alone.tokens[0])
