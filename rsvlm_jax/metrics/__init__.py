"""Metrics as pure functions on arrays, NumPy or JAX, inside `jit` or not.

Contents:
  regression   `RegressionSums` (sums that add up over batches and devices), `regression_table`,
               `by_bin`
  calibration  coverage, width, interval score, pinball loss, CRPS, `binomial_interval`
  crps         CRPS of each sample: normal, Laplace, or a chain of linear pieces, clipped to bounds
  conformal    intervals of new predictions from saved held-out scores (NumPy)
  resample     block bootstrap (`bootstrap`, `coverage_interval`), paired tests (NumPy)
  sums         `ratio` and the masking that all share

A metric is a pair `(sum, weight)` or a pytree of sums: add (or `psum`) the parts, then divide once
with `ratio`. One device or eight, one batch or many give the same figure.
"""

from .calibration import (
    binomial_interval,
    crps_empirical,
    crps_gaussian,
    crps_quantiles,
    interval_score,
    picp,
    pinball,
    width,
)
from .crps import Tail, crps_chain, crps_laplace, crps_normal
from .regression import RegressionSums, by_bin, regression_sums, regression_table
from .resample import (
    bootstrap,
    coverage_interval,
    holm,
    metric_intervals,
    paired,
    paired_bootstrap,
)
from .sums import ratio

__all__ = [
    "RegressionSums",
    "Tail",
    "binomial_interval",
    "bootstrap",
    "by_bin",
    "coverage_interval",
    "crps_chain",
    "crps_empirical",
    "crps_gaussian",
    "crps_laplace",
    "crps_normal",
    "crps_quantiles",
    "holm",
    "interval_score",
    "metric_intervals",
    "paired",
    "paired_bootstrap",
    "picp",
    "pinball",
    "ratio",
    "regression_sums",
    "regression_table",
    "width",
]
