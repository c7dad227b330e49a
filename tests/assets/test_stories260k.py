"""The shipped tokenizer: llama2.c's ids, our added tokens, and a faithful remake of the files."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rsvlm_jax.assets import STORIES260K_DIR
from rsvlm_jax.assets.make_stories260k import BESIDE, build_tokenizer, read_vocabulary

TOKENIZER = Tokenizer.from_file(str(STORIES260K_DIR / "tokenizer.json"))
PIECES: dict[str, int] = TOKENIZER.get_vocab(with_added_tokens=False)

SENTENCES = [
    "Once upon a time, there was a little girl named Lily.",
    "The tree cover of this patch is 63 %.",
    "How much biomass stands here? About 120 Mg/ha, give or take 15.",
    "He said: \"It's 3.14159, isn't it?\"",
    "  two leading and  two inner spaces ",
    " one leading space",
    "line one\nline two\ttabbed",
    "Ljubljana, Škofja Loka, Črnomelj; 46.05° N",
    "naïve café – “quoted” … déjà vu",
    "森林 ▁ 🌲🌲 αβγ",
    "aaaaaaaaaa bbbbbb ttttt eeeeeee",
    "SENTINEL-2A/B; B8A, B11, B12: NDVI=(NIR-R)/(NIR+R)",
    "x",
    " ",
    "",
]


def llama2c_encode(text: str) -> list[int]:
    """llama2.c's `encode`, on its own: characters or bytes, then the best-scored pair, greedily.

    Pieces are numbered by falling score after the 259 control and byte tokens, so the best score
    is the lowest id; of equal pieces the leftmost is merged.
    """
    pieces = {p: i for p, i in PIECES.items() if i >= 259}
    names = {i: p for p, i in pieces.items()}
    ids = [pieces[" "]] if text else []
    for char in text:
        ids += [pieces[char]] if char in pieces else [b + 3 for b in char.encode()]
    while True:
        joined = [names.get(a, "\0") + names.get(b, "\0") for a, b in itertools.pairwise(ids)]
        found = [(pieces[p], at) for at, p in enumerate(joined) if p in pieces]
        if not found:
            return ids
        best, at = min(found)
        ids[at : at + 2] = [best]


@pytest.mark.parametrize("text", SENTENCES)
def test_ids_are_those_of_llama2c(text: str) -> None:
    assert TOKENIZER.encode(text).ids == llama2c_encode(text)


@pytest.mark.parametrize("text", SENTENCES)
def test_decoding_gives_the_text_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


ALPHABET = "aehnost TOlyd.,'\"0123456789 \n\u00e9\u010d\u68ee"


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(ALPHABET), max_size=60))
def test_any_text_has_llama2cs_ids_and_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert ids == llama2c_encode(text)
    assert TOKENIZER.decode(ids) == text


def test_ids_of_the_special_tokens() -> None:
    special = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 512, "<reg>": 513}
    assert {t: TOKENIZER.token_to_id(t) for t in special} == special
    assert TOKENIZER.get_vocab_size() == 514


def test_special_tokens_are_found_in_text_and_hidden_in_decoding() -> None:
    ids = TOKENIZER.encode("<image>\nIt is <reg><reg>").ids
    assert ids[0] == 512
    assert ids[-2:] == [513, 513]
    assert TOKENIZER.decode(ids) == "\nIt is "


def test_the_shipped_file_is_what_the_script_makes(tmp_path: Path) -> None:
    """The vocabulary goes back into llama2.c's format, and the script makes the same file of it."""
    by_id = sorted(PIECES, key=PIECES.__getitem__)
    binary = struct.pack("<i", max(map(len, by_id)))
    for i, piece in enumerate(by_id):
        name = (f"\n{piece}\n" if i in (1, 2) else piece).encode()
        binary += struct.pack("<fi", float(-max(i - 259, 0)), len(name)) + name
    (tmp_path / "tokenizer.bin").write_bytes(binary)
    remade = build_tokenizer(read_vocabulary(tmp_path / "tokenizer.bin"))
    shipped = json.loads((STORIES260K_DIR / "tokenizer.json").read_text())
    assert json.loads(remade.to_str()) == shipped


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_weights_is_what_the_script_makes(name: str) -> None:
    assert (STORIES260K_DIR / name).read_text() == json.dumps(BESIDE[name], indent=2) + "\n"
