"""Low-rank adaptation (Hu et al. 2021) as numbers: which kernels, what rank, what scale.

    y = x @ kernel + scale * (x @ A) @ B          A [in, rank], B [rank, out]

The parameters stand beside their kernel, `.../q/kernel`, as `.../q/kernel_lora_a` and
`.../q/kernel_lora_b`; an optimiser takes them by these paths (`LORA_ONLY`).
"""

from __future__ import annotations

import dataclasses
import math
import re

from .check import positive, regex
from .errors import ConfigError
from .optimizer import GroupConfig

DECODER_LINEARS = r"^(decoder/)?layers/.+/kernel$"
"""LLaVA's habit: every Linear of the language model but its head; nothing of the vision tower or
the connector. In a model that is one tower (a `Llama`, a ViT): every Linear of its layers."""

DECODER_WEIGHTS = r"^(decoder/)?(layers/.+/kernel|lm_head/kernel|embed/embedding)$"
"""Of a language model, all that can be quantised (in int8): its table of tokens and its head too.
In a model that is one tower."""

FROZEN_CODES = GroupConfig(r"(kernel|embedding)_(int8|nf4|scale)$", 0.0)
"""Of `OptimizerConfig.groups`: put it before a pattern that would take a quantised tower."""

LORA_ONLY = (GroupConfig(r"_lora_[ab]$"), GroupConfig(r"", 0.0))
"""`OptimizerConfig.groups` that train LoRA and freeze all else. LLaVA trains its connector too, at
a tenth of the rate: put `GroupConfig("^connector/", 0.1)` between the two."""


@dataclasses.dataclass(frozen=True)
class LoraOverride:
    """Another rank and alpha for the kernels whose path matches a regular expression."""

    pattern: str
    rank: int
    alpha: float

    def __post_init__(self) -> None:
        _check(self)
        regex(self.pattern, "LoraOverride.pattern")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """LoRA of a model; the defaults are those of LLaVA-1.5's fine-tuning.

    Without dropout (PEFT's `lora_dropout`): a forward pass here holds no random state.

    Attributes:
      rank: columns of A and rows of B.
      alpha: the scale is alpha / rank.
      targets: searched in the paths of the kernels of all Linear layers, e.g.
        "layers/attention/[qv]/kernel$".
      rslora: the scale is alpha / sqrt(rank) (Kalajdzievski 2023).
      overrides: for kernels that are targets; the first match wins.
    """

    rank: int = 128
    alpha: float = 256.0
    targets: str = DECODER_LINEARS
    rslora: bool = False
    overrides: tuple[LoraOverride, ...] = ()

    def __post_init__(self) -> None:
        _check(self)
        regex(self.targets, "LoraConfig.targets")

    def takes(self, path: str) -> bool:
        """Whether the kernel at `path` gets LoRA, if it is that of a Linear."""
        return re.search(self.targets, path) is not None

    def override_of(self, path: str) -> LoraOverride | None:
        """The override that the kernel at `path` is under."""
        return next((o for o in self.overrides if re.search(o.pattern, path)), None)

    def rank_of(self, path: str) -> int:
        """Of the kernel at `path`."""
        return (self.override_of(path) or self).rank

    def alpha_of(self, path: str) -> float:
        """Of the kernel at `path`."""
        return (self.override_of(path) or self).alpha

    def scale_of(self, path: str) -> float:
        """What A @ B is multiplied by, at the kernel at `path`."""
        rank = self.rank_of(path)
        return self.alpha_of(path) / (math.sqrt(rank) if self.rslora else rank)


def _check(config: LoraConfig | LoraOverride) -> None:
    positive(config, "rank")
    if not 0 < config.alpha < math.inf:
        where = f"{type(config).__name__}.alpha"
        raise ConfigError("not a scale", where=where, expected="> 0", found=config.alpha)
