"""The regression benchmark: any models, one protocol, one table.

It trains nothing and knows no cube. It takes held-out predictions fold by fold, gives every model
its intervals by the same cross-conformal calibration and scores all on the pooled held-out rows.

    y [n], fold [n], {name: fold -> (mean, scale, seconds)} -> Benchmark(rows, oof)

The same rules for all: predictions are clipped to the bounds of the target; models without a
spread of their own are calibrated by absolute errors, those with one by errors over spread; CRPS
is that of the conformal predictive distribution (`conformal.cross_crps`); seconds are the sum over
folds of training and prediction.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.metrics import binomial_interval, picp, ratio, regression_table, width
from rsvlm_jax.metrics.conformal import Bounds, check_size, known

from .conformal import cross_conformal, cross_crps

COLUMNS = (
    *("model", "split", "n", "rmse", "mae", "bias", "r2", "rrmse", "r"),
    *("picp90", "width90", "crps", "seconds"),
)
"""The columns that scripts may rely on, in order."""

EXTRA_COLUMNS = ("picp90_lo", "picp90_hi")
"""95 % Clopper-Pearson interval of picp90, after the stable columns."""

ALPHA = 0.1
"""Missed share: the columns say 90."""

Row = dict[str, Any]
FoldModel = Callable[[int], tuple[Any, Any, float | None]]


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Held-out predictions of one model: every row by a model that saw nothing of its fold.

    Attributes:
      mean: [n], clipped to the bounds.
      scale: [n] or None.
      lo, hi: [n], 90 % interval.
      scores: [n], absolute (normalised) errors, NaN where the target is unknown.
      crps: [n].
      seconds: of training and prediction, all folds.
    """

    mean: np.ndarray
    scale: np.ndarray | None
    lo: np.ndarray
    hi: np.ndarray
    scores: np.ndarray
    crps: np.ndarray
    seconds: float

    @property
    def calibration(self) -> tuple[float, ...]:
        """The known scores: what the processor saves for the intervals of `predict`.

        Raises:
          DataError: too few for 90 % intervals. Warns: CalibrationWarning, below 50.
        """
        scores = known(self.scores)
        check_size(len(scores), ALPHA, "calibration of the run")
        return tuple(float(s) for s in scores)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Rows of the table, and the predictions behind them by model."""

    rows: list[Row]
    oof: dict[str, OutOfFold]


def regression_benchmark(
    y: Any,
    fold: Any,
    models: Mapping[str, FoldModel | tuple[Any, Any, float]],
    *,
    bounds: Bounds = None,
    split: str = "",
    on_model: Callable[[str], None] | None = None,
) -> Benchmark:
    """Scores models on held-out folds.

    Args:
      y: [n] observed, target units; NaN rows are predicted but not scored.
      fold: [n] integers: the fold in which a row is held out.
      models: by name, either a callable `fold -> (mean, scale | None, seconds | None)` over the
        rows of that fold in ascending order, or out-of-fold arrays `(mean [n], scale [n] | None,
        seconds)`. Rows of the table keep this order.
      bounds: of the target, or None.
      split: how the folds were made, for the column of that name.
      on_model: called with each name before its turn (progress).

    Raises:
      DataError: arrays that do not fit, fewer than two folds, no observed target, or a prediction
        that is not finite, named by model and fold.
    """
    y, fold = np.asarray(y, np.float64), np.asarray(fold)
    if y.ndim != 1 or y.shape != fold.shape:
        raise DataError(
            "targets and folds do not fit together",
            where="regression_benchmark",
            expected="two arrays of one length",
            found=f"y {y.shape}, fold {fold.shape}",
        )
    if not np.isfinite(y).any():
        raise DataError(
            "no observed target",
            where="regression_benchmark",
            expected="at least one finite target",
            found=f"{len(y)} rows, all NaN",
        )
    y = within(y, bounds)
    oof: dict[str, OutOfFold] = {}
    for name, model in models.items():
        if on_model is not None:
            on_model(name)
        mean, scale, seconds = _gather(name, model, fold)
        oof[name] = out_of_fold(y, mean, scale, fold, seconds, bounds)
    return Benchmark([score(name, split, y, found) for name, found in oof.items()], oof)


def out_of_fold(
    y: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray | None,
    fold: np.ndarray,
    seconds: float,
    bounds: Bounds = None,
) -> OutOfFold:
    """Clips, calibrates and scores held-out predictions [n] of one model.

    Raises:
      DataError: the other folds of one have too few samples for 90 % intervals.

    Warns:
      CalibrationWarning: they have fewer than 50.
    """
    mean = mean if bounds is None else np.clip(mean, *bounds)
    lo, hi, scores = cross_conformal(y, mean, scale, fold, ALPHA, bounds)
    crps = cross_crps(y, mean, scale, fold, bounds)
    return OutOfFold(mean, scale, lo, hi, scores, crps, seconds)


def score(name: str, split: str, y: np.ndarray, oof: OutOfFold) -> Row:
    """One row of the table, `COLUMNS` then `EXTRA_COLUMNS`; plain Python numbers."""
    point = {k: float(v) for k, v in regression_table(y, oof.mean).items()}
    hits, n = picp(y, oof.lo, oof.hi)
    low, high = binomial_interval(round(float(hits)), round(float(n)))
    row = {
        "model": name,
        "split": split,
        **point,
        "n": round(point["n"]),
        "picp90": float(ratio((hits, n))),
        "width90": float(ratio(width(oof.lo, oof.hi, np.isfinite(y)))),
        "crps": float(np.nanmean(oof.crps)),
        "seconds": oof.seconds,
        "picp90_lo": low,
        "picp90_hi": high,
    }
    return {k: row[k] for k in (*COLUMNS, *EXTRA_COLUMNS)}


def within(y: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Observations brought back onto bounds that they pass by rounding; farther out is an error.

    The mean of sixty-four ones may come out as 1 + 2e-16, which no interval clipped to 1 covers.
    """
    if bounds is None:
        return y
    low, high = bounds
    slack = 1e-6 * (high - low)
    outside = (y < low - slack) | (y > high + slack)
    if outside.any():
        raise DataError(
            "an observed target lies outside its declared bounds",
            where=f"row {int(np.flatnonzero(outside)[0])}",
            expected=f"{low} .. {high}",
            found=y[outside][0],
            remedy="correct the bounds in the cube's target, or the target",
        )
    return np.clip(y, low, high)


def _gather(
    name: str, model: FoldModel | tuple[Any, Any, float], fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Out-of-fold arrays [n] of one model, checked."""
    if not callable(model):
        mean, scale, seconds = model
        mean = _checked(name, "all folds", mean, len(fold))
        scale = None if scale is None else _checked(name, "all folds", scale, len(fold))
        return mean, scale, float(seconds)
    mean, scale = np.full(len(fold), np.nan), np.full(len(fold), np.nan)
    total, scaled = 0.0, []
    for f in np.unique(fold):
        here = np.flatnonzero(fold == f)
        start = time.perf_counter()
        part, spread, seconds = model(int(f))
        total += time.perf_counter() - start if seconds is None else float(seconds)
        mean[here] = _checked(name, f"fold {f}", part, len(here))
        if spread is not None:
            scale[here] = _checked(name, f"fold {f}", spread, len(here))
        scaled.append(spread is not None)
    if any(scaled) != all(scaled):
        raise DataError(
            f"model {name!r} gives a spread in some folds only",
            where="regression_benchmark",
            expected="a scale in every fold or in none",
        )
    return mean, scale if all(scaled) else None, total


def _checked(name: str, where: str, values: Any, n: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (n,):
        raise DataError(
            f"predictions of {name!r} do not fit the held-out rows",
            where=where,
            expected=f"shape ({n},)",
            found=values.shape,
        )
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(
            f"predictions of {name!r} are not finite",
            where=f"{where}, row {first}",
            expected="numbers",
            found=values[first],
        )
    return values
