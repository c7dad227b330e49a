"""The processor's folder: `processor.json` and the tokenizer's, written whole, read strictly."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from rsvlm_jax.config import (
    BandSetSpec,
    ConfigError,
    DataConfig,
    DataError,
    VLMConfig,
    from_dict,
    to_json,
)

from .questions import Facts
from .specs import TargetSpec
from .tokenizer import Tokenizer

VERSION = 1
"""Of `processor.json`. Raised when a field changes its meaning."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """The keys of `processor.json`; see `Processor` for their meaning."""

    config: VLMConfig
    data: DataConfig
    bandsets: tuple[BandSetSpec, ...]
    target: TargetSpec
    visual_tokens: int
    length: int
    conformal: tuple[float, ...] | None
    facts: Facts
    tokenizer_sha256: str
    version: int = VERSION
    also: tuple[TargetSpec, ...] = ()


def write(saved: Saved, tokenizer: Tokenizer, directory: str | os.PathLike[str]) -> None:
    """All files, each replaced in one step; `processor.json` last."""
    folder = Path(directory)
    tokenizer.save(folder)
    part = folder / ".processor.json.part"
    part.write_text(to_json(saved), encoding="utf-8")
    os.replace(part, folder / "processor.json")


def read(directory: str | os.PathLike[str]) -> tuple[Saved, Tokenizer]:
    """What `write` wrote.

    Raises:
      DataError: a file is missing, or the tokenizer is not the one that was saved.
      ConfigError: another version, an unknown or missing key, a wrong type, or a tokenizer of
        another size than the decoder's embedding table.
    """
    folder = Path(directory)
    path = folder / "processor.json"
    data = _read_json(path)
    if data.get("version") != VERSION:
        raise ConfigError(
            "a processor of another version",
            where=str(path),
            expected=VERSION,
            found=data.get("version"),
            remedy="load it with the release that wrote it",
        )
    later = ("also",)  # those that older processors lack
    names = [f.name for f in dataclasses.fields(Saved) if f.name not in later]
    missing = [name for name in names if name not in data]
    if missing:
        raise ConfigError("missing keys", where=str(path), expected=", ".join(missing))
    saved = from_dict(Saved, data, where=str(path))
    tokenizer = Tokenizer.from_directory(folder)
    # Size before digest: it says more about what is wrong.
    if saved.config.decoder is not None:
        tokenizer.check_table(saved.config.decoder.vocab_size)
    if tokenizer.digest() != saved.tokenizer_sha256:
        raise DataError(
            "not the tokenizer that was saved",
            where=str(folder / "tokenizer.json"),
            expected=f"SHA-256 {saved.tokenizer_sha256[:12]}",
            found=tokenizer.digest()[:12],
        )
    return saved, tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError("no readable processor", where=str(path), found=e.strerror) from e
    except ValueError as e:
        raise ConfigError(f"not JSON ({e})", where=str(path)) from e
    if not isinstance(data, dict):
        raise ConfigError("not a table", where=str(path), expected="an object")
    return data
