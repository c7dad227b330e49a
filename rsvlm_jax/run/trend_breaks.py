"""The methods that look for changes date by date: `breaks` (COLD, CCDC) and `monitor` (BFAST).

The tests are those of `rsvlm_jax.timeseries`. Of several breaks of a pixel the largest is kept: a
map has one date a pixel.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.timeseries import decimal_years, detect_breaks, monitor_breaks

from .series import EPOCH, Series
from .spread import Compute, Spread
from .trend_fits import days_of
from .trend_options import Options
from .trend_ranks import middle

SCREEN = ("green", "swir16")
"""Bands that show clouds which the mask has missed, where both are there."""


def breaks(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The largest confirmed break: most standard deviations over all bands; size of the first.

    Of the first ten segments of a pixel, for which `detect_breaks` has room.
    """
    values, years = np.ascontiguousarray(series.values.transpose(1, 2, 0)), series.years(EPOCH)
    start = middle(years)
    pair = tuple(series.bands.index(b) for b in SCREEN if b in series.bands)
    compute = _breaks(pair, options.threshold, options.confirm, options.penalty)
    times = (years - start).astype(np.float32)
    found = spread(compute, values, times, np.isfinite(values))
    when, size, n, code = (np.asarray(a) for a in found)
    date = days_of(when.astype(np.float64) + start + EPOCH)
    return {"break_date": date, "break_magnitude": size, "n": n, "code": code}


@functools.cache
def _breaks(pair: tuple[int, ...], threshold: float, confirm: int, penalty: float) -> Compute:
    screen = (pair[0], pair[1]) if len(pair) == len(SCREEN) else None

    def compute(values: Any, times: Any, mask: Any) -> Any:
        found = detect_breaks(
            values, times, mask, screen=screen, alpha=threshold, confirm=confirm, penalty=penalty,
        )  # fmt: skip
        off = jnp.abs(found.magnitude) / found.rmse
        size = jnp.where(found.confirmed, jnp.square(off).sum(2), -jnp.inf)
        largest = jnp.argmax(size, axis=1)[:, None]
        some = jnp.take_along_axis(found.confirmed, largest, 1)[:, 0]
        nan = jnp.asarray(jnp.nan, found.date.dtype)
        date, first = (
            jnp.where(some, jnp.take_along_axis(a, largest, 1)[:, 0], nan)
            for a in (found.date, found.magnitude[:, :, 0])
        )
        return date, first, mask.all(2).sum(1), found.code

    return compute


def monitor(series: Series, options: Options, spread: Spread) -> dict[str, np.ndarray]:
    """The first break since a day; how far off all is that was observed since."""
    values, years = series.values[0], series.years(EPOCH)
    start = middle(years)
    since = float(decimal_years([options.since])[0]) - EPOCH - start
    compute = _monitor(since, options.harmonics, options.alpha)
    times = (years - start).astype(np.float32)
    found = spread(compute, values, times, np.isfinite(values))
    when, size, n, code = (np.asarray(a) for a in found)
    date = days_of(when.astype(np.float64) + start + EPOCH)
    return {"break_date": date, "break_magnitude": size, "n": n, "code": code}


@functools.cache
def _monitor(since: float, harmonics: int, alpha: float) -> Compute:
    def compute(values: Any, times: Any, mask: Any) -> Any:
        found = monitor_breaks(values, times, mask, since=since, harmonics=harmonics, alpha=alpha)
        return found.date, found.magnitude, found.history + found.n, found.code

    return compute
