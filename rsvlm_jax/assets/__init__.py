"""Shipped weights: a 260k-parameter Llama with its tokenizer, and two spectral-temporal encoders.

    stories260k/model.safetensors   arrays of the original checkpoint, names and layout unchanged
    stories260k/tokenizer.json      its tokenizer for `tokenizers`, `<image>` and `<reg>` added
    stories260k/*_config.json       what `transformers` reads beside an export of it
    galileo_nano/encoder.npz        arrays of Galileo-nano's encoder, names and layout unchanged
    presto/default.npz              arrays of Presto's default model, likewise
    */reference.npz                 inputs, and what the public models gave for them
    LICENSES/                       terms of what is shipped
    make_*.py                       the scripts that made the files

`rsvlm_jax.interop.llama2c` turns the arrays into parameters of `rsvlm_jax.models.llama`,
`rsvlm_jax.interop.encoders` those of the encoders into `models.galileo` and `models.presto`.
"""

from __future__ import annotations

from pathlib import Path

STORIES260K_DIR = Path(__file__).parent / "stories260k"
"""Directory of the shipped language model."""

GALILEO_NANO = Path(__file__).parent / "galileo_nano" / "encoder.npz"
"""Weights of Galileo-nano's encoder (Tseng et al. 2025)."""

GALILEO_REFERENCE = GALILEO_NANO.with_name("reference.npz")
"""What the public model gave, cut down by `make_encoders`."""

PRESTO = Path(__file__).parent / "presto" / "default.npz"
"""Weights of Presto (Tseng et al. 2023), encoder and decoder."""

PRESTO_REFERENCE = PRESTO.with_name("reference.npz")
"""What the public model gave, cut down by `make_encoders`."""
