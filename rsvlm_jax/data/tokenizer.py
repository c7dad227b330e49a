"""Text to token ids and back, with the two placeholders that a picture and a number need.

A thin wrapper around a Hugging Face `tokenizers` file. It is not a chat template: whole prompts,
with their `<image>` and `<reg>` blocks, are laid out by `rsvlm_jax.data.processor`, from ids, so
that no user's text can ever pass for a placeholder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import tokenizers

from rsvlm_jax.config import ConfigError, DataError

IMAGE, REG = "<image>", "<reg>"
PADDED_TO = 64
"""Embedding tables are sometimes padded to a multiple of this (LLaVA-1.5: 32002 -> 32064)."""


class Tokenizer:
    """Ids of a tokenizer file.

    Attributes:
      bos, eos: beginning and end of a sequence.
      image, reg: the placeholders of a visual token and of a knowledge token.
      pad: 0 (`<unk>`), as in Llama; padding is told by the segment, never by the id.
      size: number of ids, added ones included.
      text: of the file.
    """

    def __init__(self, text: str, *, where: str = "tokenizer.json") -> None:
        try:
            self._inner = tokenizers.Tokenizer.from_str(text)
        except Exception as e:  # the library raises bare Exception
            raise DataError(f"not a tokenizer ({e})", where=where) from e
        self.text, self._where = text, where
        self.bos, self.eos = self._special("<s>"), self._special("</s>")
        self.image, self.reg = self._special(IMAGE), self._special(REG)
        self.pad = 0
        self.size = self._inner.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read `tokenizer.json`.

        Raises:
          DataError: no such file, not a tokenizer, or one without a token that is needed.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(
                "no readable tokenizer", where=str(path), expected="tokenizer.json", found=e
            ) from e
        return cls(text, where=str(path))

    @classmethod
    def shipped(cls) -> Tokenizer:
        """That of the 260k-parameter decoder: 512 tokens, `<image>` and `<reg>`."""
        file = resources.files("rsvlm_jax") / "assets" / "stories260k" / "tokenizer.json"
        return cls(file.read_text(encoding="utf-8"), where="assets/stories260k/tokenizer.json")

    def digest(self) -> str:
        """SHA-256 of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def encode(self, text: str, bos: bool = False) -> list[int]:
        ids = self._inner.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens and placeholders are left out."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def check_table(self, vocab_size: int) -> None:
        """Refuse an embedding table of `vocab_size` rows that is not this tokenizer's.

        Raises:
          ConfigError: unless `vocab_size` is `size`, or `size` rounded up to a multiple of 64.
        """
        padded = -(-self.size // PADDED_TO) * PADDED_TO
        if vocab_size not in (self.size, padded):
            raise ConfigError(
                "the tokenizer and the decoder's embedding table differ in size",
                where=self._where,
                expected=f"decoder.vocab_size {self.size} (or {padded}, padded)",
                found=vocab_size,
                remedy="use the tokenizer that the decoder was trained with",
            )

    def _special(self, token: str) -> int:
        found = self._inner.token_to_id(token)
        if found is None:
            raise DataError(
                f"the tokenizer has no token {token!r}",
                where=self._where,
                expected=f"<s>, </s>, {IMAGE} and {REG}",
                remedy=f"add {token!r} as a special token",
            )
        return found

    def __getstate__(self) -> dict[str, str]:
        return {"text": self.text, "where": self._where}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["text"], where=state["where"])
