"""Model sizes by name: `nano` for a CPU, LLaVA-1.5's 7B and 13B as numbers."""

from __future__ import annotations

from .language import LlamaConfig
from .model import HeadConfig, InputConfig, TemporalConfig, VLMConfig
from .resampler import ConnectorConfig
from .vision import CLIP_MEAN, CLIP_STD, Dinov2Config, ViTConfig

STORIES260K = LlamaConfig(
    vocab_size=514,  # 512 of the checkpoint, then <image>, <reg>
    width=64,
    layers=5,
    heads=8,
    kv_heads=4,
    mlp_dim=172,
    max_length=512,
    tie_embeddings=True,
)
"""A. Karpathy's 260k-parameter TinyStories model (`rsvlm_jax/assets`), two tokens added."""

EVA_G = Dinov2Config(
    image_size=224,
    table_size=224,
    width=1408,
    layers=39,
    heads=16,
    mlp_dim=6144,
    layer_scale=None,
    final_norm=True,
    keep_cls=True,
    mean=CLIP_MEAN,
    std=CLIP_STD,
)
"""EVA-CLIP's ViT-g/14 as BLIP-2, InstructBLIP and MiniGPT use it (39 of its 40 layers).

Not a `ViTConfig`: it has a patch bias and no norm before its layers. It is DINOv2's transformer
without layer scales and, in its checkpoints, keys without bias; after it stands a LayerNorm
(`ln_vision` there). Numbers are those of `transformers.InstructBlipVisionModel`
(tests/parity/test_eva.py), weights those of a BLIP-2 or InstructBLIP (`rsvlm_jax.interop.blip`)."""


def nano(inputs: tuple[InputConfig, ...] = (), *, image_size: int = 8, patch_size: int = 4):
    """About 0.5 M parameters: trains in a minute on two CPU cores."""
    return VLMConfig(
        inputs=inputs,
        vision=ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            width=64,
            layers=2,
            heads=4,
            mlp_dim=128,
            activation="gelu",
            feature_layers=(-1,),
        ),
        temporal=TemporalConfig(budget=8, layers=1, heads=4),
        connector=ConnectorConfig("mlp2x_gelu"),
        decoder=STORIES260K,
        head=HeadConfig(reg_tokens=2, token_dim=32, channel_dim=128),
    )


def llava15_7b(inputs: tuple[InputConfig, ...] = ()) -> VLMConfig:
    """CLIP ViT-L/14-336 and Vicuna-7B, as LLaVA-1.5-7B; 64 visual tokens a sample."""
    return VLMConfig(
        inputs=inputs,
        vision=ViTConfig(),
        temporal=TemporalConfig(budget=64, layers=2, heads=16),
        decoder=LlamaConfig(),
        head=HeadConfig(reg_tokens=8, token_dim=256, channel_dim=4096),
        dtype="bfloat16",
    )


def llava15_13b(inputs: tuple[InputConfig, ...] = ()) -> VLMConfig:
    """CLIP ViT-L/14-336 and Vicuna-13B, as LLaVA-1.5-13B; 64 visual tokens a sample."""
    return VLMConfig(
        inputs=inputs,
        vision=ViTConfig(),
        temporal=TemporalConfig(budget=64, layers=2, heads=16),
        decoder=LlamaConfig(width=5120, layers=40, heads=40, kv_heads=40, mlp_dim=13824),
        head=HeadConfig(reg_tokens=8, token_dim=256, channel_dim=4096),
        dtype="bfloat16",
    )


PRESETS = {"nano": nano, "7b": llava15_7b, "13b": llava15_13b}
