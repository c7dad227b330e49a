"""Language models as numbers, told apart by `kind`."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from .check import choices, divides, positive
from .errors import ConfigError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies change beyond the length of pretraining; names as in Hugging Face.

    Attributes:
      rope_type: "linear" divides positions by `factor`; "dynamic" is NTK-aware scaling of the base
        by the length of the sequence; "llama3" interpolates low frequencies only.
      original_max_position_embeddings: length of pretraining; "llama3" only, the others take the
        model's `max_length` for it.
      low_freq_factor, high_freq_factor: "llama3" only.
    """

    rope_type: Literal["linear", "dynamic", "llama3"]
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        choices(self)
        if not 1 <= self.factor < math.inf:
            raise ConfigError(
                "a rotary scaling that shrinks, or without end",
                where="RopeScaling.factor",
                expected="1 or more, finite",
                found=self.factor,
            )
        if self.rope_type != "llama3":
            if self.original_max_position_embeddings is not None:
                raise ConfigError(
                    "not read by this scaling",
                    where="RopeScaling.original_max_position_embeddings",
                    expected="None (the model's max_length is taken)",
                    found=self.original_max_position_embeddings,
                )
        else:
            if self.original_max_position_embeddings is None:
                raise ConfigError(
                    "the length of pretraining is needed",
                    where="RopeScaling.original_max_position_embeddings",
                    expected="a length",
                )
            positive(self, "original_max_position_embeddings")
            if not 0 < self.low_freq_factor < self.high_freq_factor:
                raise ConfigError(
                    "impossible frequency bounds",
                    where="RopeScaling",
                    expected="0 < low_freq_factor < high_freq_factor",
                    found=f"{self.low_freq_factor}, {self.high_freq_factor}",
                )


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """RMSNorm, RoPE, grouped-query attention, SwiGLU: Llama, Vicuna, Mistral, Qwen2, Qwen3.

    Attributes:
      head_dim: width of a head; None: `width / heads`.
      qkv_bias: of the three projections (Qwen2); `o_bias` of the output (Llama's attention_bias).
      mlp_bias: of the feed-forward layers.
      qk_norm: RMSNorm of every query and key head before RoPE (Qwen3).
      sliding_window: keys a token reads at most, itself included (Mistral); None: all.
      family: which Hugging Face class it is written as; changes no number.
    """

    kind: Literal["llama"] = "llama"
    family: Literal["llama", "mistral", "qwen2", "qwen3"] = "llama"
    vocab_size: int = 32064
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_dim: int | None = None
    mlp_dim: int = 11008
    max_length: int = 4096
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "vocab_size", "width", "layers", "heads", "kv_heads", "mlp_dim")
        positive(self, "max_length")
        if self.head_dim is None:
            divides(self, "heads", "width")
        else:
            positive(self, "head_dim")
        divides(self, "kv_heads", "heads")
        if self.head_width % 2:
            raise ConfigError(
                "RoPE turns pairs of features",
                where="LlamaConfig.head_dim",
                expected="an even number",
                found=self.head_width,
            )
        if self.sliding_window is not None:
            positive(self, "sliding_window")
        if not (0 < self.rope_theta < math.inf and 0 <= self.norm_eps < 1):
            raise ConfigError(
                "impossible numbers",
                where="LlamaConfig",
                expected="rope_theta > 0, 0 <= norm_eps < 1",
                found=f"{self.rope_theta}, {self.norm_eps}",
            )
        scaling = self.rope_scaling
        if scaling is not None and scaling.rope_type == "dynamic" and self.head_width < 4:
            raise ConfigError(
                "NTK-aware scaling needs two frequencies",
                where="LlamaConfig.head_dim",
                expected=">= 4",
                found=self.head_width,
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def positions(self) -> int:
        """Tokens of the longest text: "linear" and "dynamic" scaling reach beyond pretraining."""
        scaling = self.rope_scaling
        if scaling is None or scaling.rope_type == "llama3":  # whose max_length is the new one
            return self.max_length
        return int(self.max_length * scaling.factor)


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU; embeddings are tied."""

    kind: Literal["gpt2"] = "gpt2"
    vocab_size: int = 50257
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    max_length: int = 1024
    activation: Literal["gelu_tanh", "gelu", "relu"] = "gelu_tanh"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "vocab_size", "width", "layers", "heads", "mlp_dim", "max_length")
        divides(self, "heads", "width")

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def positions(self) -> int:
        return self.max_length


DecoderConfig = LlamaConfig | GPT2Config
