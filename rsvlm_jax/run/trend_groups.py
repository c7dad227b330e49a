"""The method `sen`: Mann-Kendall tests, of one series a pixel or of several in one test.

    seasonal, correlated_seasonal            medians of a month, over the years
    multivariate, correlated_multivariate    the bands of a pixel, at their dates
    regional                                 annual medians of all places that are asked for: one
                                             answer, which each of them is given

Months without a date are no season. Neighbouring pixels are not independent, as the regional test
takes its series to be: it is for places apart from each other, or p is too small.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.timeseries import mann_kendall_grouped

from .series import EPOCH, Series
from .spread import Compute, Spread
from .trend_options import Options
from .trend_ranks import MONTHS, NAMES, medians, middle, named, plain

PAIRS = 2**31
"""Pairs that the slope of a region is chosen from, fewer than these."""


def sen(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The variables of `trend_ranks.NAMES` by `options.test`, [P].

    Raises:
      ConfigError: one band where several are compared. DataError: a region of too many numbers.
    """
    if "seasonal" in options.test:
        return _seasons(series, options, spread)
    if "multivariate" in options.test:
        return _bands(series, options, spread)
    return (_region if options.test == "regional" else plain)(series, options, spread)


def _seasons(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    values, cycles = medians(series, "M")
    cycles = cycles[::MONTHS] - EPOCH
    start = middle(cycles)
    grid = values.reshape(len(values), len(cycles), MONTHS)
    found: dict[str, np.ndarray] = {}
    for rows, months in _months(series):
        part = grid[rows][:, :, months].reshape(len(rows), -1)
        times = np.repeat(cycles - start, len(months)).astype(np.float32)
        compute = _of_months("correlated" in options.test, options.alpha, len(cycles), months)
        trend = spread(compute, part, times, np.isfinite(part))
        # The median of a month stands in its middle.
        for name, numbers in named(trend, start + 0.5 / MONTHS).items():
            found.setdefault(name, np.empty(len(values), numbers.dtype))[rows] = numbers
    return found


def _months(series: Series) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Pixels with the months, 0 to 11, that they have any date in: all, or sites alike."""
    known = ~np.isnat(series.dates)
    month = series.dates.astype("datetime64[M]").astype(np.int64) % MONTHS
    if series.dates.ndim == 1:
        there = tuple(np.unique(month[known]).tolist())
        return [(np.arange(series.values.shape[1]), there)]
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, (row, some) in enumerate(zip(month, known, strict=True)):
        alike.setdefault(tuple(np.unique(row[some]).tolist()), []).append(i)
    return [(np.array(rows), there or (0,)) for there, rows in alike.items()]


@functools.cache
def _of_months(correlated: bool, alpha: float, cycles: int, months: tuple[int, ...]) -> Compute:
    count, after = len(months), tuple(m / MONTHS for m in months)

    def compute(values: Any, times: Any, mask: Any) -> Any:
        # Lengths are filled up to a bucket: what was added is cut off.
        length, shape = cycles * count, (len(values), cycles, count)
        return mann_kendall_grouped(
            values[:, :length].reshape(shape), times[:length:count],
            mask[:, :length].reshape(shape), correlated=correlated, alpha=alpha, after=after,
        )  # fmt: skip

    return compute


def _bands(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    values, years = np.ascontiguousarray(series.values.transpose(1, 2, 0)), series.years(EPOCH)
    if values.shape[2] < 2:
        raise ConfigError(
            "one band, and a test of several", where="--bands", found=" ".join(series.bands) or 1,
            expected="two or more",
        )  # fmt: skip
    start = middle(years)
    compute = _of_bands("correlated" in options.test, options.alpha)
    times = (years - start).astype(np.float32)
    return named(spread(compute, values, times, np.isfinite(values)), start)


@functools.cache
def _of_bands(correlated: bool, alpha: float) -> Compute:
    return functools.partial(mann_kendall_grouped, correlated=correlated, alpha=alpha, after=0.0)


def _region(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    values, years = medians(series, "Y")
    years = years - EPOCH
    places, cycles = values.shape
    if places * cycles * (cycles - 1) // 2 >= PAIRS:
        raise DataError(
            "a region of too many numbers for one test", where="--where",
            expected=f"fewer than {2 * PAIRS // max(cycles * (cycles - 1), 1)} places",
            found=places, remedy="ask for a smaller one, or for places in it",
        )  # fmt: skip
    # One program for regions of about a size: what is added has no values.
    stations = np.full((1, cycles, 1 << (places - 1).bit_length()), np.nan, np.float32)
    stations[0, :, :places] = values.T
    start = middle(years)
    trend = mann_kendall_grouped(
        stations, (years - start).astype(np.float32), alpha=options.alpha, after=0.0
    )
    found = named(trend, start + 0.5)  # the median of a year stands in its middle
    return {name: np.repeat(found[name], places) for name in NAMES}
