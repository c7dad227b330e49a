"""The folder of a `ChatProcessor`: `chat.json` and the tokenizer's files, read strictly."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from rsvlm_jax.config import ConfigError, DataError, from_dict, to_json
from rsvlm_jax.config.conversation import ImageConfig, Template

from .tokenizer import Tokenizer

VERSION = 1
"""Of `chat.json`. Raised when a field changes its meaning."""

_FILE = "chat.json"


@dataclasses.dataclass(frozen=True)
class Saved:
    """The keys of `chat.json`; see `ChatProcessor` for their meaning."""

    template: Template
    image: ImageConfig | None
    image_token: int | None
    per_image: int
    vocab_size: int
    length: int
    ends: tuple[int, ...]
    per_reg: int
    tokenizer_sha256: str
    version: int = VERSION


def there(directory: str | os.PathLike[str]) -> bool:
    """Whether a `ChatProcessor` was saved here."""
    return (Path(directory) / _FILE).exists()


def write(saved: Saved, tokenizer: Tokenizer, directory: str | os.PathLike[str]) -> None:
    """All files, each replaced in one step; `chat.json` last."""
    folder = Path(directory)
    tokenizer.save(folder)
    part = folder / f".{_FILE}.part"
    part.write_text(to_json(saved), encoding="utf-8")
    os.replace(part, folder / _FILE)


def read(directory: str | os.PathLike[str]) -> tuple[Saved, Tokenizer]:
    """What `write` wrote.

    Raises:
      DataError: a file is missing, or the tokenizer is not the one that was saved.
      ConfigError: another version, an unknown or missing key, a wrong type.
    """
    folder = Path(directory)
    path = folder / _FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DataError("no readable processor", where=str(path), found=e) from e
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ConfigError(
            "a processor of another version", where=str(path), expected=VERSION,
            found=data.get("version") if isinstance(data, dict) else type(data).__name__,
            remedy="load it with the release that wrote it",
        )  # fmt: skip
    missing = [f.name for f in dataclasses.fields(Saved) if f.name not in data]
    if missing:
        raise ConfigError("missing keys", where=str(path), expected=", ".join(missing))
    saved = from_dict(Saved, data, where=str(path))
    tokenizer = Tokenizer.from_directory(folder, image_token=saved.image_token)
    if tokenizer.digest() != saved.tokenizer_sha256:
        raise DataError(
            "not the tokenizer that was saved", where=str(folder / "tokenizer.json"),
            expected=f"SHA-256 {saved.tokenizer_sha256[:12]}", found=tokenizer.digest()[:12],
        )  # fmt: skip
    return saved, tokenizer
