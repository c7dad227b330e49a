"""What `trend` is asked to compute: names and numbers, checked before anything is read.

Not where and of what: that is `series.py`. A method heeds the fields that `HEEDED` names for it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from typing import Any, Literal, get_args

import numpy as np

from rsvlm_jax.config import ConfigError
from rsvlm_jax.timeseries.monitor import ALPHAS as MONITOR_ALPHAS

MethodName = Literal[
    "sen", "harmonic", "lasso", "stl", "breaks", "monitor", "landtrendr", "forecast"
]
Test = Literal[
    "original", "hamed_rao", "yue_wang", "pre_whitening", "trend_free", "seasonal",
    "correlated_seasonal", "regional", "multivariate", "correlated_multivariate",
]  # fmt: skip
Estimator = Literal["ols", "huber"]
Disturbance = Literal["fall", "rise"]
Model = Literal["harmonic", "seasonal_naive"]

HEEDED: dict[str, tuple[str, ...]] = {
    "sen": ("test", "alpha"),
    "harmonic": ("estimator", "harmonics", "alpha"),
    "lasso": ("harmonics", "penalty"),
    "stl": (),
    "breaks": ("threshold", "confirm", "penalty"),
    "monitor": ("since", "harmonics", "alpha"),
    "landtrendr": ("disturbance", "alpha"),
    "forecast": ("model", "at", "harmonics", "alpha"),
}
"""Fields of `Options` by method."""

WORDS = {
    "sen": "Theil-Sen slope and Mann-Kendall test",
    "harmonic": "line and waves of a year",
    "lasso": "line and waves of a year by the LASSO, as in CCDC",
    "stl": "trend and season of monthly medians by local lines (STL)",
    "breaks": "breaks in the manner of COLD",
    "monitor": "BFAST-monitor",
    "landtrendr": "segments of annual medians",
    "forecast": "what is expected",
}


NUMBERS_OF = (
    ("alpha", numbers.Real, "number"),
    ("harmonics", numbers.Integral, "whole number"),
    ("threshold", numbers.Real, "number"),
    ("confirm", numbers.Integral, "whole number"),
    ("penalty", numbers.Real, "number"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is computed.

    Attributes:
      method: a row of `METHODS`.
      test: of the Mann-Kendall test; see `trend_groups.py` for those of several series. Yue-Wang's
        looks at one lag: with all of them it calls half of white noise a trend.
      alpha: significance, and 1 - alpha is what intervals cover.
      harmonics: waves of a year in a fit, 1 to 4.
      estimator: of a fit: least squares, or Huber's, which outliers hardly move.
      disturbance: what LandTrendr takes for one: NDVI and NBR fall.
      threshold: chance of an observation to lie outside of what `breaks` takes for no change.
      confirm: consecutive observations outside that make a break.
      penalty: of the LASSO, also that of `breaks`, in the unit of the series: COLD's, of
        reflectances.
      since: the day from which on is monitored, YYYY-MM-DD; what is before is history.
      model: of a forecast: the harmonic fit continued, or the last month of the same name again.
      at: the day of the forecast, YYYY-MM-DD; None: a year after the last date.
    """

    method: MethodName = "sen"
    test: Test = "original"
    alpha: float = 0.05
    harmonics: int = 2
    estimator: Estimator = "ols"
    disturbance: Disturbance = "fall"
    threshold: float = 0.01
    confirm: int = 6
    penalty: float = 0.002
    since: str | None = None
    model: Model = "harmonic"
    at: str | None = None

    def __post_init__(self) -> None:
        choices = {"method": MethodName, "test": Test, "estimator": Estimator,
                   "disturbance": Disturbance, "model": Model}  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"no such {name}", where=f"--{name}", expected=" | ".join(get_args(allowed)),
                    found=getattr(self, name),
                )  # fmt: skip
        for name, kind, words in NUMBERS_OF:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ConfigError(
                    f"no {words}", where=f"--{name}", expected=f"a {words}", found=repr(value)
                )
        if not 0 < self.alpha < 1:
            raise ConfigError(
                "no level of significance", where="--alpha", expected="0 < alpha < 1",
                found=self.alpha,
            )  # fmt: skip
        if not 1 <= self.harmonics <= 4:
            raise ConfigError(
                "no such harmonics", where="--harmonics", expected="1 to 4", found=self.harmonics
            )
        for name in ("at", "since"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(day(text, f"--{name}")))
        for field in dataclasses.fields(self):
            given = getattr(self, field.name) != field.default
            if given and field.name not in ("method", *self.heeded):
                raise not_heeded(self.method, field.name, self.heeded)
        if self.method == "monitor":
            self._check_monitor()
        if not 0 < self.threshold < 1:
            raise ConfigError(
                "no such threshold", where="--threshold", expected="0 < threshold < 1",
                found=self.threshold,
            )  # fmt: skip
        for name, (low, high) in {"confirm": (2, 12), "penalty": (0, float("inf"))}.items():
            if not low <= getattr(self, name) <= high or math.isinf(getattr(self, name)):
                raise ConfigError(
                    f"no such {name}", where=f"--{name}", expected=f"{low} to {high}",
                    found=getattr(self, name),
                )  # fmt: skip

    def _check_monitor(self) -> None:
        if self.since is None:
            raise ConfigError("monitored since when?", where="--since", expected="YYYY-MM-DD")
        if self.alpha not in MONITOR_ALPHAS:
            raise ConfigError(
                "no critical value is known", where="--alpha", found=self.alpha,
                expected=" | ".join(f"{a:g}" for a in MONITOR_ALPHAS),
            )  # fmt: skip

    @property
    def several(self) -> bool:
        """Whether series of several bands are taken."""
        return self.method == "breaks" or "multivariate" in self.test

    @property
    def whole(self) -> bool:
        """Whether all that is asked for is one computation."""
        return self.test == "regional"

    @property
    def heeded(self) -> tuple[str, ...]:
        """The options that matter."""
        waves = self.model == "harmonic"
        return tuple(n for n in HEEDED[self.method] if waves or n != "harmonics")

    def describe(self) -> dict[str, Any]:
        """The options that matter to the method, as JSON values."""
        return {"method": self.method, **{n: getattr(self, n) for n in self.heeded}}

    def words(self) -> str:
        """The same in a line for people."""
        given = [(n, getattr(self, n)) for n in self.heeded]
        more = ", ".join(f"{n} {v}" for n, v in given if v is not None)
        return f"{WORDS[self.method]} ({more})" if more else WORDS[self.method]


def not_heeded(method: str, option: str, heeded: tuple[str, ...]) -> ConfigError:
    """The error for an option of another method, its default included."""
    return ConfigError(
        "the method has no such option", where=f"--{option}", found=f"method {method}",
        expected=", ".join(heeded) or "none",
    )  # fmt: skip


def day(text: Any, where: str) -> np.datetime64:
    """A day, of text or of a date; ConfigError for what is none, a year or a month alone included.

    Years are those that nanoseconds reach.
    """
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", str(text)):
            found = np.datetime64(str(text), "D")
            if np.datetime64("1678-01-01") <= found < np.datetime64("2262-01-01"):
                return found
    except ValueError:
        pass
    raise ConfigError(
        "no date", where=where, expected="YYYY-MM-DD of the years 1678 to 2261", found=text
    )
