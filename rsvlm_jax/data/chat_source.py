"""What a checkpoint's directory says of its processor: template, preprocessing, ends.

    chat.json                                 of `ChatProcessor` itself: as it was saved
    config.json                               whose layout; image_aspect_ratio; the placeholder's id
    preprocessor_config.json                  (or inside processor_config.json) sizes and numbers
    generation_config.json                    ends of an answer

Template, unless one is asked for: GeoChat and RS-LLaVA `llava_v1`, LLaVA in its own layout
`vicuna_v1`, over Mistral `mistral`; any other the tokenizer's own, and `vicuna_v1` where it has
none. RS-LLaVA is known by the name of its directory, as its own code knows it.

Preprocessing: in LLaVA's own layout `image_aspect_ratio` decides between padding and cutting, in
that of Hugging Face the class of the image processor; a plain language model under a new tower is
given LLaVA's padding.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError, DecoderConfig, VLMConfig
from rsvlm_jax.config.conversation import ImageConfig, Template

from .templates import IM_END
from .tokenizer import Tokenizer
from .tokenizer_files import read_json

ASSET = "asset:stories260k"

_ORIGINAL: dict[str, Template | None] = {
    "LlavaLlamaForCausalLM": "vicuna_v1",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": None,
    "GeoChatLlamaForCausalLM": "llava_v1",
}
"""Architectures of LLaVA's own layout, and what they were trained with; None: their
tokenizer's."""

_RESAMPLE = {2: "bilinear", 3: "bicubic"}

Json = dict[str, Any]


def from_source(
    source: str | os.PathLike[str],
    model: VLMConfig | DecoderConfig,
    *,
    template: Template | None = None,
    image: ImageConfig | None = None,
    length: int | None = None,
) -> dict[str, Any]:
    """The fields of a `ChatProcessor`; arguments and errors as `ChatProcessor.of`."""
    vlm = model if isinstance(model, VLMConfig) else None
    decoder = model.decoder if isinstance(model, VLMConfig) else model
    if decoder is None:
        raise ConfigError("a model without a decoder", where="ChatProcessor.of")
    folder = None if source == ASSET else Path(source)
    config = {} if folder is None else read_json(folder / "config.json")
    token = config.get("image_token_index", config.get("image_token_id"))
    token = token if isinstance(token, int) and token >= 0 else None  # -200: LLaVA's mark
    tokenizer = Tokenizer.of(source, image_token=token)
    architecture = next(iter(config.get("architectures") or ()), "")
    if template is None:
        template = _template(folder, config, architecture, tokenizer)
    if vlm is not None:
        image = _image(folder, config, architecture, vlm) if image is None else image
        check_size(image, vlm)
    elif image is not None:
        raise ConfigError("the model reads no images", where="ChatProcessor.of(image)", found=image)
    return {
        "tokenizer": tokenizer,
        "template": template,
        "image": image,
        "image_token": None if vlm is None else (tokenizer.image if token is None else token),
        "per_image": 0 if vlm is None else vlm.frame_tokens,
        "per_reg": vlm.head.reg_tokens if vlm is not None and vlm.head is not None else 0,
        "vocab_size": decoder.vocab_size,
        "length": decoder.positions if length is None else length,
        "ends": _ends(folder, config, template, tokenizer, decoder.vocab_size),
    }


def check_size(image: ImageConfig, model: VLMConfig) -> None:
    """Refuse images of another size than the tower's."""
    if image.size != model.vision.image_size:
        raise ConfigError(
            "images of another size than the tower's", where="ImageConfig.size",
            expected=model.vision.image_size, found=image.size,
        )  # fmt: skip


def check_saved(saved: Any, model: VLMConfig | DecoderConfig) -> None:
    """Refuse a saved processor of another model: `vocab_size`, `per_image` and `per_reg`."""
    vlm = model if isinstance(model, VLMConfig) else None
    decoder = model.decoder if isinstance(model, VLMConfig) else model
    wanted = {
        "vocab_size": None if decoder is None else decoder.vocab_size,
        "per_image": 0 if vlm is None else vlm.frame_tokens,
        "per_reg": vlm.head.reg_tokens if vlm is not None and vlm.head is not None else 0,
    }
    for name, expected in wanted.items():
        if (found := getattr(saved, name)) != expected:
            raise ConfigError(
                "the processor of another model", where=f"ChatProcessor.{name}", expected=expected,
                found=found,
            )  # fmt: skip


def _template(
    folder: Path | None, config: Json, architecture: str, tokenizer: Tokenizer
) -> Template:
    names = (str(config.get("_name_or_path", "")), "" if folder is None else folder.name)
    if any("rs-llava" in name.lower() for name in names):
        return "llava_v1"
    if known := _ORIGINAL.get(architecture):
        return known
    return "vicuna_v1" if tokenizer.chat_template is None else "tokenizer"


def _image(folder: Path | None, config: Json, architecture: str, model: VLMConfig) -> ImageConfig:
    vision = model.vision
    mine = ImageConfig(size=vision.image_size, mean=vision.mean, std=vision.std)
    said: Json = {}
    if folder is not None:
        said = read_json(folder / "preprocessor_config.json")
        said = said or read_json(folder / "processor_config.json").get("image_processor") or {}
    if said:
        mine = _said(said, mine, where=f"{folder}: preprocessor_config.json")
    if architecture in _ORIGINAL:
        aspect = config.get("image_aspect_ratio")
        if aspect not in ("pad", "square", None):
            raise ConfigError(
                "preprocessing that is not supported", where=f"{folder}: image_aspect_ratio",
                expected="pad, square or none", found=repr(aspect), remedy="give image=ImageConfig",
            )  # fmt: skip
        return dataclasses.replace(mine, fit="pad" if aspect == "pad" else "crop")
    if architecture == "LlavaForConditionalGeneration" and not said:
        return dataclasses.replace(mine, fit="squash" if vision.kind == "siglip" else "crop")
    return mine


def _said(said: Json, mine: ImageConfig, *, where: str) -> ImageConfig:
    """An image processor of Hugging Face; its defaults are CLIP's."""

    def refuse(key: str, expected: object) -> ConfigError:
        return ConfigError(
            "preprocessing that is not supported", where=f"{where}: {key}", expected=expected,
            found=said.get(key), remedy="give image=ImageConfig",
        )  # fmt: skip

    kind = str(said.get("image_processor_type", said.get("feature_extractor_type", "CLIP")))
    kind = kind.removesuffix("Fast").removesuffix("Pil")
    kinds = ("CLIP", "CLIPImageProcessor", "CLIPFeatureExtractor", "SiglipImageProcessor")
    kinds = (*kinds, "LlavaImageProcessor", "BitImageProcessor", "ViTImageProcessor")
    if kind not in kinds:
        raise refuse("image_processor_type", " or ".join(kinds[1:]))
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if said.get(key, True) is not True:
            raise refuse(key, True)
    if abs(said.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise refuse("rescale_factor", 1 / 255)
    resample = _RESAMPLE.get(said.get("resample", 3))
    if resample is None:
        raise refuse("resample", "2 or 3")
    cut = said.get("do_center_crop", kind not in ("SiglipImageProcessor", "ViTImageProcessor"))
    size, crop = said.get("size", mine.size), said.get("crop_size", mine.size)
    edges = {*(size.values() if isinstance(size, dict) else (size,))}
    if cut:
        edges |= {*(crop.values() if isinstance(crop, dict) else (crop,))}
    if len(edges) != 1:
        raise refuse("size", "one edge for resizing and cutting")
    squash = not cut and not (isinstance(size, dict) and "shortest_edge" in size)
    if not cut and not squash and not said.get("do_pad"):
        raise refuse("do_center_crop", True)
    fit = "pad" if said.get("do_pad") else "squash" if squash else "crop"
    mean, std = said.get("image_mean", mine.mean), said.get("image_std", mine.std)
    return ImageConfig(int(edges.pop()), fit, resample, tuple(mean), tuple(std))  # type: ignore[arg-type]


def _ends(
    folder: Path | None, config: Json, template: Template, tokenizer: Tokenizer, rows: int
) -> tuple[int, ...]:
    said = {} if folder is None else read_json(folder / "generation_config.json")
    named = said.get("eos_token_id", config.get("eos_token_id"))
    ends = [*(named if isinstance(named, list) else [named]), tokenizer.eos]
    if template == "chatml":
        ends.append(tokenizer.id_of(IM_END))
    kept = [i for i in dict.fromkeys(ends) if isinstance(i, int)]
    beyond = [i for i in kept if not 0 <= i < rows]
    if beyond:
        raise ConfigError(
            "an end of answers without a row", where=f"{folder}: eos_token_id",
            expected=f"ids below {rows}", found=beyond,
        )  # fmt: skip
    return tuple(kept)
