"""Make `stories260k/` from A. Karpathy's TinyStories checkpoint in llama2.c's formats.

    python -m rsvlm_jax.assets.make_stories260k --source DIR

DIR holds `stories260k.npz` (the arrays of llama2.c's legacy checkpoint, by name, and `config`) and
`stories260k_tokenizer.bin`. The weights are copied as they are: the permutation of the rotary
pairs belongs to the import (`rsvlm_jax.interop.llama2c`), so that the shipped file can be compared
with its source byte by byte.

The tokenizer is rebuilt as byte-pair encoding that gives llama2.c's ids. llama2.c merges, again and
again, the adjacent pair whose joined piece has the best score; here every way to cut a piece into
two pieces becomes a merge, ranked by the score of the piece. As in llama2.c one space is put before
the text and taken away by decoding, spaces stay spaces (no U+2581), and characters outside the
vocabulary become bytes. As in Llama's original tokenizer the space is put before every run of text
between special tokens.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from rsvlm_jax.assets import STORIES260K_DIR

CONTROL = ("<unk>", "<s>", "</s>")
"""Ids 0, 1, 2; llama2.c writes the last two as "\\n<s>\\n" and "\\n</s>\\n"."""

ADDED = ("<image>", "<reg>")
"""The tokens of this project, numbered after the vocabulary."""

FIRST_PIECE = len(CONTROL) + 256
"""Ids below are control tokens and bytes, which no merge produces."""


BESIDE = {
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "tokenizer_config.json": {
        "bos_token": CONTROL[1],
        "clean_up_tokenization_spaces": False,
        "eos_token": CONTROL[2],
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": CONTROL[0],
    },
}
"""What `transformers` reads beside the weights of an export."""


def read_vocabulary(path: Path) -> list[tuple[str, float]]:
    """Pieces and scores of a llama2.c `tokenizer.bin`, in the order of their ids.

    The file: int32 longest piece, then for each piece float32 score, int32 length, UTF-8 bytes.
    """
    data = path.read_bytes()
    pieces, at = [], 4
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + size].decode("utf-8"), score))
        at += 8 + size
    return pieces


def build_tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """Byte-pair encoding with byte fallback that gives llama2.c's ids."""
    names = [*CONTROL, *(piece for piece, _ in pieces[len(CONTROL) :])]
    vocabulary = {piece: i for i, piece in enumerate(names)}
    mergeable = dict(pieces[FIRST_PIECE:])
    cuts = [
        (-score, vocabulary[piece], i, (piece[:i], piece[i:]))
        for piece, score in mergeable.items()
        for i in range(1, len(piece))
        if piece[:i] in mergeable and piece[i:] in mergeable
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[pair for *_, pair in sorted(cuts)],
            unk_token=CONTROL[0],
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (*CONTROL, *ADDED)]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="Make stories260k/ anew.")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=STORIES260K_DIR)
    args = parser.parse_args()

    with np.load(args.source / "stories260k.npz", allow_pickle=False) as source:
        arrays = {name: np.ascontiguousarray(source[name]) for name in source.files}
    names = ("dim", "hidden", "layers", "heads", "kv_heads", "vocab", "context")
    config = dict(zip(names, map(str, arrays.pop("config")), strict=True))
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(arrays, args.out / "model.safetensors", {**config, "layout": "llama2.c"})
    pieces = read_vocabulary(args.source / "stories260k_tokenizer.bin")
    build_tokenizer(pieces).save(str(args.out / "tokenizer.json"))
    for name, content in BESIDE.items():
        (args.out / name).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
