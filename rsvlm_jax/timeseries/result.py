"""What a trend test says of a pixel, and the code of a pixel of which it says nothing."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from rsvlm_jax.core import pytree_dataclass


class Code(enum.IntEnum):
    """Why a pixel has no answer. Whatever is not answered is NaN, never a zero.

    `NOT_CONVERGED`: an iteration ended without an answer, or the answer is no finite number.
    `UNDEFINED`: slope and score stand, but the corrected variance is not positive (Hamed-Rao and
    Yue-Wang can come out so), or the whitened series is not defined: z and p are NaN.
    """

    OK = 0
    TOO_FEW = 1
    CONSTANT = 2
    ALL_MASKED = 3
    NOT_CONVERGED = 4
    UNDEFINED = 5


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Trend:
    """One value a pixel, [pixels] each.

    Attributes:
      slope, intercept: of the Theil-Sen line; values per unit of time, and at time 0.
      slope_lo, slope_hi: confidence interval of the slope; None where it was not asked for.
      p: two-sided probability without a trend;  z: the standardised score;  tau: Kendall's.
      s, var_s: the score and its variance, as the test corrected it.
      n: int32, observations of the pixel.
      code: int32, a `Code`.
    """

    slope: Any
    intercept: Any
    slope_lo: Any
    slope_hi: Any
    p: Any
    z: Any
    tau: Any
    s: Any
    var_s: Any
    n: Any
    code: Any

    def with_interval(self, known: bool) -> Trend:
        """The same, with None for the interval that is not known."""
        return self if known else dataclasses.replace(self, slope_lo=None, slope_hi=None)


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Line:
    """A Theil-Sen line a pixel, [pixels] each: the fields of `Trend` of these names."""

    slope: Any
    intercept: Any
    slope_lo: Any
    slope_hi: Any
    n: Any
    code: Any
