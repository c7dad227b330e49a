"""What a checkpoint's directory says of its processor. First: the shipped tokenizer or a plain directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError, DecoderConfig, VLMConfig
from rsvlm_jax.config.conversation import ImageConfig, Template

from .tokenizer import Tokenizer
from .tokenizer_files import read_json


def from_source(
    source: str | os.PathLike[str],
    model: VLMConfig | DecoderConfig,
    *,
    template: Template | None,
    image: ImageConfig | None,
    length: int | None,
) -> dict[str, Any]:
    """The fields of a `ChatProcessor`."""
    vlm = model if isinstance(model, VLMConfig) else None
    decoder = model if vlm is None else vlm.decoder
    if decoder is None:
        raise ConfigError("a model without a decoder", where="ChatProcessor.of")
    folder = None if source == "asset:stories260k" else Path(source)
    config = {} if folder is None else read_json(folder / "config.json")
    named = config.get("image_token_index", config.get("image_token_id"))
    tokenizer = Tokenizer.of(source, image_token=named)
    if vlm is not None and image is None:
        image = ImageConfig(size=vlm.vision.image_size, mean=vlm.vision.mean, std=vlm.vision.std)
    token = named if named is not None else tokenizer.image
    return {
        "tokenizer": tokenizer,
        "template": template or "vicuna_v1",
        "image": image if vlm is not None else None,
        "image_token": token if vlm is not None else None,
        "per_image": vlm.frame_tokens if vlm is not None else 0,
        "per_reg": vlm.head.reg_tokens if vlm is not None and vlm.head is not None else 0,
        "vocab_size": decoder.vocab_size,
        "length": decoder.positions if length is None else length,
        "ends": (tokenizer.eos,),
    }
