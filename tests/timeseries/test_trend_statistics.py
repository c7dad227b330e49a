"""The bench of error rates and coverage, small: bounds of four standard errors."""

from __future__ import annotations

import pytest

from experiments.bench.trend_coverage import coverage
from experiments.bench.trend_statistics import (
    false_positives,
    forecast_coverage,
    noise,
    sen_coverage,
)

SERIES = 1000


def bounds(share: float) -> tuple[float, float]:
    error = (share * (1 - share) / SERIES) ** 0.5
    return share - 4 * error, share + 4 * error


def test_white_noise_is_called_a_trend_as_often_as_said_and_memory_more_often():
    low, high = bounds(0.05)
    assert low <= false_positives("original", noise(SERIES, 35, 0.0, 0)) <= high
    assert false_positives("original", noise(SERIES, 35, 0.6, 0)) > 0.15


def test_the_interval_of_the_slope_holds_it_as_often_as_said():
    low, high = bounds(0.95)
    assert low <= sen_coverage(noise(SERIES, 35, 0.0, 1)) <= high


def test_the_interval_of_a_variant_holds_more_often_where_errors_remember():
    x = noise(SERIES, 35, 0.6, 1)
    assert coverage("yue_wang_lag1", x) > coverage("original", x) + 0.05


@pytest.mark.parametrize("model", ["harmonic", "seasonal_naive"])
def test_forecasts_hold_what_comes_as_often_as_said(model):
    low, high = bounds(0.95)
    assert low - 0.01 <= forecast_coverage(model, noise(SERIES, 162, 0.0, 2), 3) <= high + 0.01
