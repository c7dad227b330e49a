"""Pretrained spectral-temporal encoders as numbers: Galileo and Presto.

Both read up to 24 months of Sentinel-1 and Sentinel-2, weather, terrain and the place as tokens of
band groups. The defaults are the shipped models (`rsvlm_jax.assets`); the last fields of each say
how an observation becomes its input (`rsvlm_jax.models.monthly`) and are no part of the weights.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from .check import choices, divides, in_range, one_of, positive
from .errors import ConfigError

Steps = Literal["month", "date"]
"""What a time step is: a calendar month, or an acquisition. See `rsvlm_jax.models.monthly`."""


def _at_most(config: object, field: str, most: int) -> None:
    value = getattr(config, field)
    if value > most:
        raise ConfigError(
            "more than the encoder was trained for",
            where=f"{type(config).__name__}.{field}",
            expected=f"1 .. {most}",
            found=value,
        )


def _quarters(config: object, field: str, unit: int) -> None:
    value = getattr(config, field)
    if value % unit:
        raise ConfigError(
            "a width that does not divide into its embeddings",
            where=f"{type(config).__name__}.{field}",
            expected=f"a multiple of {unit}",
            found=value,
        )


class _Series:
    """What both say about time."""

    def _check_series(self) -> None:
        positive(self, "width", "layers", "heads", "mlp_dim", "max_steps", "steps")
        divides(self, "heads", "width")
        one_of(self.by, ("month", "date"), f"{type(self).__name__}.by")  # type: ignore[attr-defined]
        _at_most(self, "steps", self.max_steps)  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class GalileoConfig(_Series):
    """Galileo's encoder (Tseng et al. 2025, arXiv:2502.09356); the defaults are its nano model.

    Attributes:
      base_patch: edge in pixels of the patch that kernels are stored for; smaller ones are resized.
      max_steps: rows of its table of time positions.
      patch_size: edge in pixels of a patch, 1 .. `base_patch`.
      steps: time steps that an observation is given; what it lacks is masked.
      by: what a step is.
      least_valid: share of the pixels of a patch that a group needs to be read there.
    """

    kind: Literal["galileo"] = "galileo"
    width: int = 128
    layers: int = 4
    heads: int = 8
    mlp_dim: int = 512
    norm_eps: float = 1e-5
    base_patch: int = 8
    max_steps: int = 24
    patch_size: int = 4
    steps: int = 12
    by: Steps = "month"
    least_valid: float = 0.5

    def __post_init__(self) -> None:
        choices(self)
        self._check_series()
        positive(self, "base_patch", "patch_size")
        _at_most(self, "patch_size", self.base_patch)
        _quarters(self, "width", 16)
        in_range(self, "least_valid", least=0.0, below=1.0 + 1e-9)


@dataclasses.dataclass(frozen=True)
class PrestoConfig(_Series):
    """Presto (Tseng et al. 2023, arXiv:2304.14065); the defaults are its released model.

    Attributes:
      max_steps: rows of its tables of time positions.
      decoder: build the decoder too, which reconstructs what was masked (pretraining).
      steps, by: as Galileo's.
      cell: edge in pixels of the squares whose mean is one series; None: the whole window is.
    """

    kind: Literal["presto"] = "presto"
    width: int = 128
    layers: int = 2
    heads: int = 8
    mlp_dim: int = 512
    norm_eps: float = 1e-5
    max_steps: int = 24
    decoder: bool = False
    decoder_width: int = 128
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 512
    steps: int = 12
    by: Steps = "month"
    cell: int | None = None

    def __post_init__(self) -> None:
        choices(self)
        self._check_series()
        positive(self, "decoder_width", "decoder_layers", "decoder_heads", "decoder_mlp_dim")
        divides(self, "decoder_heads", "decoder_width")
        _quarters(self, "width", 8)
        rest = self.decoder_width - self.width // 4
        if rest <= 0 or rest % 4:
            raise ConfigError(
                "the decoder has no room for months and positions",
                where="PrestoConfig.decoder_width",
                expected=f"{self.width // 4} and a multiple of 4",
                found=self.decoder_width,
            )
        if self.cell is not None:
            positive(self, "cell")


EncoderConfig = GalileoConfig | PrestoConfig


@dataclasses.dataclass(frozen=True)
class EncodersConfig:
    """Those of a model, each read where an input has it as its front.

    `Experiment.init_from` gives them their weights: "encoders/galileo=asset:galileo_nano" and
    "encoders/presto=asset:presto".
    """

    galileo: GalileoConfig = GalileoConfig()
    presto: PrestoConfig = PrestoConfig()


GALILEO_NANO = GalileoConfig()
"""The shipped Galileo: 1.0 M parameters."""

PRESTO = PrestoConfig()
"""The shipped Presto without its decoder: 0.4 M parameters."""
