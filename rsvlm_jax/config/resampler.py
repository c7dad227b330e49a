"""From the tokens of a frame to those that go on: connectors and resamplers as numbers.

    frame tokens [F,P,Dv] -> resampler -> [F,P',Dr] -> fusion over dates -> connector -> [B,N,D]

A resampler changes the number of tokens of one frame and may change their width; the connector
maps each token to the language width and changes no number. Without a resampler P' is P and Dr
is Dv.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from .check import choices, divides, positive
from .errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """From encoder width to language width: "linear", or LLaVA's "mlpNx_gelu" with N layers.

    Attributes:
      activation: between the layers.
      bias: of every layer.
    """

    kind: str = "mlp2x_gelu"
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"] = "gelu"
    bias: bool = True

    def __post_init__(self) -> None:
        choices(self)
        if self.kind != "linear" and not re.fullmatch(r"mlp[1-9]\d?x_gelu", self.kind):
            raise ConfigError(
                "no such connector",
                where="ConnectorConfig.kind",
                expected="linear, or mlpNx_gelu with N from 1 to 99",
                found=self.kind,
            )

    @property
    def layers(self) -> int:
        return 1 if self.kind == "linear" else int(self.kind[3 : self.kind.index("x")])


@dataclasses.dataclass(frozen=True)
class PixelShuffleConfig:
    """Squares of `factor` x `factor` neighbours become one token of factor^2 times the width."""

    kind: Literal["pixel_shuffle"] = "pixel_shuffle"
    factor: int = 2

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "factor")


@dataclasses.dataclass(frozen=True)
class QFormerConfig:
    """BLIP-2's querying transformer (Li et al. 2023): learned queries read the frame.

    Attributes:
      queries: P', tokens that come out.
      cross_attention_frequency: every how many layers the queries read the frame.
    """

    kind: Literal["qformer"] = "qformer"
    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    cross_attention_frequency: int = 2
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "queries", "width", "layers", "heads", "mlp_dim")
        positive(self, "cross_attention_frequency")
        divides(self, "heads", "width")


@dataclasses.dataclass(frozen=True)
class PerceiverConfig:
    """Multi-level perceiver (LHRS-Bot): for each feature layer of the tower its own queries.

    Attributes:
      queries: tokens for each level, from the shallowest on; as many entries as the tower has
        feature layers, which it joins by tokens.
      share_layers: one stack of layers for all levels, as in LHRS-Bot's released code
        (`AttnPooler` in github.com/NJU-LHRS/LHRS-Bot, lhrs/models/common_arch.py); False: one for
        each level. Queries and the norms after the last layer stay those of a level.
    """

    kind: Literal["perceiver"] = "perceiver"
    queries: tuple[int, ...] = (64, 48, 32)
    layers: int = 6
    heads: int = 8
    mlp_dim: int = 4096
    share_layers: bool = False

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "layers", "heads", "mlp_dim")
        if not self.queries or min(self.queries) < 1:
            raise ConfigError(
                "a level without queries", where="PerceiverConfig.queries", found=self.queries
            )


ResamplerConfig = PixelShuffleConfig | QFormerConfig | PerceiverConfig
