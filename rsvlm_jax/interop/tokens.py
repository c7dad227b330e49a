"""Whether the tokenizer beside the weights fits the embedding.

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
    for name, ids in (
        ("tokenizer.json", _tokenizer_ids),
        ("added_tokens.json", _values),
        ("vocab.json", _values),
        ("tokenizer_config.json", _decoder_ids),
    ):
        path = folder / name
        if not path.exists():
            continue
        try:
            token, largest = max(ids(read_json(path)), key=lambda x: x[1], default=("", -1))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as e:
            raise CheckpointError(
                "a damaged tokenizer", where=path, expected="tokens and their ids", found=repr(e)
            ) from e
        if largest >= rows:
            raise CheckpointError(
                "a tokenizer larger than the embedding", where=path,
                expected=f"ids below vocab_size {rows}", found=f"{token!r} = {largest}",
            )  # fmt: skip


Ids = Iterator[tuple[str, int]]


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
