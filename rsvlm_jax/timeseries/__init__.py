"""Trends of many series at once: rank statistics, fits and breaks, masked, batched, jitted.

Contents:
  dates      on the host: checks, decimal years, order, lengths in buckets
  sen        `theil_sen`: slope, intercept, interval
  breaks     `detect_breaks`: segments and breaks of several bands (COLD, CCDC)
  monitor    `monitor_breaks`: the first break since a date (BFAST-monitor)
  kendall    `mann_kendall`: original, Hamed-Rao, Yue-Wang, pre-whitening, trend-free pre-whitening
  grouped    `mann_kendall_grouped`: seasonal, regional, multivariate, correlated or not
  field      `false_discovery` over a map
  harmonic   `harmonic_fit`: level, trend and waves of a year; least squares, Huber, LASSO
  pieces     `in_pieces`: any number of pixels by one program
  result     `Trend`, `Line`, and the `Code` of pixels without an answer
  blocks, pairs, selection, serial, regressors, estimators, screen, machine, watch: how

    values [pixels T], times [T] or [pixels T], mask [pixels T] -> one number a pixel, and a code

Not here: cubes and files, models. float64 needs `jax.enable_x64`.
"""

from .breaks import Breaks, detect_breaks
from .dates import bucket, check_dates, days, decimal_years, fill_up, ordered
from .field import Discoveries, false_discovery
from .grouped import fold, mann_kendall_grouped
from .harmonic import Harmonic, harmonic_fit
from .kendall import mann_kendall
from .monitor import Monitored, monitor_breaks
from .pieces import in_pieces
from .result import Code, Line, Trend
from .sen import theil_sen

__all__ = [
    "Breaks",
    "Code",
    "Discoveries",
    "Harmonic",
    "Line",
    "Monitored",
    "Trend",
    "bucket",
    "check_dates",
    "days",
    "decimal_years",
    "detect_breaks",
    "false_discovery",
    "fill_up",
    "fold",
    "harmonic_fit",
    "in_pieces",
    "mann_kendall",
    "mann_kendall_grouped",
    "monitor_breaks",
    "ordered",
    "theil_sen",
]
