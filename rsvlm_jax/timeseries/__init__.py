"""Trends of many series at once: rank statistics, fits and breaks, masked, batched, jitted.

Contents:
  dates      on the host: checks, decimal years, order, lengths in buckets
  sen        `theil_sen`: slope, intercept, interval
  breaks     `detect_breaks`: segments and breaks of several bands (COLD, CCDC)
  monitor    `monitor_breaks`: the first break since a date (BFAST-monitor)
  kendall    `mann_kendall`: original, Hamed-Rao, Yue-Wang, pre-whitening, trend-free pre-whitening
  grouped    `mann_kendall_grouped`: seasonal, regional, multivariate, correlated or not
  field      `false_discovery` over a map
  composite  `annual_composites` of dated observations
  landtrendr `landtrendr`: segments of annual values, the largest disturbance
  decompose  `decompose`: trend, cycle, remainder (STL with gaps)
  forecast   `harmonic_forecast`, `seasonal_naive_forecast`, with prediction intervals
  harmonic   `harmonic_fit`: level, trend and waves of a year; least squares, Huber, LASSO
  pieces     `in_pieces`: any number of pixels by one program
  result     `Trend`, `Line`, and the `Code` of pixels without an answer
  blocks, pairs, selection, serial, regressors, estimators, products, screen, machine, watch: how
  it is done
  rows, steps, loess, segments: the same, of series that answer with series

    values [pixels T], times [T] or [pixels T], mask [pixels T] -> one number a pixel, and a code

Not here: cubes and files, models. float64 needs `jax.enable_x64`.
"""

from .breaks import Breaks, detect_breaks
from .composite import Composites, annual_composites
from .dates import bucket, check_dates, days, decimal_years, fill_up, ordered
from .decompose import Parts, decompose
from .field import Discoveries, false_discovery
from .forecast import Forecast, harmonic_forecast, seasonal_naive_forecast
from .grouped import fold, mann_kendall_grouped
from .harmonic import Harmonic, harmonic_fit
from .kendall import mann_kendall
from .landtrendr import Segments, landtrendr
from .monitor import Monitored, monitor_breaks
from .pieces import in_pieces
from .result import Code, Line, Trend
from .sen import theil_sen

__all__ = [
    "Breaks",
    "Code",
    "Composites",
    "Discoveries",
    "Forecast",
    "Harmonic",
    "Line",
    "Monitored",
    "Parts",
    "Segments",
    "Trend",
    "annual_composites",
    "bucket",
    "check_dates",
    "days",
    "decimal_years",
    "decompose",
    "detect_breaks",
    "false_discovery",
    "fill_up",
    "fold",
    "harmonic_fit",
    "harmonic_forecast",
    "in_pieces",
    "landtrendr",
    "mann_kendall",
    "mann_kendall_grouped",
    "monitor_breaks",
    "ordered",
    "seasonal_naive_forecast",
    "theil_sen",
]
