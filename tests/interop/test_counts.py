"""Parameter counts of published models, to the unit, from abstract models of their config.json.

Three sources must agree: ours, the figures as published (the literals), and, where torch is
installed, the classes of transformers on the meta device.
"""

from __future__ import annotations

import importlib.util
import json
import math
from typing import Any

import jax
import pytest
from flax import nnx

from rsvlm_jax.interop.families import FAMILIES

CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def llava(width: int, mlp: int, layers: int, heads: int) -> dict[str, Any]:
    """LLaVA-1.5 on Vicuna-1.5, whose vocabulary was padded for the image token."""
    return {
        "model_type": "llava",
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "vision_config": CLIP_L_336,
        "text_config": {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
    }


QWEN2_05B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}

SIGLIP_SO400M_384 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}

DINOV2_L = {
    "model_type": "dinov2",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
}

MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "LLaVA-1.5 7B": (
        "LlavaForConditionalGeneration",
        llava(4096, 11008, 32, 32),
        7_063_427_072,
    ),
    "LLaVA-1.5 13B": (
        "LlavaForConditionalGeneration",
        llava(5120, 13824, 40, 40),
        13_351_494_656,
    ),
    "Qwen2-0.5B": ("Qwen2ForCausalLM", QWEN2_05B, 494_032_768),
    "CLIP-L/14-336": ("CLIPVisionModel", CLIP_L_336, 303_507_456),
    "SigLIP-so400m/14-384": ("SiglipVisionModel", SIGLIP_SO400M_384, 428_225_600),
    "DINOv2-L": ("Dinov2Model", DINOV2_L, 304_368_640),
}

LLAVA_7B = {
    "vision": 303_507_456,
    "connector": 1024 * 4096 + 4096 + 4096 * 4096 + 4096,
    "decoder": 6_738_415_616 + 2 * 64 * 4096,  # Llama-2 7B with 64 more rows on either side
}


def abstract(name: str) -> Any:
    architecture, raw, _ = MODELS[name]
    family = FAMILIES[architecture]
    config = family.read_config(json.loads(json.dumps(raw)))
    model = nnx.eval_shape(lambda: family.build(config, nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def count(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count(name: str) -> None:
    assert count(abstract(name)) == MODELS[name][2]


def test_parts_of_llava() -> None:
    assert {part: count(tree) for part, tree in abstract("LLaVA-1.5 7B").items()} == LLAVA_7B


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("name", MODELS)
def test_published_count_is_that_of_transformers(name: str) -> None:
    import torch
    import transformers

    architecture, raw, published = MODELS[name]
    cls = getattr(transformers, architecture)
    with torch.device("meta"):
        model = cls(cls.config_class(**json.loads(json.dumps(raw))))
    assert sum(p.numel() for p in model.parameters()) == published
