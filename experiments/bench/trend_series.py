"""Decompositions, segments and forecasts of many series: pixels a second, float32, with gaps.

    decompose   20 years of months, over statsmodels' STL (without gaps, which it does not take) in
                one process times the cores; plain and robust
    landtrendr  40 annual values;  forecast: a year of months after 20 years of them

One thread a core. Compilation is not counted; the timed series differ from those that warmed up.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .figure import Figure

MONTHS, YEARS = 240, 40


def _series(pixels: int, length: int, seed: int, gaps: float = 0.25) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = 0.4 + 0.1 * rng.standard_normal((pixels, length)) + 0.001 * np.arange(length)
    x += 0.1 * np.sin(2 * np.pi * np.arange(length) / 12)
    x[rng.random(x.shape) < gaps] = np.nan
    return x.astype(np.float32)


def _rate(compute: Callable[..., Any], times: np.ndarray, pixels: int, piece: int) -> float:
    from rsvlm_jax.timeseries import in_pieces

    cores = len(os.sched_getaffinity(0))
    run = functools.partial(in_pieces, compute, times=times, pixels=piece, threads=cores)
    run(values=_series(piece, len(times), 0))
    x = _series(pixels, len(times), 1)
    begun = time.perf_counter()
    run(values=x)
    return pixels / (time.perf_counter() - begun)


def figures() -> Iterator[Figure]:
    from statsmodels.tsa.seasonal import STL

    from rsvlm_jax.timeseries import (
        decompose,
        harmonic_forecast,
        landtrendr,
        seasonal_naive_forecast,
    )

    cores = len(os.sched_getaffinity(0))
    months = 2000 + np.arange(MONTHS) / 12
    for name, robust, pixels, few in (("plain", False, 2048, 40), ("robust", True, 512, 10)):
        rows = _series(few, MONTHS, 2, gaps=0.0)
        begun = time.perf_counter()
        for row in rows:
            STL(row, period=12, robust=robust).fit()
        theirs = few / (time.perf_counter() - begun)
        ours = _rate(functools.partial(decompose, robust=robust), months, pixels, 256)
        yield Figure(f"trend_series.decompose.{name}", ours, "pixels/s")
        yield Figure(f"trend_series.decompose.{name}.statsmodels", theirs, "pixels/s/core")
        yield Figure(
            f"trend_series.decompose.{name}.ratio", ours / (theirs * cores), "of_statsmodels"
        )
    years = 1985 + np.arange(YEARS, dtype=np.float64)
    yield Figure("trend_series.landtrendr", _rate(landtrendr, years, 16_384, 2048), "pixels/s")
    at = 2020 + np.arange(12) / 12
    for forecast in (harmonic_forecast, seasonal_naive_forecast):
        compute = functools.partial(_ahead, forecast, at)
        rate = _rate(compute, months, 16_384, 2048)
        yield Figure(f"trend_series.{forecast.__name__}", rate, "pixels/s")


def _ahead(forecast: Any, at: np.ndarray, x: Any, times: Any, mask: Any) -> Any:
    return forecast(x, times, at, mask)
