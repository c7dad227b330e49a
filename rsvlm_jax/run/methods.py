"""What `trend` can compute, by name: one row a method, and what its numbers are called.

    METHODS["sen"].compute(series, options, spread) -> {variable: [P]}

The variables have the stable names of the house; what each means is in `VARIABLES`. A method that
is not here has no name on the command line either.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from rsvlm_jax.config import ConfigError
from rsvlm_jax.timeseries import Code, mann_kendall, mann_kendall_grouped

from .series import Series
from .spread import Compute, Spread

Name = Literal["sen"]
Test = Literal[
    "original", "hamed_rao", "yue_wang", "pre_whitening", "trend_free", "seasonal",
    "correlated_seasonal",
]  # fmt: skip

EPOCH = 2000
"""Intercepts are values at the beginning of this year."""

OUTSIDE = 255
"""Code of pixels that were not asked for."""

CODES = {int(c): c.name.lower() for c in Code} | {OUTSIDE: "outside"}

MONTHS = 12


@dataclasses.dataclass(frozen=True)
class Options:
    """What is computed.

    Attributes:
      method: one of `METHODS`.
      test: of the Mann-Kendall test; the seasonal ones take the median of each month.
      alpha: significance, and 1 - alpha is what intervals cover.
    """

    method: Name = "sen"
    test: Test = "original"
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name, allowed in (("method", Name), ("test", Test)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"no such {name}", where=f"--{name}", expected=" | ".join(get_args(allowed)),
                    found=getattr(self, name),
                )  # fmt: skip
        if not 0 < self.alpha < 1:
            raise ConfigError(
                "no level of significance", where="--alpha", expected="0 < alpha < 1",
                found=self.alpha,
            )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """The options that matter to the method, as JSON values."""
        row = METHODS[self.method]
        return {"method": self.method, **{name: getattr(self, name) for name in row.options}}

    def words(self) -> str:
        """The same in a line for people."""
        row = METHODS[self.method]
        more = ", ".join(f"{n} {getattr(self, n)}" for n in row.options)
        return f"{row.words} ({more})"


@dataclasses.dataclass(frozen=True)
class Variable:
    """One output.

    Attributes:
      words: what it is.
      unit: UCUM-like; "{unit}" stands for that of the series.
      dtype: of what is written.
    """

    words: str
    unit: str = "1"
    dtype: Any = np.float32


VARIABLES = {
    "slope": Variable("slope of the Theil-Sen line", "{unit} year-1"),
    "intercept": Variable(f"value of the line at {EPOCH}-01-01", "{unit}"),
    "slope_lo": Variable("slope, lower end of the interval", "{unit} year-1"),
    "slope_hi": Variable("slope, upper end of the interval", "{unit} year-1"),
    "p": Variable("two-sided probability of such a score without a trend"),
    "p_corrected": Variable("the same, false discoveries over the whole map corrected for"),
    "z": Variable("standardised Mann-Kendall score"),
    "tau": Variable("Kendall's tau"),
    "s": Variable("Mann-Kendall score"),
    "n": Variable("observations that count", dtype=np.int32),
    "code": Variable("why there is no answer", dtype=np.uint8),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
      words: what it is.
      variables: what it gives, in order.
      options: fields of `Options` that it heeds.
      compute: (series, options, spread) -> {variable: [P]} but `p_corrected`, with a `Code`.
    """

    words: str
    variables: tuple[str, ...]
    options: tuple[str, ...]
    compute: Callable[[Series, Options, Spread], dict[str, np.ndarray]]


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
        asked = Series(series.values[:, inside], dates, np.ones(int(inside.sum()), bool))
        found = row.compute(asked, options, spread)
        for name, values in result.items():
            values[inside] = found[name]
    return result


def _sen(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """Theil-Sen and Mann-Kendall; times count from the whole year next to their middle."""
    values = series.values[0]
    years = series.years(EPOCH)
    start = float(np.round(np.nanmean(years)))
    if options.test in ("seasonal", "correlated_seasonal"):
        values, cycles = _months(series)
        start = float(np.round(cycles.mean()))
        compute = _seasonal(options.test == "correlated_seasonal", options.alpha, len(cycles))
        times = np.repeat(cycles - start, MONTHS)
    else:
        compute, times = _plain(options.test, options.alpha), years - start
    mask = np.isfinite(values)
    trend = spread(compute, values, times.astype(np.float32), mask)
    names = [v for v in METHODS["sen"].variables if v != "p_corrected"]
    found = {name: np.asarray(getattr(trend, name)) for name in names}
    slope = found["slope"].astype(np.float64)
    found["intercept"] = found["intercept"] - slope * start
    return found


@functools.cache
def _plain(test: Any, alpha: float) -> Compute:
    return functools.partial(mann_kendall, method=test, alpha=alpha)


@functools.cache
def _seasonal(correlated: bool, alpha: float, cycles: int) -> Compute:
    def compute(values: Any, times: Any, mask: Any) -> Any:
        # Lengths are filled up to a bucket: what was added is cut off.
        length, shape = cycles * MONTHS, (len(values), cycles, MONTHS)
        return mann_kendall_grouped(
            values[:, :length].reshape(shape), times[:length:MONTHS],
            mask[:, :length].reshape(shape), correlated=correlated, alpha=alpha,
        )  # fmt: skip

    return compute


def _months(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """The median of each calendar month, [P, cycles x 12], and the years of the cycles."""
    values, dates = series.values[0], series.dates
    known = ~np.isnat(dates)
    month = dates.astype("datetime64[M]").astype(np.int64)  # since 1970
    first, last = int(month[known].min()) // MONTHS, int(month[known].max()) // MONTHS
    out = np.full((len(values), (last - first + 1) * MONTHS), np.nan, np.float32)
    # Dates that all pixels share are gone through once; sites with their own one by one.
    apart = [slice(i, i + 1) for i in range(len(values))] if dates.ndim == 2 else [slice(None)]
    for rows in apart:
        when = month[rows][0] if dates.ndim == 2 else month
        there = known[rows][0] if dates.ndim == 2 else known
        for one in np.unique(when[there]):
            part = values[rows][:, there & (when == one)]
            some = np.isfinite(part).any(axis=1)
            out[rows][some, one - first * MONTHS] = np.nanmedian(part[some], axis=1)
    return out, np.arange(first, last + 1, dtype=np.float64) + 1970 - EPOCH


METHODS: dict[str, Method] = {
    "sen": Method(
        "Theil-Sen slope with its interval, and a Mann-Kendall test",
        ("slope", "intercept", "slope_lo", "slope_hi", "p", "p_corrected", "z", "tau", "s", "n",
         "code"),
        ("test", "alpha"),
        _sen,
    ),
}  # fmt: skip
