"""Configuration: frozen dataclasses, presets and their JSON form. Imports no JAX, no NumPy."""

from .bands import BandKind, BandSetSpec, BandSpec
from .conversation import TEMPLATES, ConversationConfig, ImageConfig, Template
from .data import DataConfig, SplitConfig, TargetConfig
from .encoders import (
    GALILEO_NANO,
    PRESTO,
    EncoderConfig,
    EncodersConfig,
    GalileoConfig,
    PrestoConfig,
)
from .errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    PeerLost,
    Preempted,
    RsvlmError,
)
from .experiment import Experiment
from .generation import GenerationConfig
from .io import from_dict, from_json, strict_json, to_dict, to_json
from .language import DecoderConfig, GPT2Config, LlamaConfig, RopeScaling
from .lora import (
    DECODER_LINEARS,
    DECODER_WEIGHTS,
    FROZEN_CODES,
    LORA_ONLY,
    LoraConfig,
    LoraOverride,
)
from .model import (
    HeadConfig,
    InputConfig,
    Plan,
    SarThird,
    SelectionConfig,
    SpectralConfig,
    TemporalConfig,
    VLMConfig,
)
from .optimizer import GroupConfig, OptimizerConfig
from .presets import EVA_G, PRESETS, STORIES260K, llava15_7b, llava15_13b, nano
from .resampler import (
    ConnectorConfig,
    PerceiverConfig,
    PixelShuffleConfig,
    QFormerConfig,
    ResamplerConfig,
)
from .training import LossConfig, MeshConfig, TrainConfig
from .vision import (
    ConvNextConfig,
    Dinov2Config,
    FeatureJoin,
    MixedConfig,
    SiglipConfig,
    VisionConfig,
    ViTConfig,
)

__all__ = [
    "DECODER_LINEARS",
    "DECODER_WEIGHTS",
    "EVA_G",
    "FROZEN_CODES",
    "GALILEO_NANO",
    "LORA_ONLY",
    "PRESETS",
    "PRESTO",
    "STORIES260K",
    "TEMPLATES",
    "BandKind",
    "BandSetSpec",
    "BandSpec",
    "CheckpointError",
    "ConfigError",
    "ConnectorConfig",
    "ConvNextConfig",
    "ConversationConfig",
    "DataConfig",
    "DataError",
    "DecoderConfig",
    "Dinov2Config",
    "EncoderConfig",
    "EncodersConfig",
    "Experiment",
    "FeatureJoin",
    "GPT2Config",
    "GalileoConfig",
    "GenerationConfig",
    "GroupConfig",
    "HeadConfig",
    "ImageConfig",
    "InputConfig",
    "LlamaConfig",
    "LoraConfig",
    "LoraOverride",
    "LossConfig",
    "MeshConfig",
    "MixedConfig",
    "NonFiniteError",
    "OptimizerConfig",
    "PeerLost",
    "PerceiverConfig",
    "PixelShuffleConfig",
    "Plan",
    "Preempted",
    "PrestoConfig",
    "QFormerConfig",
    "ResamplerConfig",
    "RopeScaling",
    "RsvlmError",
    "SarThird",
    "SelectionConfig",
    "SiglipConfig",
    "SpectralConfig",
    "SplitConfig",
    "TargetConfig",
    "Template",
    "TemporalConfig",
    "TrainConfig",
    "VLMConfig",
    "ViTConfig",
    "VisionConfig",
    "from_dict",
    "from_json",
    "llava15_7b",
    "llava15_13b",
    "nano",
    "strict_json",
    "to_dict",
    "to_json",
]
