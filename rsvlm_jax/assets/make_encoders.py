"""Make `galileo_nano/` and `presto/` from the arrays of the two public encoders.

    python -m rsvlm_jax.assets.make_encoders --source DIR

DIR holds, for `galileo_nano` and `presto`, the weights by their names in the original checkpoint
(`galileo_nano_encoder.npz`, `presto_default.npz`; the licences are in `LICENSES/`) and what the
public models gave for some inputs (`*_reference.npz`). The weights are copied byte by byte. Of the
outputs inputs, embeddings and reconstructions are kept whole, hidden states at every fifth token
(`EVERY`; the groups are 7, 3 and 10, so that each is met at several dates); what was computed in
float64 is left out, and masks are stored as bytes. Nothing is computed here.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from rsvlm_jax.assets import GALILEO_NANO, GALILEO_REFERENCE, PRESTO, PRESTO_REFERENCE

EVERY = 5
"""Of the tokens of hidden states every fifth is kept, from the first on."""

HIDDEN = ("embedded", "block0", "block1", "tokens", "decoder_in", "decoder_block0")
"""Arrays [B,N,D], by the end of their names."""

LEFT_OUT = ("f64", "description", "crop_row_col", "start_month", "projected")
"""Ends of names: runs in float64, words, and what `embedded` holds too."""

SOURCES = (
    ("galileo_nano_encoder.npz", "galileo_nano_reference.npz", GALILEO_NANO, GALILEO_REFERENCE),
    ("presto_default.npz", "presto_reference.npz", PRESTO, PRESTO_REFERENCE),
)


def cut(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is kept of reference outputs."""
    kept = {}
    for name, x in arrays.items():
        if name.endswith(LEFT_OUT):
            continue
        if name.endswith(HIDDEN):
            x = x[:, ::EVERY]
        elif name.endswith(("_m", "mask", "dynamic_world", "months")):
            x = x.astype(np.uint8)
        kept[name] = x
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description="Make galileo_nano/ and presto/ anew.")
    parser.add_argument("--source", type=Path, required=True)
    args = parser.parse_args()
    for weights, reference, to, beside in SOURCES:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.source / weights, to)
        with np.load(args.source / reference, allow_pickle=False) as source:
            kept: dict[str, Any] = cut(dict(source))
        np.savez_compressed(beside, **kept)


if __name__ == "__main__":
    main()
