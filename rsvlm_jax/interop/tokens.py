"""What the tokenizer beside the weights holds, and whether it fits the embedding.

A token id beyond the table is an embedding of nothing: looked up it gives NaN here, another row or
a crash elsewhere. So the largest id in the tokenizer's files is compared before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsvlm_jax.config import CheckpointError

from .files import read_json


def check_tokenizer(folder: Path, config: Any) -> None:
    """Refuse a tokenizer with ids that the model has no row for.

    Args:
      config: one with `vocab_size`, or whose `decoder` has one; any other has no embedding.

    Raises:
      CheckpointError: the first file with such an id.
    """
    rows = getattr(config, "vocab_size", None)
    if rows is None:
        rows = getattr(getattr(config, "decoder", None), "vocab_size", None)
    if rows is None:
        return
    for path, ids in _read(folder):
        token, largest = max(ids.items(), key=lambda x: x[1], default=("", -1))
        if largest >= rows:
            raise CheckpointError(
                "a tokenizer larger than the embedding", where=path,
                expected=f"ids below vocab_size {rows}", found=f"{token!r} = {largest}",
            )  # fmt: skip


def vocabulary(folder: Path) -> dict[str, int]:
    """All tokens of a directory's tokenizer and their ids; empty where there is none.

    Raises:
      CheckpointError: a damaged file.
    """
    return {token: i for _, ids in _read(folder) for token, i in ids.items()}


Ids = Iterator[tuple[str, int]]


def _read(folder: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    """Each file that is there, with what it says."""
    for name, ids in (
        ("tokenizer.model", _pieces),
        ("tokenizer.json", _tokenizer_ids),
        ("added_tokens.json", _values),
        ("vocab.json", _values),
        ("tokenizer_config.json", _decoder_ids),
    ):
        path = folder / name
        if not path.exists():
            continue
        try:
            data: Any = path.read_bytes() if name == "tokenizer.model" else read_json(path)
            yield path, dict(ids(data))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as e:
            raise CheckpointError(
                "a damaged tokenizer", where=path, expected="tokens and their ids", found=repr(e)
            ) from e


def _pieces(data: bytes) -> Ids:
    """Of a SentencePiece model, a protocol buffer: field 1 is a piece, its field 1 the text."""
    pieces = (piece for field, piece in _fields(data) if field == 1)
    for i, piece in enumerate(pieces):
        yield next(text for field, text in _fields(piece) if field == 1).decode(), i


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and bytes of the fields of a message; those of fixed size are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"not a protocol buffer: wire type {kind}")
        size, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
        if at + size > len(data):
            raise ValueError("cut off")
        if kind == 2:
            yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _tokenizer_ids(data: dict[str, Any]) -> Ids:
    vocab = data["model"]["vocab"]
    if isinstance(vocab, dict):
        yield from _values(vocab)
    else:  # unigram: (token, score) in the order of ids
        yield from ((token, i) for i, (token, _) in enumerate(vocab))
    for token in data.get("added_tokens") or ():
        yield token["content"], int(token["id"])


def _values(data: dict[str, Any]) -> Ids:
    return ((token, int(i)) for token, i in data.items())


def _decoder_ids(data: dict[str, Any]) -> Ids:
    for i, token in (data.get("added_tokens_decoder") or {}).items():
        yield token["content"] if isinstance(token, dict) else str(token), int(i)
