"""Trend tests beside the per-pixel libraries, on the same series with gaps, in one run.

    mann_kendall   the original test and the Theil-Sen slope, one thread a core (`in_pieces`),
                   over pymannkendall's rate in one process times the cores, by T; and with the
                   interval, which pymannkendall has not

float32, as cubes are read; values rounded to 4 digits, a quarter of them missing. Compilation is
not counted; the compared series differ from those that warmed up.
"""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Iterator

import numpy as np

from .figure import Figure

CASES = {35: (65_536, 400, 30.0), 240: (8_192, 100, 10.0)}
"""T: pixels of ours, of pymannkendall's, and the ratio to reach."""


def _series(pixels: int, length: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = 0.4 + 0.1 * rng.standard_normal((pixels, length)) + 0.002 * np.arange(length)
    x = np.round(x, 4).astype(np.float32)
    x[rng.random(x.shape) < 0.25] = np.nan
    return x


def figures() -> Iterator[Figure]:
    import pymannkendall

    from rsvlm_jax.timeseries import in_pieces, mann_kendall

    cores = len(os.sched_getaffinity(0))
    for length, (pixels, few, goal) in CASES.items():
        times = np.arange(length, dtype=np.float32)
        rates = {}
        for name, interval in (("mann_kendall", False), ("with_interval", True)):
            compute = functools.partial(mann_kendall, interval=interval)
            run = functools.partial(in_pieces, compute, times=times, threads=cores)
            run(values=_series(4096, length, 0))
            x = _series(pixels, length, 1)
            begun = time.perf_counter()
            run(values=x)
            rates[name] = pixels / (time.perf_counter() - begun)
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
