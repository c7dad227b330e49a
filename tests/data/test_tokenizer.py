"""Ids, text and the sizes that are refused."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
