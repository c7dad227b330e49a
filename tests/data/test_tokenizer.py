"""Ids, text and the sizes that are refused."""

from __future__ import annotations

import json
import pickle

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import CHARACTERS, SIZE, byte_directory, llama_directory, sentencepiece_model

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.data import Tokenizer

SHIPPED = Tokenizer.shipped()


def test_ids_of_the_shipped_file():
    t = SHIPPED
    assert (t.bos, t.eos, t.image, t.reg, t.size, t.pad) == (1, 2, 512, 513, 514, 0)


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), min_size=1))
def test_text_returns(text: str):
    ids = SHIPPED.encode(text)
    assert all(0 <= i < SHIPPED.size for i in ids)
    if not {"<", ">"} & set(text):
        assert SHIPPED.decode(ids) == text


def test_bos_and_placeholders():
    assert SHIPPED.encode("The sun", bos=True) == [1, *SHIPPED.encode("The sun")]
    ids = [1, 512, *SHIPPED.encode("The sun"), 513, 2]
    assert SHIPPED.decode(ids).strip() == "The sun"


def test_pickle():
    again = pickle.loads(pickle.dumps(SHIPPED))
    assert again.encode("a big tree") == SHIPPED.encode("a big tree")
    assert again.digest() == SHIPPED.digest()


@pytest.mark.parametrize("vocab", [514, 576])
def test_table_exact_or_padded(vocab: int):
    SHIPPED.check_table(vocab)


@pytest.mark.parametrize("vocab", [100, 512, 513, 515, 640, 32064])
def test_tokenizer_of_wrong_size(vocab: int):
    with pytest.raises(ConfigError, match=f"expected decoder.vocab_size 514 .*; found {vocab}"):
        SHIPPED.check_table(vocab)


def test_missing_tokenizer(tmp_path):
    with pytest.raises(DataError, match=r"no readable tokenizer in .*nothing\.json"):
        Tokenizer.from_file(tmp_path / "nothing.json")


def test_not_a_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"not a tokenizer"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_tokenizer_without_placeholders(tmp_path):
    data = json.loads(SHIPPED.text)
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != "<reg>"]
    data["model"]["vocab"].pop("<reg>", None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"no token '<reg>'"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


# ---- tokenizers of other families --------------------------------------------------------------

SPOKEN = st.text(st.sampled_from("  " + CHARACTERS.replace("▁", "") + "\n<é雪"), max_size=40)


@pytest.fixture(scope="module", params=[False, True], ids=["non-legacy", "legacy"])
def llama(request: pytest.FixtureRequest, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("llama")
    return Tokenizer.from_directory(llama_directory(folder, legacy=request.param))


@settings(deadline=None)
@given(SPOKEN)
def test_a_first_text_is_that_of_sentencepiece(llama: Tokenizer, text: str):
    theirs = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    assert llama.plain(text)[0] == theirs.encode(text)


@settings(deadline=None)
@given(SPOKEN)
def test_a_later_text_has_a_space_in_front_where_legacy(llama: Tokenizer, text: str):
    legacy = llama._prepends == "always"
    model = sentencepiece_model()
    if not legacy:
        model = model.replace(b"\x18\x01\x20\x00", b"\x18\x00\x20\x00")  # add_dummy_prefix
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert llama.plain(text, first=False)[0] == theirs.encode(text)


@settings(deadline=None)
@given(SPOKEN, st.booleans())
def test_starts_are_those_of_the_tokens(llama: Tokenizer, text: str, first: bool):
    ids, starts = llama.plain(text, first=first)
    assert len(ids) == len(starts)
    assert starts == sorted(starts)
    assert all(0 <= at < len(text) for at in starts)


def test_roles_and_placeholders_of_a_directory(llama: Tokenizer):
    assert (llama.bos, llama.eos, llama.pad, llama.starts) == (1, 2, 0, True)
    assert (llama.image, llama.reg) == (SIZE, SIZE + 1)
    assert llama.text_size == SIZE
    llama.check_rows(SIZE)
    llama.check_table(SIZE + 2)


def test_a_directory_without_a_beginning(tmp_path):
    t = Tokenizer.from_directory(byte_directory(tmp_path))
    assert (t.bos, t.starts) == (None, False)
    assert t.decode(t.encode("what is it?", bos=True)) == "what is it?"
    assert t.decode([t.eos, *t.plain("a lake")[0], t.image]) == "a lake"


@pytest.mark.parametrize("text", ["</s>", "<s>", "<image>", "<reg>", "a<unk>b</s>"])
def test_a_special_token_that_is_spelt_is_text(llama: Tokenizer, text: str):
    ids, _ = llama.plain(text)
    assert llama.control.isdisjoint(ids)
    assert llama.decode(ids) == text
    assert SHIPPED.decode(SHIPPED.plain(text)[0]) == text


def test_a_tokenizer_that_has_no_other_way_to_write_it(tmp_path):
    """A Unigram model may reach its special tokens by their spelling."""
    made = json.loads(SHIPPED.text)
    vocab = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["a", -1.0]]
    made["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    made["added_tokens"] = [t for t in made["added_tokens"] if t["id"] < 3]
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(DataError, match=r"a special token in a text .* found '</s>'"):
        Tokenizer.from_directory(tmp_path).plain("a</s>")


def test_a_saved_tokenizer_returns(llama: Tokenizer, tmp_path):
    llama.save(tmp_path)
    again = Tokenizer.from_directory(tmp_path)
    assert again.digest() == llama.digest()
    assert again.plain("what is USER?") == llama.plain("what is USER?")
    assert pickle.loads(pickle.dumps(llama)).plain("the lake") == llama.plain("the lake")


def test_a_file_of_the_shipped_tokenizer_says_no_roles(tmp_path):
    SHIPPED.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    assert Tokenizer.from_directory(tmp_path).digest() == SHIPPED.digest()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_damaged_directory(tmp_path, name: str):
    (tmp_path / name).write_bytes(b"\x00\x01")
    with pytest.raises(DataError, match=r"not a tokenizer|that transformers does not read") as e:
        Tokenizer.from_directory(tmp_path)
    assert "\n" not in str(e.value)


def test_a_directory_without_an_end(tmp_path):
    byte_directory(tmp_path)
    raw = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**raw, "eos_token": None}))
    with pytest.raises(DataError, match=r"no token '</s>'"):
        Tokenizer.from_directory(tmp_path)
