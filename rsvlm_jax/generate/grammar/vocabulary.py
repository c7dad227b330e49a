"""What every token of a tokenizer writes, as bytes: what its decoder would make of it.

    GPT-2, Qwen, Llama 3    "Ġyes"    letters stand for bytes               b" yes"
    Llama, Vicuna           "▁yes"    U+2581 stands for a space             b" yes"
                            "<0xC3>"  a byte where no piece fits            b"\\xc3"
    specials, added tokens, the unknown token                               None: never written

A decoder of the SentencePiece kind strips one space from the beginning of a text; which of the
two forms a text may begin with is decided by `compile_grammar`. Not here: encoding of text.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rsvlm_jax.config import DataError

_SPACE = "\u2581"


@dataclasses.dataclass(frozen=True)
class TokenBytes:
    """A vocabulary as bytes.

    Attributes:
      tokens: by id; None for ids that write nothing or must not be written.
      where: the tokenizer, for errors.
    """

    tokens: tuple[bytes | None, ...]
    where: str = "tokenizer.json"

    def __len__(self) -> int:
        return len(self.tokens)


def token_bytes(tokenizer: str | os.PathLike[str]) -> TokenBytes:
    """Bytes of the tokens of a `tokenizer.json`: BPE over bytes, SentencePiece BPE, Unigram.

    Args:
      tokenizer: the text of the file (it begins with a brace), or its path.

    Raises:
      DataError: not such a file, or a tokenizer whose tokens have no bytes of their own
        (WordPiece, or a decoder that looks at more than one token).
    """
    where, text = "tokenizer.json", str(tokenizer)
    if not text.lstrip().startswith("{"):
        where = text
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise DataError("no readable tokenizer", where=where, found=e) from e
    try:
        file = json.loads(text)
        model, decoder = file["model"], file["decoder"]
        vocab = model["vocab"]
        pieces = vocab if isinstance(vocab, dict) else {p: i for i, (p, _) in enumerate(vocab)}
        added = {int(t["id"]) for t in file.get("added_tokens") or ()}
        write = _writer(decoder, where)
        unknown = {pieces.get(model.get("unk_token")), model.get("unk_id")}
        size = 1 + max([*pieces.values(), *added])
        tokens: list[bytes | None] = [None] * size
        for piece, i in pieces.items():
            if i not in added and i not in unknown:
                tokens[i] = write(piece) or None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(
            f"not a tokenizer ({type(e).__name__}: {e})", where=where, expected="tokenizer.json"
        ) from e
    return TokenBytes(tuple(tokens), where)


Write = Callable[[str], bytes | None]


def _writer(decoder: Any, where: str) -> Write:
    """What the decoder does to one token, from its parts."""
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else [{}]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level
    spaces: list[str] = []
    alone = falls_back = False
    for step, kind in zip(steps, kinds, strict=True):
        if kind == "Replace" and step["content"] == " " and "String" in step["pattern"]:
            spaces.append(step["pattern"]["String"])
        elif kind == "Metaspace":
            spaces.append(step.get("replacement", _SPACE))
            # It strips all spaces of the first token, not only the leading one.
            alone = step.get("prepend_scheme", "always") != "never"
        elif kind == "ByteFallback":
            falls_back = True
        elif kind == "Strip" and step["content"] == " " and (step["start"], step["stop"]) < (2, 1):
            continue
        elif kind != "Fuse":
            raise DataError(
                "a decoder whose tokens have no bytes of their own",
                where=where,
                expected="ByteLevel; or Replace, ByteFallback, Fuse, Strip, Metaspace",
                found=kind,
            )

    def write(piece: str) -> bytes | None:
        if piece.startswith("<0x") and piece.endswith(">") and len(piece) == 6:
            return bytes.fromhex(piece[3:5]) if falls_back else None
        for mark in spaces:
            piece = piece.replace(mark, " ")
        return None if alone and " " in piece[1:] else piece.encode()

    return write


def _letters() -> dict[str, int]:
    """GPT-2's letter of every byte: itself where it prints, U+0100 and on for the others."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printed]
    return {chr(b): b for b in printed} | {chr(256 + i): b for i, b in enumerate(others)}


_LETTERS = _letters()


def _byte_level(piece: str) -> bytes | None:
    codes = [_LETTERS.get(c) for c in piece]
    return None if None in codes else bytes(c for c in codes if c is not None)
