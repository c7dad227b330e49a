"""`ChatProcessor.of` on directories: whose layout, which template, preprocessing and ends."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tokenizers import CHATML, SIZE, byte_directory, llama_directory

from rsvlm_jax.config import (
    ConfigError,
    DataError,
    LlamaConfig,
    SiglipConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.config.conversation import ImageConfig
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.messages import Message

VISION = ViTConfig(image_size=28, patch_size=14, width=8, layers=2, heads=2, mlp_dim=12)
TEXT = LlamaConfig(vocab_size=384, width=12, layers=1, heads=3, kv_heads=1, mlp_dim=16)
MODEL = VLMConfig(vision=VISION, decoder=TEXT, head=None)
TIGHT = dataclasses.replace(MODEL, decoder=dataclasses.replace(TEXT, vocab_size=SIZE))
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def directory(folder: Path, config: dict[str, Any], **files: dict[str, Any]) -> Path:
    llama_directory(folder)
    for name, data in {"config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


def preprocessor(**said: Any) -> dict[str, Any]:
    edge = {"height": 28, "width": 28}
    return {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28},
        "crop_size": edge, "image_mean": MEAN, "image_std": STD, "resample": 3, **said,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "template"),
    [
        ("LlavaLlamaForCausalLM", "vicuna_v1"),
        ("LlavaMistralForCausalLM", "mistral"),
        ("GeoChatLlamaForCausalLM", "llava_v1"),
        ("LlavaForConditionalGeneration", "vicuna_v1"),
        ("LlamaForCausalLM", "vicuna_v1"),
    ],
)
def test_the_template_of_an_architecture(tmp_path: Path, architecture: str, template: str):
    config = {"architectures": [architecture], "image_aspect_ratio": "pad"}
    chat = ChatProcessor.of(directory(tmp_path, config), MODEL)
    assert chat.template == template
    asked = ChatProcessor.of(tmp_path, MODEL, template="chatml")
    assert asked.template == "chatml"


def test_rs_llava_is_known_by_its_name(tmp_path: Path):
    config = {"architectures": ["LlavaLlamaForCausalLM"]}
    folder = directory(tmp_path / "RS-LLaVA-v1.5-7b", config)
    assert ChatProcessor.of(folder, MODEL).template == "llava_v1"


def test_the_placeholder_of_an_original_llava_needs_no_row(tmp_path: Path):
    """Vicuna's 32000 rows; `<image>` is 32000."""
    chat = ChatProcessor.of(directory(tmp_path, {}), TIGHT)
    assert (chat.image_token, chat.tokenizer.image, chat.tokenizer.reg) == (SIZE, SIZE, SIZE + 1)
    row = chat.encode([Message("user", "<image>\nwhat?")])
    x = chat.pixels(np.zeros((28, 28, 3), np.uint8))
    assert int(chat.batch([row], [[x]]).tokens.max()) < SIZE


def test_the_placeholder_is_the_token_that_config_names(tmp_path: Path):
    llama_directory(tmp_path, added=("<pad>", "<|picture|>"))
    (tmp_path / "config.json").write_text(json.dumps({"image_token_index": SIZE + 1}))
    chat = ChatProcessor.of(tmp_path, MODEL)
    assert (chat.image_token, chat.tokenizer.image_text) == (SIZE + 1, "<|picture|>")
    row = chat.encode([Message("user", "<image>\n<|picture|>?")])
    assert row.ids.count(SIZE + 1) == 4
    chat.save(tmp_path / "saved")
    assert ChatProcessor.load(tmp_path / "saved").digest() == chat.digest()


@pytest.mark.parametrize(("aspect", "fit"), [("pad", "pad"), ("square", "crop"), (None, "crop")])
def test_the_aspect_of_an_original_llava(tmp_path: Path, aspect: str | None, fit: str):
    config = {"architectures": ["LlavaLlamaForCausalLM"], "image_aspect_ratio": aspect}
    chat = ChatProcessor.of(directory(tmp_path, config), MODEL)
    assert chat.image == ImageConfig(28, fit, "bicubic", VISION.mean, VISION.std)  # type: ignore[arg-type]


def test_geochat_reads_504_pixels(tmp_path: Path):
    config = {"architectures": ["GeoChatLlamaForCausalLM"], "image_aspect_ratio": "pad"}
    vision = dataclasses.replace(VISION, image_size=504)
    model = dataclasses.replace(MODEL, vision=vision)
    chat = ChatProcessor.of(directory(tmp_path, config), model)
    assert chat.image is not None
    assert (chat.image.size, chat.image.fit, chat.per_image) == (504, "pad", 1296)


@pytest.mark.parametrize(
    ("said", "fit", "resample"),
    [
        ({}, "crop", "bicubic"),
        ({"image_processor_type": "CLIPImageProcessorFast", "resample": 2}, "crop", "bilinear"),
        ({"image_processor_type": "LlavaImageProcessor", "do_pad": True}, "pad", "bicubic"),
        (
            {
                "image_processor_type": "SiglipImageProcessor",
                "size": {"height": 28, "width": 28},
                "crop_size": None,
            },
            "squash",
            "bicubic",
        ),
    ],
)
def test_an_image_processor_of_hugging_face(tmp_path: Path, said: dict, fit: str, resample: str):
    config = {"architectures": ["LlavaForConditionalGeneration"]}
    folder = directory(tmp_path, config, preprocessor_config=preprocessor(**said))
    chat = ChatProcessor.of(folder, MODEL)
    assert chat.image == ImageConfig(28, fit, resample, MEAN, STD)  # type: ignore[arg-type]


def test_transformers_5_keeps_the_image_processor_elsewhere(tmp_path: Path):
    config = {"architectures": ["LlavaForConditionalGeneration"]}
    files = {"processor_config": {"image_processor": preprocessor()}}
    chat = ChatProcessor.of(directory(tmp_path, config, **files), MODEL)
    assert chat.image == ImageConfig(28, "crop", "bicubic", MEAN, STD)


def test_siglip_without_a_file_is_squashed(tmp_path: Path):
    vision = SiglipConfig(image_size=28, width=8, layers=2, heads=2, mlp_dim=12)
    config = {"architectures": ["LlavaForConditionalGeneration"]}
    model = dataclasses.replace(MODEL, vision=vision)
    chat = ChatProcessor.of(directory(tmp_path, config), model)
    assert chat.image is not None
    assert (chat.image.fit, chat.image.mean) == ("squash", (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"image_processor_type": "LlavaNextImageProcessor"}, "image_processor_type"),
        ({"do_normalize": False}, "do_normalize"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"resample": 1}, "resample"),
        ({"size": {"shortest_edge": 32}}, "size"),
    ],
)
def test_preprocessing_that_is_not_supported(tmp_path: Path, said: dict[str, Any], key: str):
    config = {"architectures": ["LlavaForConditionalGeneration"]}
    folder = directory(tmp_path, config, preprocessor_config=preprocessor(**said))
    with pytest.raises(ConfigError, match=f"not supported in .*preprocessor_config.json: {key};"):
        ChatProcessor.of(folder, MODEL)


def test_tiles_of_any_resolution_are_refused(tmp_path: Path):
    config = {"architectures": ["LlavaLlamaForCausalLM"], "image_aspect_ratio": "anyres"}
    with pytest.raises(ConfigError, match=r"image_aspect_ratio; expected pad, square or none"):
        ChatProcessor.of(directory(tmp_path, config), MODEL)


def test_preprocessing_for_another_tower(tmp_path: Path):
    config = {"architectures": ["LlavaForConditionalGeneration"]}
    said = preprocessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    folder = directory(tmp_path, config, preprocessor_config=said)
    with pytest.raises(ConfigError, match=r"of another size than the tower's .* 28; found 56"):
        ChatProcessor.of(folder, MODEL)


def test_ends_are_all_that_the_checkpoint_names(tmp_path: Path):
    files = {"generation_config": {"eos_token_id": [7, 2]}}
    chat = ChatProcessor.of(directory(tmp_path, {"eos_token_id": 2}, **files), MODEL)
    assert chat.ends == (7, 2)
    files = {"generation_config": {"eos_token_id": 999}}
    with pytest.raises(ConfigError, match=r"an end of answers without a row .* found \[999\]"):
        ChatProcessor.of(directory(tmp_path, {}, **files), MODEL)


def test_a_language_model_with_its_template(tmp_path: Path):
    chat = ChatProcessor.of(byte_directory(tmp_path), TEXT, length=100)
    assert (chat.template, chat.image, chat.image_token) == ("tokenizer", None, None)
    assert chat.tokenizer.chat_template == CHATML
    assert chat.tokenizer.bos is None
    assert not chat.tokenizer.starts
    assert chat.ends == (chat.tokenizer.id_of("<|im_end|>"),)
    assert chat.length == 100


def test_a_tokenizer_larger_than_the_embedding(tmp_path: Path):
    model = dataclasses.replace(MODEL, decoder=dataclasses.replace(TEXT, vocab_size=300))
    with pytest.raises(ConfigError, match=f"differ in size .* expected decoder.vocab_size {SIZE} "):
        ChatProcessor.of(directory(tmp_path, {}), model)


def test_a_directory_without_a_tokenizer(tmp_path: Path):
    with pytest.raises(DataError, match=r"no readable tokenizer .* expected tokenizer.json or"):
        ChatProcessor.of(tmp_path, MODEL)


def test_a_damaged_config(tmp_path: Path):
    llama_directory(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"not readable as JSON in .*config\.json"):
        ChatProcessor.of(tmp_path, MODEL)


def test_images_for_a_model_of_text(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"the model reads no images"):
        ChatProcessor.of(directory(tmp_path, {}), TEXT, image=ImageConfig())
