"""Text to token ids and back, with the two placeholders that a picture and a number need.

A thin wrapper around a Hugging Face `tokenizers` file and the few roles that stand beside it in
`tokenizer_config.json`. It is not a chat template: whole prompts, with their `<image>` and `<reg>`
blocks, are laid out elsewhere, from ids, so that no user's text can ever pass for a placeholder or
for the end of an answer: `plain` reads "</s>" as four characters.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tokenizers

from rsvlm_jax.config import ConfigError, DataError

from .tokenizer_files import IMAGE, REG, read_roles, read_text, with_placeholders

PADDED_TO = 64
"""Embedding tables are sometimes padded to a multiple of this (LLaVA-1.5: 32002 -> 32064)."""

_WIDEST = 512
"""Tables of language models are padded to a multiple of this at most (Qwen2: 151665 -> 152064)."""

_MARK = "\ufdd0"
"""No character: stands before a text that is not the first of its prompt."""


class Tokenizer:
    """Ids of a tokenizer file.

    Attributes:
      bos, eos: beginning and end of a sequence; `bos` is None where there is no such token.
      starts: whether a prompt starts with `bos`.
      image, reg: the placeholders of a visual token and of a knowledge token.
      pad: of the file, else 0 (`<unk>`), as in Llama; padding is told by the segment, never by the
        id.
      size: number of ids, added ones included.
      chat_template: jinja, that comes with the tokenizer; None: there is none.
      text: of the file.
      roles: what `tokenizer_config.json` says; empty for a file by itself.
    """

    def __init__(
        self, text: str, roles: Mapping[str, Any] | None = None, *, where: str = "tokenizer.json"
    ) -> None:
        try:
            self._inner = tokenizers.Tokenizer.from_str(text)
        except Exception as e:  # the library raises bare Exception
            raise DataError(f"not a tokenizer ({e})", where=where) from e
        self._inner.no_truncation()
        self._inner.no_padding()
        self.text, self.roles, self._where = text, dict(roles or {}), where
        bos = self.roles.get("bos_token", "<s>")
        self.bos = None if bos is None else self._special(bos)
        self.eos = self._special(self.roles.get("eos_token") or "</s>")
        self.image_text = self.roles.get("image_token") or IMAGE
        self.image, self.reg = self._special(self.image_text), self._special(REG)
        pad = self.roles.get("pad_token")
        self.pad = 0 if pad is None else self._special(pad)
        self.starts = self.bos is not None and bool(self.roles.get("add_bos_token", True))
        self.chat_template: str | None = self.roles.get("chat_template")
        self.size = self._inner.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read `tokenizer.json` by itself; its beginning and end are `<s>` and `</s>`.

        Raises:
          DataError: no such file, not a tokenizer, or one without a token that is needed.
        """
        return cls(read_text(Path(path)), where=str(path))

    @classmethod
    def from_directory(
        cls, path: str | os.PathLike[str], *, image_token: int | None = None
    ) -> Tokenizer:
        """Read a tokenizer of Hugging Face, or what `save` wrote.

        `<image>` and `<reg>` are added where they lack, with the ids after the last one: 32000 and
        32001 with Vicuna.

        Args:
          image_token: id of the placeholder by config.json; a token of this id is the placeholder.

        Raises:
          DataError: no tokenizer there, a damaged one, one without an end token.
        """
        folder = Path(path)
        text, roles = read_roles(folder)
        text, roles = with_placeholders(text, roles, image_token, where=str(folder))
        return cls(text, roles, where=str(folder / "tokenizer.json"))

    @classmethod
    def shipped(cls) -> Tokenizer:
        """That of the 260k-parameter decoder: 512 tokens, `<image>` and `<reg>`."""
        file = resources.files("rsvlm_jax") / "assets" / "stories260k" / "tokenizer.json"
        return cls(file.read_text(encoding="utf-8"), where="assets/stories260k/tokenizer.json")

    @classmethod
    def of(cls, source: str | os.PathLike[str], *, image_token: int | None = None) -> Tokenizer:
        """`shipped` for "asset:stories260k", else `from_directory`."""
        if source == "asset:stories260k":
            return cls.shipped()
        return cls.from_directory(source, image_token=image_token)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and, with roles, `tokenizer_config.json`, each in one step.

        transformers reads the folder too.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {"tokenizer.json": self.text}
        if self.roles:
            said = {"tokenizer_class": "PreTrainedTokenizerFast", **self.roles}
            texts["tokenizer_config.json"] = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        for name, text in texts.items():
            part = folder / f".{name}.part"
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / name)

    def digest(self) -> str:
        """SHA-256 of the file's text, and of the roles where there are any."""
        said = json.dumps(self.roles, sort_keys=True) if self.roles else ""
        return hashlib.sha256((self.text + said).encode()).hexdigest()

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Ids of a text whose special tokens are meant as such: never of what a user wrote."""
        ids = self._inner.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if bos and self.bos is not None else ids

    def plain(self, text: str, *, first: bool = True) -> tuple[list[int], list[int]]:
        """Ids of a text that holds no special token, whatever it spells, and where each starts.

        Args:
          first: of its prompt: Llama's tokenizers put a space before it, the legacy ones before
            every text that follows a special token too.

        Returns:
          ids, and for each the index in `text` of its first character.

        Raises:
          DataError: text that is not Unicode (a lone surrogate), or that the tokenizer has no other
            way to write than by a special token.
        """
        check_text(text)
        if not text:
            return [], []
        before = "" if first else _MARK
        if text[0] in " ▁" and (self._prepends == "always" or (first and self._prepends)):
            before += " "  # SentencePiece puts its own before it, Metaspace does not
        made = self._plain.encode(before + text, add_special_tokens=False)
        ids, starts = made.ids, [max(at - len(before), 0) for at, _ in made.offsets]
        if not first:
            ids, starts = ids[1:], starts[1:]
        if not self.control.isdisjoint(ids):
            token = self._inner.id_to_token(next(i for i in ids if i in self.control))
            raise DataError(
                "a special token in a text", where=repr(text[:60]),
                expected="words", found=repr(token), remedy="write it otherwise",
            )  # fmt: skip
        return ids, starts

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens and placeholders are left out."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def id_of(self, token: str) -> int | None:
        """Id of a token by its spelling in the file; None: there is none."""
        return self._inner.token_to_id(token)

    @functools.cached_property
    def specials(self) -> dict[str, tokenizers.AddedToken]:
        """Special tokens by their spelling."""
        added = self._inner.get_added_tokens_decoder().values()
        return {token.content: token for token in added if token.special}

    @functools.cached_property
    def control(self) -> frozenset[int]:
        """Ids that no text may become: all special ones but that of unknown characters."""
        unknown = json.loads(self.text).get("model", {}).get("unk_token")
        unknown = unknown if isinstance(unknown, str) else self.roles.get("unk_token", "<unk>")
        ids = {self._inner.token_to_id(token) for token in self.specials if token != unknown}
        return frozenset(
            i for i in ids | {self.bos, self.eos, self.image, self.reg} if i is not None
        )

    @functools.cached_property
    def _prepends(self) -> str | None:
        """How a Metaspace pre-tokenizer puts a space before a text: "first", "always" or not."""
        steps = json.loads(self.text).get("pre_tokenizer") or {}
        for step in steps.get("pretokenizers", [steps]):
            if step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never":
                return step.get("prepend_scheme", "always")
        return None

    @property
    def text_size(self) -> int:
        """Rows that an embedding table needs for text: ids but those of `<image>` and `<reg>`."""
        vocab = self._inner.get_vocab(with_added_tokens=True)
        return 1 + max(i for i in vocab.values() if i not in (self.image, self.reg))

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

    def check_rows(self, vocab_size: int) -> None:
        """As `check_table`, for a model that looks no placeholder up: it may lack their rows.

        Raises:
          ConfigError: fewer rows than `text_size`, or more than padding explains.
        """
        least, most = self.text_size, -(-self.size // _WIDEST) * _WIDEST
        if not least <= vocab_size <= most:
            raise ConfigError(
                "the tokenizer and the decoder's embedding table differ in size",
                where=self._where,
                expected=f"decoder.vocab_size {least} .. {most}",
                found=vocab_size,
                remedy="use the tokenizer that the decoder was trained with",
            )

    @functools.cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        made = tokenizers.Tokenizer.from_str(self.text)
        made.no_truncation()
        made.no_padding()
        made.encode_special_tokens = True
        made.add_tokens([tokenizers.AddedToken(_MARK, special=False, normalized=False)])
        return made

    def _special(self, token: str) -> int:
        found = self._inner.token_to_id(token)
        if found is None:
            raise DataError(
                f"the tokenizer has no token {token!r}",
                where=self._where,
                expected=f"<s>, </s>, {IMAGE} and {REG}" if not self.roles else "all it names",
                remedy=f"add {token!r} as a special token",
            )
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text, "roles": self.roles, "where": self._where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["text"], state["roles"], where=state["where"])


def check_text(text: str) -> None:
    """Refuse what cannot be written as UTF-8, and the one non-character that is used here.

    Raises:
      DataError: the place of the first such character.
    """
    try:
        text.encode()
        at = text.find(_MARK)
    except UnicodeEncodeError as e:
        at = e.start
    if at >= 0:
        raise DataError(
            "text that is not Unicode", where=f"character {at} of {text[:60]!r}",
            expected="UTF-8 without surrogates", found=f"U+{ord(text[at]):04X}",
        )  # fmt: skip
