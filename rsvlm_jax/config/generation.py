"""How text is generated, as numbers; names and meanings as in `transformers`' GenerationConfig."""

from __future__ import annotations

import dataclasses
import math

from .check import positive
from .errors import ConfigError


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Greedy unless a temperature or beams are given.

    Attributes:
      max_new_tokens: of an answer at most.
      temperature: 0 takes the most probable token; otherwise logits are divided by it and a token
        is drawn.
      top_k: draw among so many most probable tokens; 0: all.
      top_p: draw among the fewest most probable tokens whose probabilities sum to this; 1: all.
      min_p: leave out tokens less probable than this share of the most probable one; 0: none.
      repetition_penalty: logits of tokens that the text (prompt included) holds are divided by it
        where positive and multiplied where negative (Keskar et al. 2019); 1: none.
      num_beams: hypotheses of beam search; 1: none. Not together with a temperature.
      length_penalty: exponent of the length that a beam's log-probability is divided by.
      early_stopping: beam search ends with `num_beams` finished hypotheses, not when no running one
        can still be better.
      stop: strings of which each ends an answer; not part of it.
      seed: of the draws.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "max_new_tokens", "num_beams")
        for name, ok, expected in (
            ("temperature", 0 <= self.temperature < math.inf, "0 or more, finite"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "0 < top_p <= 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 <= min_p <= 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "more than 0, finite"),
            ("length_penalty", math.isfinite(self.length_penalty), "a finite number"),
            ("stop", all(self.stop), "no empty string"),
        ):
            if not ok:
                raise ConfigError(
                    "impossible generation", where=f"GenerationConfig.{name}", expected=expected,
                    found=getattr(self, name),
                )  # fmt: skip
        if self.num_beams > 1 and self.temperature:
            raise ConfigError(
                "beams are not drawn", where="GenerationConfig.temperature",
                expected="0 with num_beams > 1", found=self.temperature,
            )  # fmt: skip
