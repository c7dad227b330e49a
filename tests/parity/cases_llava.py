"""Tiny LLaVAs: two images in one prompt, none in another, one in a third; padding on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import Arrays, Case, gradients

NEW_TOKENS = 64
VOCAB, IMAGE = 48, 45
SIZE, PATCH = 16, 8


def prompts(per_image: int) -> Any:
    """Three prompts of different lengths; placeholders in the middle, at the end, in front."""

    def inputs(rng: np.random.Generator) -> Arrays:
        def text(n: int) -> list[int]:
            return rng.integers(3, 40, n).tolist()

        image = [IMAGE] * per_image
        rows = [[*text(2), *image, *text(3), *image, 7], text(5), [*image, *text(4)]]
        length = max(len(r) for r in rows)
        pads = [[0] * (length - len(r)) for r in rows]
        ones = [[1] * len(r) for r in rows]
        return {
            "left_ids": np.array([p + r for p, r in zip(pads, rows, strict=True)]),
            "left_mask": np.array([p + o for p, o in zip(pads, ones, strict=True)]),
            "right_ids": np.array([r + p for p, r in zip(pads, rows, strict=True)]),
            "right_mask": np.array([o + p for p, o in zip(pads, ones, strict=True)]),
            "pixel_values": rng.standard_normal((3, 3, SIZE, SIZE)).astype(np.float32),
        }

    return inputs


def run(model: Any, inputs: dict[str, Any]) -> Arrays:
    import torch

    outputs: Arrays = {}
    total = torch.zeros(())
    pixels = inputs["pixel_values"]
    for side in ("left", "right"):
        ids, mask = inputs[f"{side}_ids"], inputs[f"{side}_mask"]
        logits = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
        outputs[f"{side}_logits"] = logits.detach().numpy()
        # Of every token of text that has a token before it.
        counts = (mask[:, 1:] * mask[:, :-1]).bool() & (ids[:, 1:] != IMAGE)
        total = total + torch.nn.functional.cross_entropy(
            logits[:, :-1][counts], ids[:, 1:][counts]
        )
    outputs["loss"] = total.detach().numpy()
    outputs |= gradients(model, total)
    outputs["text_logits"] = model(input_ids=inputs["right_ids"][1:2, :5]).logits.detach().numpy()
    said = model.generate(
        input_ids=inputs["left_ids"],
        attention_mask=inputs["left_mask"],
        pixel_values=pixels,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
    )
    outputs["greedy"] = said[:, inputs["left_ids"].shape[1] :].numpy()
    return outputs


CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh"}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def text(model_type: str, **config: Any) -> dict[str, Any]:
    base = {
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_parameters": ROPE,
        "bos_token_id": 1,
        "eos_token_id": None,  # so that every text has all its tokens
    }
    return base | config


def llava(
    name: str,
    vision: dict[str, Any],
    text: dict[str, Any],
    per_image: int,
    seed: int = 1,
    **config: Any,
) -> Case:
    base = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": IMAGE,
        "image_seq_length": per_image,
    }
    return Case(
        name, "LlavaForConditionalGeneration", base | config, prompts(per_image), run, seed=seed
    )


PATCHES = (SIZE // PATCH) ** 2
SEVEN = {
    "hidden_size": 14,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "head_dim": 6,
}

CASES = [
    llava("llava", CLIP, text("llama", **SEVEN), PATCHES),
    llava(
        "llava_two_layers_full",
        CLIP | {"hidden_act": "gelu"},
        text("mistral", sliding_window=9),
        PATCHES + 1,
        vision_feature_layer=[-3, 1],
        vision_feature_select_strategy="full",
        multimodal_projector_bias=False,
        projector_hidden_act="gelu_pytorch_tanh",
    ),
    llava(
        "llava_siglip_qwen2",
        SIGLIP,
        text("qwen2", tie_word_embeddings=True),
        PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    ),
    llava(
        "llava_qwen3",
        CLIP,
        text("qwen3", **SEVEN),
        PATCHES,
        vision_feature_layer=[-2, -1],
    ),
]
