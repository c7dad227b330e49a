"""The tokenizer of a LLaVA by its files alone: a SentencePiece model, and what it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsvlm_jax.config import CheckpointError, LlamaConfig
from rsvlm_jax.interop.processor import words_of, write_tokenizer
from rsvlm_jax.interop.tokens import check_tokenizer, vocabulary


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def sentencepiece(*pieces: str) -> bytes:
    """Text, score (a float32) and kind (a number) of each, then the trainer's settings."""
    made = b""
    for i, piece in enumerate(pieces):
        made += field(1, field(1, piece.encode()) + b"\x15\x00\x00\x80\xbf" + bytes([0x18, i % 6]))
    return made + field(2, field(1, b"corpus.txt") + b"\x18\x80\x7d")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece("<unk>", "<s>", "</s>", "▁a", "Ω"))
    words = {"unk_token": "<unk>", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**words, "pad_token": None}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<unk>"}))
    return tmp_path


def test_the_pieces_of_a_sentencepiece_model(folder: Path) -> None:
    assert vocabulary(folder) == {"<unk>": 0, "<s>": 1, "</s>": 2, "▁a": 3, "Ω": 4}
    check_tokenizer(folder, LlamaConfig(vocab_size=5))
    with pytest.raises(CheckpointError, match=r"larger than the embedding in .*tokenizer.model"):
        check_tokenizer(folder, LlamaConfig(vocab_size=4))


@pytest.mark.parametrize("size", [1, 20])
def test_a_sentencepiece_model_that_was_cut_off(folder: Path, size: int) -> None:
    file = folder / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:-size])
    with pytest.raises(CheckpointError, match=r"a damaged tokenizer in .*tokenizer.model") as e:
        vocabulary(folder)
    assert "\n" not in str(e.value)


def test_new_tokens_come_after_the_last(folder: Path) -> None:
    words = words_of(folder, image_token=5)
    assert words is not None
    assert (words.image_id, words.pad_id, words.new) == (5, 6, {"<image>": 5, "<pad>": 6})
    write_tokenizer(folder, words)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = {i: t["content"] for i, t in said["added_tokens_decoder"].items()}
    assert tokens == {"0": "<unk>", "1": "<s>", "2": "</s>", "5": "<image>", "6": "<pad>"}
    assert all(t["special"] for t in said["added_tokens_decoder"].values())
    assert (said["pad_token"], said["tokenizer_class"]) == ("<pad>", "LlamaTokenizer")
    assert json.loads((folder / "added_tokens.json").read_text()) == {"<image>": 5, "<pad>": 6}
    assert vocabulary(folder)["<pad>"] == 6
    again = words_of(folder, image_token=5)
    assert again is not None
    assert (again.ids, again.new) == (words.ids, {})


def test_no_tokenizer_no_words(tmp_path: Path) -> None:
    assert words_of(tmp_path, image_token=5) is None
