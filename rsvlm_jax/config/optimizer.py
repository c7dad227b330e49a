"""The optimiser as numbers: its kind, its schedule, and learning rates by parameter group."""

from __future__ import annotations

import dataclasses
from typing import Literal

from .check import choices, in_range
from .errors import ConfigError

OptimizerKind = Literal["adamw", "sgd", "adafactor", "muon"]


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
    """An optimiser with warm-up and cosine decay.

    Attributes:
      kind: "adamw"; "adafactor", which keeps rows and columns of the second moment in place of all
        of it, and the first in bfloat16; "muon", which takes the singular values out of the first
        moment of matrices and leaves the rest to AdamW; "sgd", for tests of exactness.
      learning_rate: at the end of the warm-up. Of the same size for all kinds but "sgd".
      floor: share of the learning rate that the cosine ends at.
      weight_decay: of kernels, times the learning rate.
      b1: decay of the first moment, with "adafactor" 0 for none; "sgd" has no moments.
      b2: decay of the second moment, with "adafactor" what it rises to.
      eps: of Adam, beside the root of the second moment (of Adafactor its square, inside). Some
        gradients are zero but for rounding (the bias of attention keys, for one); with the usual
        1e-8 Adam blows that rounding up to full steps, which differ from mesh to mesh.
      clip_norm: of the gradient of all trained parameters; 0: not clipped.
      ema: decay of the moving average that is evaluated in place of the parameters; None: none.
    """

    kind: OptimizerKind = "adamw"
    learning_rate: float = 1e-3
    warmup: float = 0.05
    floor: float = 0.0
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-6
    clip_norm: float = 1.0
    groups: tuple[GroupConfig, ...] = ()
    ema: float | None = None

    def __post_init__(self) -> None:
        choices(self)
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    "a moment that does not decay",
                    where=f"OptimizerConfig.{name}",
                    expected="0 <= decay < 1",
                    found=getattr(self, name),
                )
        if not 0 < self.learning_rate < 10:
            raise ConfigError(
                "implausible learning rate",
                where="OptimizerConfig.learning_rate",
                expected="between 0 and 10",
                found=self.learning_rate,
            )
        if not 0 < self.eps < 1:
            raise ConfigError(
                "no epsilon of Adam", where="OptimizerConfig.eps",
                expected="between 0 and 1", found=self.eps,
            )  # fmt: skip
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
