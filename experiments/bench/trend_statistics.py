"""What the trend statistics promise, on simulated series: error rates and coverage.

    false_positives.METHOD.phiP.tT   share of series without a trend called significant at 0.05; of
                                     white noise (phi 0) or an AR(1) process. A goal for the
                                     original test on white noise; the rest is shown as it is
    sen.coverage.tT                  how often the interval of Sen's slope holds the planted one
    forecast.MODEL.phiP              how often the interval holds the observation a year and a half
                                     later, twelve years of months before it, a fifth missing

10,000 series each, float32 (a share of 0.05 has a standard error of 0.0022); `--short`: 1,000,
without goals. `results/trend_statistics.json` keeps what `--json` printed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .figure import Figure

METHODS: dict[str, dict[str, Any]] = {
    "original": {},
    "hamed_rao": {"method": "hamed_rao"},
    "yue_wang": {"method": "yue_wang"},
    "yue_wang_lag1": {"method": "yue_wang", "lags": 1},
    "pre_whitening": {"method": "pre_whitening"},
    "trend_free": {"method": "trend_free"},
}
GROUPED = {"seasonal": False, "correlated_seasonal": True}
PHI = (0.0, 0.3, 0.6)
LENGTHS = (35, 60, 120)
ALPHA = 0.05
MONTHS = 12
HISTORY, AHEAD = 144, 18


def noise(series: int, length: int, phi: float, seed: int) -> np.ndarray:
    """Stationary AR(1) of variance 1, float32 [series, length]."""
    rng = np.random.default_rng([seed, length, int(100 * phi)])
    x = rng.standard_normal((series, length))
    for k in range(1, length):
        x[:, k] = phi * x[:, k - 1] + (1 - phi * phi) ** 0.5 * x[:, k]
    return x.astype(np.float32)


def _answers(compute: Any, x: np.ndarray) -> Any:
    from rsvlm_jax.timeseries import in_pieces

    times = np.arange(x.shape[1], dtype=np.float32)
    return in_pieces(compute, x, times, pixels=min(len(x), 2048))


def false_positives(method: str, x: np.ndarray) -> float:
    """Share of p below alpha among the series; one without an answer is not significant."""
    from rsvlm_jax.timeseries import fold, mann_kendall, mann_kendall_grouped

    if method in GROUPED:
        found = mann_kendall_grouped(fold(x, MONTHS), correlated=GROUPED[method], interval=False)
    else:
        compute = functools.partial(mann_kendall, **METHODS[method], alpha=ALPHA, interval=False)
        found = _answers(compute, x)
    return float(np.mean(np.asarray(found.p) < ALPHA))


def sen_coverage(x: np.ndarray) -> float:
    """Share of series whose interval holds the slope that was planted in them."""
    from rsvlm_jax.timeseries import theil_sen

    slope = 0.03
    planted = x + np.float32(slope) * np.arange(x.shape[1], dtype=np.float32)
    found = _answers(functools.partial(theil_sen, alpha=ALPHA), planted)
    return float(np.mean((found.slope_lo <= slope) & (slope <= found.slope_hi)))


def forecast_coverage(model: str, x: np.ndarray, seed: int) -> float:
    """Share of intervals that hold the last value of the series, 18 months after the others."""
    from rsvlm_jax.timeseries import harmonic_forecast, seasonal_naive_forecast

    forecast = {"harmonic": harmonic_forecast, "seasonal_naive": seasonal_naive_forecast}[model]
    times = 2015 + np.arange(x.shape[1]) / MONTHS
    y = x + np.float32(2) * np.sin(2 * np.pi * times).astype(np.float32)
    past = slice(0, -AHEAD)
    there = np.random.default_rng(seed).random(y[:, past].shape) >= 0.2
    found = forecast(y[:, past], times[past], times[-1:], there, alpha=ALPHA)
    inside = (found.lo[:, 0] <= y[:, -1]) & (y[:, -1] <= found.hi[:, 0])
    return float(np.mean(np.asarray(inside)))


def figures() -> Iterator[Figure]:
    short = bool(os.environ.get("RSVLM_BENCH_SHORT"))
    series = 1_000 if short else 10_000
    for length in LENGTHS:
        for phi in PHI:
            x = noise(series, length, phi, 0)
            for method in (*METHODS, *(GROUPED if length % MONTHS == 0 else ())):
                promised = method == "original" and phi == 0 and not short
                yield Figure(
                    f"trend_statistics.false_positives.{method}.phi{phi:g}.t{length}",
                    false_positives(method, x), "share",
                    at_least=0.04 if promised else None, at_most=0.06 if promised else None,
                )  # fmt: skip
        yield Figure(
            f"trend_statistics.sen.coverage.t{length}", sen_coverage(noise(series, length, 0.0, 1)),
            "share", at_least=None if short else 0.94, at_most=None if short else 0.96,
        )  # fmt: skip
    for model in ("harmonic", "seasonal_naive"):
        for phi in PHI:
            promised = phi == 0 and not short
            yield Figure(
                f"trend_statistics.forecast.{model}.phi{phi:g}",
                forecast_coverage(model, noise(series, HISTORY + AHEAD, phi, 2), 3), "share",
                at_least=0.93 if promised else None, at_most=0.97 if promised else None,
            )  # fmt: skip
