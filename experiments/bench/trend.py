"""Trends beside the per-pixel libraries, on the same series with gaps, in one run.

    mann_kendall   the original test and the Theil-Sen slope, one thread a core (`in_pieces`),
                   over pymannkendall's rate in one process times the cores, by T; and with the
                   interval, which pymannkendall has not
    harmonic       least squares, trend and three waves, over nrt's on as many threads (numba); and
                   the products of matrices in it alone, on one thread: its floor
    breaks         five bands in the manner of COLD, over pyxccd's rate in one process times cores
    memory         of a program by twice the dates: 2 grows with T, 4 with its square

float32, as cubes are read; values rounded to 4 digits, a quarter of them missing. Compilation is
not counted; the compared series differ from those that warmed up. Of least squares medians of
seven. See also `trend_power`.
"""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .figure import Figure

CASES = {35: (65_536, 400, 30.0), 240: (8_192, 100, 10.0)}
"""T: pixels of ours, of pymannkendall's, and the ratio to reach."""

HARMONIC = (240, 32_768, 5.0)
REPEATS = 7
"""Of the two, in turn: medians."""

BREAKS = (913, 256, 60, 2.0)
"""T, pixels of ours, of theirs, and the ratio to reach."""

CLEAR = 0.55


def _series(pixels: int, length: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = 0.4 + 0.1 * rng.standard_normal((pixels, length)) + 0.002 * np.arange(length)
    x = np.round(x, 4).astype(np.float32)
    x[rng.random(x.shape) < 0.25] = np.nan
    return x


def landsat(
    pixels: int, length: int, clear: float, sigmas: float, seed: int
) -> tuple[np.ndarray, ...]:
    """Seven bands x 10000 [pixels, length, 7], days, what is clear, and the day of the break.

    Every 8 days from 2000 on; one break a pixel, of so many sigmas in the six optical bands.
    """
    rng = np.random.default_rng(seed)
    days = np.datetime64("2000-01-01") + 8 * np.arange(length)
    level = np.array([300, 500, 400, 3000, 1800, 900, 2900])
    size = np.array([50, 100, 150, 800, 300, 200, 100])
    sigma = np.array([60, 70, 80, 250, 150, 110, 30])
    phase = 2 * np.pi * (days - days[0]).astype(int) / 365.25
    wave = np.cos(phase[:, None] + 0.5 * np.arange(7))
    x = level + size * wave + sigma * rng.standard_normal((pixels, length, 7))
    when = rng.integers(int(0.3 * length), int(0.7 * length), pixels)
    way = np.array([1, 1, 1, -1, 1, 1, 0])
    x += (np.arange(length) >= when[:, None])[:, :, None] * (sigmas * sigma * way)
    there = rng.random((pixels, length)) < clear
    return np.round(x).astype(np.float32), days, there, days[when]


def ours_by_bands(x: np.ndarray, days: np.ndarray, there: np.ndarray, threads: int) -> Any:
    """Segments of `landsat` by COLD's five bands and its screening."""
    from rsvlm_jax.timeseries import decimal_years, detect_breaks, in_pieces

    compute = functools.partial(detect_breaks, bands=(1, 2, 3, 4, 5), screen=(1, 4), segments=6)
    return in_pieces(compute, x[:, :, :6], decimal_years(days), there, pixels=128, threads=threads)


def theirs_by_bands(x: np.ndarray, days: np.ndarray, there: np.ndarray) -> list[Any]:
    """pyxccd's, pixel by pixel."""
    from pyxccd import cold_detect

    ordinal = days.astype("M8[D]").astype(int) + 719_163
    return [
        cold_detect(ordinal, *row.astype(np.int64).T, np.where(some, 0, 4))
        for row, some in zip(x, there, strict=True)
    ]


def _rate(pixels: int, run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return pixels / (time.perf_counter() - begun)


def figures() -> Iterator[Figure]:
    cores = len(os.sched_getaffinity(0))
    yield from _rank(cores)
    yield from _harmonic(cores)
    yield from _breaks(cores)


def _rank(cores: int) -> Iterator[Figure]:
    import pymannkendall

    from rsvlm_jax.timeseries import in_pieces, mann_kendall

    for length, (pixels, few, goal) in CASES.items():
        times = np.arange(length, dtype=np.float32)
        rates = {}
        for name, interval in (("mann_kendall", False), ("with_interval", True)):
            compute = functools.partial(mann_kendall, interval=interval)
            run = functools.partial(in_pieces, compute, times=times, threads=cores)
            run(values=_series(4096, length, 0))
            x = _series(pixels, length, 1)
            rates[name] = _rate(pixels, lambda run=run, x=x: run(values=x))
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row in x[:few]:
                pymannkendall.original_test(row)
        theirs = few / (time.perf_counter() - begun)
        yield Figure(f"trend.t{length}.pymannkendall", theirs, "pixels/s/core")
        for name, rate in rates.items():
            yield Figure(f"trend.t{length}.{name}", rate, "pixels/s")
        ratio = rates["mann_kendall"] / (theirs * cores)
        yield Figure(f"trend.t{length}.ratio", ratio, "of_pymannkendall", at_least=goal)


def _harmonic(cores: int) -> Iterator[Figure]:
    import numba
    from nrt.fit_methods import ols

    from rsvlm_jax.timeseries import decimal_years, harmonic_fit, in_pieces

    length, pixels, goal = HARMONIC
    years = decimal_years(np.datetime64("2015-01-03") + 16 * np.arange(length))
    waves = [f(2 * np.pi * k * years) for k in (1, 2, 3) for f in (np.cos, np.sin)]
    design = np.stack([np.ones(length), years - 2015, *waves], 1)
    numba.set_num_threads(cores)
    x = _series(pixels, length, 1)
    y = x.T.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ols(design, y[:, :64])
        compute = functools.partial(harmonic_fit, harmonics=3)
        run = functools.partial(in_pieces, compute, times=years, threads=cores)
        run(values=_series(4096, length, 0))
        rates = np.array([
            [_rate(pixels, lambda: ols(design, y)), _rate(pixels, lambda: run(values=x))]
            for _ in range(REPEATS)
        ])  # fmt: skip
    theirs, rate = np.median(rates, axis=0)
    yield Figure(f"trend.t{length}.nrt_ols", theirs, "pixels/s")
    yield Figure(f"trend.t{length}.harmonic_ols", rate, "pixels/s")
    yield Figure(f"trend.t{length}.ols_products", _products(x, 8), "pixels/s/core")
    ratio = float(np.median(rates[:, 1] / rates[:, 0]))
    yield Figure(f"trend.t{length}.ols_ratio", ratio, "of_nrt", at_least=goal)
    for method in ("huber", "lasso"):
        compute = functools.partial(harmonic_fit, harmonics=3, method=method, penalty=0.001)
        run = functools.partial(in_pieces, compute, times=years, threads=cores)
        run(values=_series(4096, length, 0))
        rate = _rate(8192, lambda run=run: run(values=x[:8192]))
        yield Figure(f"trend.t{length}.harmonic_{method}", rate, "pixels/s")
    spans = [_temporary(harmonic_fit, (512, n), years[:n], harmonics=3) for n in (120, 240)]
    yield Figure("trend.harmonic.memory", spans[1] / spans[0], "by_twice_T", at_most=2.2)


def _products(x: np.ndarray, coefficients: int) -> float:
    """Pixels a second of the multiplications alone that such a fit takes, in one piece."""
    import jax
    import jax.numpy as jnp

    rows, width = 256, coefficients * (coefficients + 1) // 2 + 3 * coefficients
    y = jnp.asarray(np.nan_to_num(x[: 32 * rows]).reshape(32, rows, -1))
    design = jnp.asarray(_series(width, x.shape[1], 2).T)
    run = jax.jit(lambda y: jax.lax.map(lambda part: part @ jnp.nan_to_num(design), y))
    jax.block_until_ready(run(y))
    return _rate(32 * rows, lambda: jax.block_until_ready(run(y)))


def _breaks(cores: int) -> Iterator[Figure]:
    from rsvlm_jax.timeseries import detect_breaks

    length, pixels, few, goal = BREAKS
    x, days, there, _ = landsat(pixels, length, CLEAR, 4.0, 1)
    theirs = _rate(few, lambda: theirs_by_bands(x[:few], days, there[:few]))
    yield Figure(f"trend.t{length}.pyxccd", theirs, "pixels/s/core")
    ours_by_bands(*landsat(pixels, length, CLEAR, 4.0, 0)[:3], cores)
    rate = _rate(pixels, lambda: ours_by_bands(x, days, there, cores))
    yield Figure(f"trend.t{length}.breaks", rate, "pixels/s")
    yield Figure(f"trend.t{length}.breaks_ratio", rate / (theirs * cores), "of_pyxccd",
                 at_least=goal)  # fmt: skip
    years = 2000 + np.arange(960) / 45.0
    spans = [_temporary(detect_breaks, (64, n, 6), years[:n], segments=6) for n in (480, 960)]
    yield Figure("trend.breaks.memory", spans[1] / spans[0], "by_twice_T", at_most=2.2)


def _temporary(call: Callable[..., Any], shape: tuple[int, ...], years: np.ndarray, **more: Any):
    """Bytes that a program needs beside what goes in and comes out."""
    import jax

    x = jax.ShapeDtypeStruct(shape, np.float32)
    t = jax.ShapeDtypeStruct(years.shape, np.float32)
    run = jax.jit(functools.partial(call, **more))
    return run.lower(x, t).compile().memory_analysis().temp_size_in_bytes
