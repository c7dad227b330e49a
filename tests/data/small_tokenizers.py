"""Directories of small tokenizers as checkpoints hold them: SentencePiece's and byte-level BPE.

The SentencePiece model is written by hand, as a protocol buffer, so that the library itself can be
the oracle. As in Vicuna's, "USER" is one piece and "▁USER" two, "[" and "▁[" one each.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import tokenizers

WORDS = (
    "▁a", "th", "the", "er", "US", "ER", "USER", "▁the", "IS", "AN", "▁in", "▁s", "ou", "▁c", "▁l",
    "▁la", "▁lak", "▁lake", "at", "▁w", "▁wh", "▁what", "▁is", "▁yes", "▁y", "es", "us", "user",
    "▁[",
)  # fmt: skip
CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzUSERAITNVB:.,?'["


def _varint(n: int) -> bytes:
    made = b""
    while n >= 128:
        made, n = made + bytes([n & 127 | 128]), n >> 7
    return made + bytes([n])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def sentencepiece_model() -> bytes:
    """BPE with byte fallback, `<unk>`, `<s>` and `</s>` at 0, 1 and 2."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]
    pieces += [(word, -float(i), 1) for i, word in enumerate(WORDS)]
    pieces += [(c, -1000.0 - i, 1) for i, c in enumerate(CHARACTERS)]
    made = b"".join(
        _field(1, _field(1, t.encode()) + b"\x15" + struct.pack("<f", s) + b"\x18" + bytes([k]))
        for t, s, k in pieces
    )
    bpe, fallback = b"\x18\x02", _varint(35 << 3) + b"\x01"
    normalizer = _field(1, b"identity") + b"\x18\x01\x20\x00"  # a space in front, none removed
    return made + _field(2, bpe + fallback) + _field(3, normalizer)


SIZE = 259 + len(WORDS) + len(CHARACTERS)


def llama_directory(folder: Path, *, legacy: bool = False, added: tuple[str, ...] = ()) -> Path:
    """A tokenizer as LLaVA's directories hold it: tokenizer.model, and what is said of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    names = {0: "<unk>", 1: "<s>", 2: "</s>", **{SIZE + i: t for i, t in enumerate(added)}}
    said = {
        "tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True,
        "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<unk>",
        "added_tokens_decoder": {
            str(i): {"content": t, "special": True, **token} for i, t in names.items()
        },
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Qwen's, without its default system message."""


def byte_directory(folder: Path, *, template: str | None = CHATML) -> Path:
    """A byte-level BPE as Qwen's: no beginning, `<|im_end|>` ends, a chat template."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(["what is the lake? a lake. user assistant system yes"] * 4, trainer)
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
    }  # fmt: skip
    if template is not None:
        said["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder
