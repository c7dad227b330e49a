"""What `trend` can compute, by name: one row a method, and what its numbers are called.

    run_method(series, options, spread) -> {variable: [P]}

The variables have the stable names of the house; what each means is in `VARIABLES`. A method that
is not here has no name on the command line either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rsvlm_jax.timeseries import Code

from . import trend_breaks, trend_fits, trend_groups, trend_months
from .series import EPOCH, Series
from .spread import Spread
from .trend_options import Options

OUTSIDE = 255
"""Code of pixels that were not asked for."""

CODES = {int(c): c.name.lower() for c in Code} | {OUTSIDE: "outside"}

DAYS = f"days since {EPOCH}-01-01"
"""Unit of dates: xarray reads them as dates."""


@dataclasses.dataclass(frozen=True)
class Variable:
    """One output.

    Attributes:
      words: what it is; "{level}" stands for what intervals cover, in percent.
      unit: "{unit}" stands for that of the series.
      dtype: of what is written.
    """

    words: str
    unit: str = "1"
    dtype: Any = np.float32


VARIABLES = {
    "slope": Variable("slope of the line", "{unit} year-1"),
    "intercept": Variable(f"value of the line at {EPOCH}-01-01", "{unit}"),
    "slope_lo": Variable("slope, lower end of the {level} % interval", "{unit} year-1"),
    "slope_hi": Variable("slope, upper end of the {level} % interval", "{unit} year-1"),
    "p": Variable("probability of so much by chance, two-sided"),
    "p_corrected": Variable("the same, false discoveries over the whole map corrected for"),
    "z": Variable("standardised Mann-Kendall score"),
    "tau": Variable("Kendall's tau"),
    "s": Variable("Mann-Kendall score"),
    "trend_strength": Variable("how much of what is no season the trend is, 0 to 1"),
    "season_strength": Variable("how much of what is no trend the season is, 0 to 1"),
    "break_date": Variable("when the change begins", DAYS),
    "break_magnitude": Variable("how much it is", "{unit}"),
    "forecast": Variable("what is expected on the day of the forecast", "{unit}"),
    "forecast_lo": Variable("forecast, lower end of the {level} % interval", "{unit}"),
    "forecast_hi": Variable("forecast, upper end of the {level} % interval", "{unit}"),
    "n": Variable("observations that count", dtype=np.int32),
    "code": Variable("why there is no answer", dtype=np.uint8),
}


INTERVALS = {
    **dict.fromkeys(
        ("hamed_rao", "yue_wang"), ", scaled by the variance of the score as the test corrects it"
    ),
    **dict.fromkeys(
        ("pre_whitening", "trend_free", "correlated_seasonal", "correlated_multivariate"),
        ", of independent errors: not corrected as p is",
    ),
}
"""What more there is to say of the ends of an interval, by test."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
      variables: what it gives, in order.
      compute: (series, options, spread) -> {variable: [P]} but `p_corrected`, with a `Code`.
    """

    variables: tuple[str, ...]
    compute: Callable[[Series, Options, Spread], dict[str, np.ndarray]]


METHODS: dict[str, Method] = {
    "sen": Method(
        ("slope", "intercept", "slope_lo", "slope_hi", "p", "p_corrected", "z", "tau", "s", "n",
         "code"),
        trend_groups.sen,
    ),
    "harmonic": Method(
        ("slope", "intercept", "slope_lo", "slope_hi", "p", "p_corrected", "n", "code"),
        trend_fits.harmonic,
    ),
    "lasso": Method(("slope", "intercept", "n", "code"), trend_fits.lasso),
    "stl": Method(
        ("slope", "intercept", "trend_strength", "season_strength", "n", "code"), trend_months.stl
    ),
    "breaks": Method(("break_date", "break_magnitude", "n", "code"), trend_breaks.breaks),
    "monitor": Method(("break_date", "break_magnitude", "n", "code"), trend_breaks.monitor),
    "landtrendr": Method(
        ("p", "p_corrected", "break_date", "break_magnitude", "n", "code"), trend_fits.segments
    ),
    "forecast": Method(
        ("forecast", "forecast_lo", "forecast_hi", "n", "code"), trend_fits.forecast
    ),
}  # fmt: skip


def run_method(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """All variables of a method but `p_corrected`, [P], of their types.

    Pixels that were not asked for are not computed: NaN, and `OUTSIDE` by their code.
    """
    row, inside = METHODS[options.method], series.inside
    result = {}
    for name in row.variables:
        if name != "p_corrected":
            dtype = np.dtype(VARIABLES[name].dtype)
            empty = np.nan if dtype.kind == "f" else OUTSIDE if name == "code" else 0
            result[name] = np.full(len(inside), empty, dtype)
    if inside.any():
        dates = series.dates if series.dates.ndim == 1 else series.dates[inside]
        every = np.ones(int(inside.sum()), bool)
        asked = Series(series.values[:, inside], dates, every, series.bands)
        found = row.compute(asked, options, spread)
        for name, values in result.items():
            values[inside] = found[name]
    return result


def attributes_of(name: str, series: str, unit: str, options: Options) -> dict[str, Any]:
    """CF attributes of a variable.

    Args:
      series, unit: what the numbers are of; "" = not known.
    """
    row = VARIABLES[name]
    words = row.words.replace("{level}", f"{100 * (1 - options.alpha):g}")
    if name == "n":
        words = _counted(options)
    if name in ("slope_lo", "slope_hi") and options.method == "sen":
        words += INTERVALS.get(options.test, "")
    if "{unit}" in row.unit and series:
        words = f"{series}: {words}"
    attrs: dict[str, Any] = {"long_name": words}
    if "{unit}" in row.unit:
        if unit:  # nobody says of what unit it is without one
            attrs["units"] = row.unit.replace("{unit}", unit).removeprefix("1 ")
    elif name != "code":
        attrs["units"] = row.unit
    if name == "break_date":
        attrs["calendar"] = "proleptic_gregorian"
    if name == "code":
        attrs["flag_values"] = list(CODES)
        attrs["flag_meanings"] = " ".join(CODES.values())
    return attrs


def _counted(options: Options) -> str:
    """What `n` counts."""
    if options.method == "landtrendr":
        return "years with an observation"
    if options.method == "stl" or options.model == "seasonal_naive":
        return "months with an observation"
    if options.method != "sen" or options.test == "original":
        return VARIABLES["n"].words
    if options.test == "regional":
        return "years with an observation, of all places together"
    if options.test == "multivariate":
        return "observations that count, of all bands together"
    if options.test == "correlated_multivariate":
        return "dates on which every band was observed"
    if "seasonal" not in options.test:
        return VARIABLES["n"].words
    if options.test == "correlated_seasonal":
        return "years with an observation in every month that has any"
    return "months with an observation"
