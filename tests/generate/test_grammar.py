"""Machines over tokens: bytes of real tokenizers, what they allow, joined ones, what is refused."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

import rsvlm_jax
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.generate import TokenMachine, join
from rsvlm_jax.generate.grammar import (
    TokenBytes,
    box,
    choices,
    compile_grammar,
    number,
    token_bytes,
)
from rsvlm_jax.testing import babble, byte_level_bpe, sentencepiece_bpe, unigram

LABELS = ["yes", "no", "bare land", "sea ice", "dense residential area", "for\u00eat"]
TEXTS = [p.read_text() for p in sorted(Path(rsvlm_jax.__file__).parent.glob("config/*.py"))]
TEXTS += [f"{{<{i}><{i // 2}><100><7>|<-{i}>}}<delim> {i}.5 for\u00eat" for i in range(100)]
KINDS = {
    "bytes": lambda: byte_level_bpe(TEXTS, 600),
    "sentencepiece": lambda: sentencepiece_bpe(TEXTS, 800),
    "unigram": lambda: unigram(TEXTS, 600),
    "shipped": lambda: tokenizers.Tokenizer.from_str(
        (resources.files("rsvlm_jax") / "assets/stories260k/tokenizer.json").read_text("utf-8")
    ),
}
LONGEST = 48
PADDED = 832
"""Rows of the table; no tokenizer has so many."""


@pytest.fixture(scope="module", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def vocabulary(tokenizer: tokenizers.Tokenizer) -> TokenBytes:
    return token_bytes(tokenizer.to_str())


def said(
    tokenizer: tokenizers.Tokenizer, machine: TokenMachine, rows: int, limit: int
) -> list[str]:
    """Random texts, decoded by the tokenizer."""
    end, limit_ = (jnp.asarray(i, jnp.int32) for i in (tokenizer.token_to_id("</s>"), limit))
    drawn = babble(machine, jax.random.key(0), end, limit_, rows=rows, max_new=LONGEST)
    tokens, length = map(np.asarray, drawn)
    ids = [row[:n].tolist() for row, n in zip(tokens, length, strict=True)]
    return tokenizer.decode_batch(ids)


def accepts(machine: TokenMachine, ids: list[int]) -> bool:
    state = machine.begin(1)
    left = jnp.asarray(1000, jnp.int32)
    for token in ids:
        if not machine.allowed(state, left)[0, token]:
            return False
        state = machine.step(state, jnp.asarray([token], jnp.int32))
    return bool(machine.may_end(state)[0])


@pytest.mark.parametrize(
    "pattern",
    [box(), box(many=True), choices(LABELS), number(-30, 400, 1)],
    ids=["box", "boxes", "labels", "numbers"],
)
def test_nothing_malformed_comes_out(
    tokenizer: tokenizers.Tokenizer, vocabulary: TokenBytes, pattern: str
) -> None:
    """With tokens to spare, with a few, and with just as many as the shortest text takes."""
    machine = compile_grammar(pattern, vocabulary, rows=PADDED)
    for limit in (LONGEST, int(machine.need[0]) + 2, int(machine.need[0])):
        texts = said(tokenizer, machine, 100, limit)
        assert [text for text in texts if not re.fullmatch(pattern, text.strip())] == []
        if limit == LONGEST and pattern == choices(LABELS):
            assert {text.strip() for text in texts} == set(LABELS)
        elif limit == LONGEST:
            assert len(set(texts)) > 50
    with pytest.raises(ConfigError, match="the shortest text of this machine does not fit"):
        machine.check(PADDED, 1, int(machine.need[0]) - 1)


def test_what_the_tokenizer_would_write_is_allowed(
    tokenizer: tokenizers.Tokenizer, vocabulary: TokenBytes
) -> None:
    """The usual tokens of a right answer, with and without the space before it."""
    machine = compile_grammar(choices(LABELS), vocabulary, rows=PADDED)
    for label in LABELS:
        answers = (label.encode(), b" " + label.encode())
        for text in (label, f" {label}"):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            written = b"".join(vocabulary.tokens[i] or b"" for i in ids)
            assert accepts(machine, ids) == (written in answers)
            assert written in answers or text != label
    for text in ("maybe", "yess", "ye", "yes no", "Yes"):
        assert not accepts(machine, tokenizer.encode(text, add_special_tokens=False).ids)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_tokens_and_bytes_agree(
    data: st.DataObject, tokenizer: tokenizers.Tokenizer, vocabulary: TokenBytes
) -> None:
    """Of random tokens, those are accepted whose bytes match; however the text is split."""
    pattern = r"[a-z\u00ea]{1,3}( [a-z]+)*[.,]?|\d+"
    machine = compile_grammar(pattern, vocabulary, rows=PADDED, space=False)
    writing = [i for i, token in enumerate(vocabulary.tokens) if token and token.islower()]
    ids = data.draw(st.lists(st.sampled_from(writing), max_size=6))
    text = b"".join(vocabulary.tokens[i] or b"" for i in ids).decode(errors="replace")
    assert accepts(machine, ids) == bool(re.fullmatch(pattern, text))


def test_specials_placeholders_and_padded_rows_are_never_allowed(
    tokenizer: tokenizers.Tokenizer,
) -> None:
    """Even where their names, as text, match."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.add_tokens(["<region>"])
    vocabulary = token_bytes(tokenizer.to_str())
    machine = compile_grammar(r"[\s\S]+", vocabulary, rows=PADDED)
    allowed = machine.allowed(machine.begin(1), jnp.asarray(9, jnp.int32))[0]
    never = [tokenizer.token_to_id(t) for t in ("</s>", "<image>", "<region>", "<unk>", "<s>")]
    assert not any(allowed[i] for i in never if i is not None)
    assert not allowed[len(vocabulary) :].any()
    assert allowed.any()


def test_the_space_before_an_answer(
    tokenizer: tokenizers.Tokenizer, vocabulary: TokenBytes
) -> None:
    free, bare = (
        compile_grammar("no|yes", vocabulary, rows=PADDED, space=space) for space in (True, False)
    )
    assert {text.strip() for text in said(tokenizer, free, 50, 3)} == {"no", "yes"}
    assert set(said(tokenizer, bare, 50, 3)) == {"no", "yes"}
    spaced = [i for i, token in enumerate(vocabulary.tokens) if token and token[:1] == b" "]
    left = jnp.asarray(5, jnp.int32)
    assert free.allowed(free.begin(1), left)[0, jnp.asarray(spaced)].any()
    assert not bare.allowed(bare.begin(1), left)[0, jnp.asarray(spaced)].any()


def test_rows_of_one_batch_under_different_grammars(
    tokenizer: tokenizers.Tokenizer, vocabulary: TokenBytes
) -> None:
    patterns = [box(), "yes|no", box(), number(0, 9)]
    made = {p: compile_grammar(p, vocabulary, rows=PADDED) for p in patterns}
    of_row = [p for p in patterns for _ in range(10)]
    machine = join([made[p] for p in of_row])
    assert machine.start.shape == (40,)
    assert machine.start[0] == machine.start[29]
    machine.check(PADDED, 40, 40)
    for text, pattern in zip(said(tokenizer, machine, 40, 40), of_row, strict=True):
        assert re.fullmatch(pattern, text.strip())
    with pytest.raises(
        ConfigError, match=r"of another batch in generate\(machine.start\).*found 40"
    ):
        machine.check(PADDED, 6, 40)


def test_grammars_of_a_size_share_a_program(vocabulary: TokenBytes) -> None:
    made = [compile_grammar(p, vocabulary) for p in ("yes|no", number(0, 9), "[a-c]+")]
    assert len({jax.tree.map(jnp.shape, machine) for machine in made}) == 1


def test_need_is_the_shortest_text() -> None:
    vocabulary = TokenBytes((b"a", b"aaa", b"b", None, b"aaaab"))
    machine = compile_grammar("a{10}b", vocabulary, space=False)
    # aaa aaa aaaab
    assert int(machine.need[0]) == 3
    state, ids = machine.begin(1), []
    for left in (3, 2, 1):
        fits = machine.allowed(state, jnp.asarray(left, jnp.int32))[0]
        ids.append(int(jnp.argmax(fits)))
        assert fits.sum() == 1
        state = machine.step(state, jnp.asarray(ids[-1:], jnp.int32))
    assert ids == [1, 1, 4]
    assert machine.may_end(state)[0]


def test_the_byte_of_a_split_character() -> None:
    """Tokens may end inside of a character; no text may."""
    vocabulary = TokenBytes((b"\xc3", b"\xa9", b"\xaa", b"\xc3\xa9", b"e"))
    machine = compile_grammar("\u00e9+", vocabulary)
    assert accepts(machine, [0, 1])
    assert accepts(machine, [3, 0, 1])
    for ids in ([0], [0, 2], [1], [4], []):
        assert not accepts(machine, ids)


def test_a_grammar_that_no_token_can_start(vocabulary: TokenBytes) -> None:
    letters = TokenBytes(tuple(t if t and t.isalpha() else None for t in vocabulary.tokens))
    with pytest.raises(ConfigError, match="a grammar that no token can start in compile_grammar"):
        compile_grammar(box(), letters)


def test_a_grammar_that_no_tokens_can_finish() -> None:
    letters = TokenBytes(tuple(bytes([b]) for b in b"abcdef"), where="letters.json")
    with pytest.raises(ConfigError, match=r"no tokens can finish.*letters.json"):
        compile_grammar(r"[a-f]+\d", letters)


def test_a_label_that_no_tokens_can_spell() -> None:
    vocabulary = token_bytes(unigram(TEXTS, 600).to_str())
    with pytest.raises(ConfigError, match=r"an answer that no tokens spell.*'\u96ea'"):
        compile_grammar(choices(["yes", "\u96ea", "no"]), vocabulary)
    letters = TokenBytes((b"ye", b"s", b" no"))
    assert accepts(compile_grammar("yes|no", letters), [0, 1])
    with pytest.raises(ConfigError, match=r"an answer that no tokens spell.*'no'"):
        compile_grammar("yes|no", letters, space=False)


def test_a_table_smaller_than_the_tokenizer(vocabulary: TokenBytes) -> None:
    with pytest.raises(ConfigError, match=r"more tokens than the decoder.*found 100"):
        compile_grammar("yes", vocabulary, rows=100)


def test_a_machine_for_another_vocabulary_size(vocabulary: TokenBytes) -> None:
    machine = compile_grammar("yes", vocabulary, rows=PADDED)
    machine.check(PADDED, 2, 3)
    with pytest.raises(
        ConfigError, match=f"of another vocabulary.*expected 640 tokens; found {PADDED}"
    ):
        machine.check(640, 2, 3)


def test_machines_that_cannot_be_joined(vocabulary: TokenBytes) -> None:
    made = [compile_grammar("yes", vocabulary, rows=rows) for rows in (PADDED, PADDED + 8)]
    for machines in ([], made, [join(made[:1])]):
        with pytest.raises(ConfigError, match="machines that cannot be joined in join"):
            join(machines)


def edited(path: tuple[str, ...], value: object) -> str:
    file = json.loads(byte_level_bpe(["a b"], 260).to_str())
    at = file
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(file)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not a tokenizer"),
        ("{}", "not a tokenizer"),
        (edited(("model", "vocab"), 3), "not a tokenizer"),
        (edited(("decoder",), None), "a decoder whose tokens have no bytes of their own"),
        (edited(("decoder",), {"type": "WordPiece", "prefix": "##"}), "found WordPiece"),
        ("/nowhere/tokenizer.json", "no readable tokenizer in /nowhere/tokenizer.json"),
    ],
)
def test_a_tokenizer_that_is_not_understood(text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        token_bytes(text)


def test_bytes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_level_bpe(["a b"], 260).to_str(), encoding="utf-8")
    assert token_bytes(path).tokens == token_bytes(path.read_text(encoding="utf-8")).tokens
    assert b" b" in token_bytes(path).tokens


def test_a_metaspace_decoder_never_gets_a_token_that_it_would_change() -> None:
    """It drops all spaces of the first token, so those with a space inside are left out."""
    model = models.BPE(vocab={"\u2581": 0, "a": 1, "\u2581a": 2, "\u2581a\u2581a": 3}, merges=[])
    made = tokenizers.Tokenizer(model)
    made.decoder = decoders.Metaspace()
    assert made.decode([3]) == "aa"
    assert token_bytes(made.to_str()).tokens == (b" ", b"a", b" a", None)
