"""How often the interval of a slope holds the slope, where errors remember: AR(1), by variant.

    trend_coverage.METHOD.phiP.tT   share of 10,000 series; 0.95 is what they say

With the median of pairs alone (`original`) and with the half widths scaled by the square root of
what a variant multiplies the variance of the score with. `--short`: 1,000 series.
`results/trend_coverage.json` keeps what `--json` printed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import numpy as np

from .figure import Figure
from .trend_statistics import ALPHA, METHODS, MONTHS, PHI, noise

SLOPE = 0.03
LENGTHS = (35, 120)
VARIANTS = ("original", "hamed_rao", "yue_wang_lag1")


def coverage(method: str, x: np.ndarray) -> float:
    """Of series [series, T] in which a slope is planted; none is held where there is no answer."""
    from rsvlm_jax.timeseries import fold, in_pieces, mann_kendall, mann_kendall_grouped

    steps = np.arange(x.shape[1], dtype=np.float32)
    planted = x + np.float32(SLOPE) * steps
    if method == "seasonal":  # the correlated test has the same interval
        found, slope = mann_kendall_grouped(fold(planted, MONTHS), alpha=ALPHA), SLOPE * MONTHS
    else:
        compute = functools.partial(mann_kendall, **METHODS[method], alpha=ALPHA)
        found, slope = in_pieces(compute, planted, steps, pixels=min(len(x), 2048)), SLOPE
    return float(np.mean((found.slope_lo <= slope) & (slope <= found.slope_hi)))


def figures() -> Iterator[Figure]:
    series = 1_000 if os.environ.get("RSVLM_BENCH_SHORT") else 10_000
    for length in LENGTHS:
        for phi in PHI:
            x = noise(series, length, phi, 1)
            for method in (*VARIANTS, *(("seasonal",) if length % MONTHS == 0 else ())):
                name = f"trend_coverage.{method}.phi{phi:g}.t{length}"
                yield Figure(name, coverage(method, x), "share")
