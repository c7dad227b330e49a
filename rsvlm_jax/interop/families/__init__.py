"""The families that are read and written, by Hugging Face class name."""

from __future__ import annotations

from rsvlm_jax.interop.family import Family

from .clip import CLIP, CLIP_VISION, CLIP_VISION_PROJECTED
from .convnext import CONVNEXT, CONVNEXT_CLASSIFIER
from .dinov2 import DINOV2
from .gpt2 import GPT2_LM
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .llava import LLAVA
from .llava_original import ORIGINAL
from .qformer import QFORMER
from .siglip import SIGLIP, SIGLIP_VISION

_ALL: tuple[Family, ...] = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GPT2_LM,
    CLIP_VISION,
    CLIP_VISION_PROJECTED,
    CLIP,
    SIGLIP_VISION,
    SIGLIP,
    DINOV2,
    CONVNEXT,
    CONVNEXT_CLASSIFIER,
    QFORMER,
    LLAVA,
    *ORIGINAL,
)

FAMILIES: dict[str, Family] = {family.architecture: family for family in _ALL}
"""By `architectures[0]` of a config.json."""
