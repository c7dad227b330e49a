"""TextStream: text while ids come, the same however they are cut; stop strings; half characters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from rsvlm_jax.data import Tokenizer
from rsvlm_jax.generate import TextStream, text_of

SHIPPED = Tokenizer.shipped()  # SentencePiece: leading spaces, byte fallback
HALF = "\ufffd"


def byte_level() -> Inner:
    """A tokenizer of bytes as GPT-2 writes them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Inner(models.BPE(vocab={x: i for i, x in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


BYTES = byte_level()
TOKENIZERS = {
    "sentencepiece": (SHIPPED.encode, SHIPPED.decode),
    "byte_level": (lambda text: BYTES.encode(text).ids, lambda ids: BYTES.decode(list(ids))),
}
each = pytest.mark.parametrize("kind", TOKENIZERS)


def pieces(ids: Sequence[int], kind: str, sizes: Sequence[int], *stop: str) -> list[str]:
    """What comes of ids in chunks of these sizes, again and again."""
    stream, said, at = TextStream(TOKENIZERS[kind][1], stop), [], 0
    while at < len(ids):
        size = sizes[len(said) % len(sizes)]
        said.append(stream.feed(ids[at : at + size]))
        at += size
    return [*said, stream.finish()]


@each
@given(
    text=st.text(st.sampled_from("ab #\né€😀"), max_size=30),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_pieces_make_the_whole(kind: str, text: str, sizes: list[int]) -> None:
    encode, decode = TOKENIZERS[kind]
    ids = encode(text)
    said = pieces(ids, kind, sizes)
    assert "".join(said) == decode(ids) == text
    assert HALF not in "".join(said)


@each
@given(
    text=st.text(st.sampled_from("ab#é"), max_size=30),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_what_is_said_ends_before_the_first_stop_string(
    kind: str, text: str, sizes: list[int]
) -> None:
    ids = TOKENIZERS[kind][0](text)
    said = pieces(ids, kind, sizes, "##", "bab")
    wanted = min((text.split(stop)[0] for stop in ("##", "bab")), key=len)
    assert "".join(said) == wanted == text_of(ids, TOKENIZERS[kind][1], ("##", "bab"))
    for n in range(len(said)):
        assert wanted.startswith("".join(said[:n]))  # nothing is ever taken back


@each
def test_half_a_character_is_held_back(kind: str) -> None:
    ids = TOKENIZERS[kind][0]("a😀b")
    said = pieces(ids, kind, [1])
    assert [x for x in said if x] == ["a", "😀", "b"]


@each
def test_a_character_that_never_comes_is_written_as_decoders_write_it(kind: str) -> None:
    encode, decode = TOKENIZERS[kind]
    ids = encode("a😀")[:-1]
    assert decode(ids).endswith(HALF)
    assert "".join(pieces(ids, kind, [1])) == decode(ids)


@each
def test_the_beginning_of_a_stop_string_is_held_back(kind: str) -> None:
    encode, decode = TOKENIZERS[kind]
    stream = TextStream(decode, ("###",))
    said = "".join(stream.feed([i]) for i in encode("ab##"))
    assert said == "ab"
    assert not stream.stopped
    assert stream.finish() == "##"


@each
def test_nothing_comes_behind_a_stop_string(kind: str) -> None:
    encode, decode = TOKENIZERS[kind]
    stream = TextStream(decode, ("##",))
    ids = encode("ab##ab")
    assert stream.feed(ids) == "ab"
    assert stream.stopped
    assert decode(ids[: stream.tokens]) == "ab##"  # the token that completes it is counted
    assert stream.feed(ids) == ""
    assert stream.finish() == ""


def test_a_special_token_in_between_keeps_the_space_behind_it() -> None:
    ids = [*SHIPPED.encode("a big"), SHIPPED.reg, *SHIPPED.encode("tree")]
    assert "".join(pieces(ids, "sentencepiece", [1])) == SHIPPED.decode(ids) == "a big tree"


def test_a_window_is_decoded_never_the_whole() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return SHIPPED.decode(ids)

    ids = SHIPPED.encode("a big tree and a small tree " * 10)
    assert text_of(ids, decode) == SHIPPED.decode(ids)
    assert longest < 8
