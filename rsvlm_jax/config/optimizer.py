"""The optimiser as numbers: AdamW, its schedule, and learning rates by parameter group."""

from __future__ import annotations

import dataclasses
from typing import Literal

from .check import in_range
from .errors import ConfigError


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """Learning rate of the parameters whose path matches a regular expression.

    Attributes:
      pattern: searched in the parameter path, e.g. "^decoder/". The first match wins.
      scale: factor on the learning rate; 0 freezes.
      from_layer: of stacked layers, those before this one stay as they are; 0 trains all. Half of a
        tower of 24 layers: `GroupConfig("^vision/layers/", from_layer=12)`.
    """

    pattern: str
    scale: float = 1.0
    from_layer: int = 0

    def __post_init__(self) -> None:
        in_range(self, "scale", least=0.0)
        if self.from_layer < 0:
            raise ConfigError(
                "no such layer",
                where="GroupConfig.from_layer",
                expected=">= 0",
                found=self.from_layer,
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay to zero, or SGD for exactness tests."""

    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    warmup: float = 0.05
    floor: float = 0.0  # share of the learning rate that the cosine ends at
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.99
    clip_norm: float = 1.0
    groups: tuple[GroupConfig, ...] = ()
    ema: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < 10:
            raise ConfigError(
                "implausible learning rate",
                where="OptimizerConfig.learning_rate",
                expected="between 0 and 10",
                found=self.learning_rate,
            )
        if not 0 <= self.warmup < 1:
            raise ConfigError(
                "warm-up is a share of the steps",
                where="OptimizerConfig.warmup",
                expected="0 <= warmup < 1",
                found=self.warmup,
            )
        for name in ("weight_decay", "clip_norm"):
            in_range(self, name, least=0.0)
        in_range(self, "floor", least=0.0, below=1.0)
        if self.ema is not None:
            in_range(self, "ema", least=0.0, below=1.0)
