"""Shipped weights: the 260k-parameter TinyStories Llama and its tokenizer.

    stories260k/model.safetensors   arrays of the original checkpoint, names and layout unchanged
    stories260k/tokenizer.json      its tokenizer for `tokenizers`, `<image>` and `<reg>` added
    stories260k/*_config.json       what `transformers` reads beside an export of it
    LICENSES/                       terms of what is shipped
    make_stories260k.py             the script that made the files

`rsvlm_jax.interop.llama2c` turns the arrays into parameters of `rsvlm_jax.models.llama`.
"""

from __future__ import annotations

from pathlib import Path

STORIES260K_DIR = Path(__file__).parent / "stories260k"
"""Directory of the shipped language model."""
