"""Intervals from the errors that a model made on places it had not seen.

Not a model of the noise: whatever spread a model claims is only a unit of measure; how many of
these units a 90 % interval takes is read off its out-of-fold errors.

    y, mean, scale [n], fold [n]
      score_i  = |y_i - mean_i| / scale_i           (scale 1 for models without one)
      q_f      = finite-sample quantile of the scores of all folds but f
      interval = mean_i -+ q_f(i) * scale_i, clipped to the bounds of the target

Scores normalised by a spread are Lei et al. 2018, section 5.2; calibrating a fold on the
out-of-fold scores of the others is cross-conformal prediction (Vovk 2015). It is close to nominal
when folds are exchangeable, the guarantee of its relative CV+ is only 1 - 2 alpha (Barber et al.
2021), and under a shift to unlike places it under-covers. So coverage is measured and printed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rsvlm_jax.config import DataError

Bounds = tuple[float, float] | None


def quantile(scores: Any, alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest score; inf when n is too small for alpha.

    Args:
      scores: [n], NaN are left out.
      alpha: share that may be missed, in (0, 1).
    """
    if not 0 < alpha < 1:
        raise DataError("not a share", where="alpha", expected="0 < alpha < 1", found=alpha)
    s = np.sort(_finite(scores))
    # 1e-9: (n + 1)(1 - alpha) that is an integer on paper must not be rounded up by a last bit.
    k = math.ceil((len(s) + 1) * (1 - alpha) - 1e-9)
    return float(s[k - 1]) if k <= len(s) else math.inf


def interval(
    mean: Any, scale: Any, scores: Any, alpha: float, bounds: Bounds = None
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of new predictions from the saved scores of a run.

    Args:
      mean: any shape, target units; NaN gives NaN ends.
      scale: same shape, > 0, or None for scores that were not normalised.
      scores: [n] as returned by `cross_conformal`.
      alpha: share that may be missed: 0.1 for 90 % intervals.
      bounds: of the target; ends are clipped to them.

    Returns:
      (lo, hi), the shape and dtype of `mean`. Infinite where the scores are too few and there
      are no bounds.
    """
    mean = np.asarray(mean)
    half = quantile(scores, alpha) * np.broadcast_to(_scale(scale, mean), mean.shape)
    return _clip(mean - half, bounds).astype(mean.dtype), _clip(mean + half, bounds).astype(
        mean.dtype
    )


def cross_conformal(
    y: Any, mean: Any, scale: Any, fold: Any, alpha: float, bounds: Bounds = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Out-of-fold intervals; the quantile of each fold comes from the scores of the others.

    Args:
      y: [n] observed, NaN = unknown (gets an interval, gives no score).
      mean, scale: [n] out-of-fold predictions; scale may be None.
      fold: [n] integers.
      alpha, bounds: as in `interval`.

    Returns:
      (lo [n], hi [n], scores [n]). `scores` of all folds together serve `interval` for a model
      trained on everything.

    Raises:
      DataError: one fold only, a shape that differs, or a scale that is not positive.
    """
    y, mean, fold = np.asarray(y, np.float64), np.asarray(mean, np.float64), np.asarray(fold)
    _same_length(y, mean, fold)
    signed = signed_scores(y, mean, scale)
    unit = _scale(scale, mean)
    lo, hi = np.empty_like(mean), np.empty_like(mean)
    for f in _folds(fold):
        here = fold == f
        lo[here], hi[here] = interval(mean[here], unit[here], np.abs(signed[~here]), alpha, bounds)
    return lo, hi, np.abs(signed)


def signed_scores(y: Any, mean: Any, scale: Any) -> np.ndarray:
    """(y - mean) / scale, [n]; NaN where y is."""
    mean = np.asarray(mean, np.float64)
    return (np.asarray(y, np.float64) - mean) / _scale(scale, mean)


def cross_crps(y: Any, mean: Any, scale: Any, fold: Any, bounds: Bounds = None) -> np.ndarray:
    """CRPS [n] of each sample's conformal predictive distribution; NaN where y is.

    One definition for every model, with or without a spread of its own: the distribution of sample
    i is the empirical one of mean_i + scale_i * s over the signed scores s of the other folds,
    clipped to the bounds (the split-conformal predictive system of Vovk et al. 2020).
    """
    y, mean, fold = np.asarray(y, np.float64), np.asarray(mean, np.float64), np.asarray(fold)
    _same_length(y, mean, fold)
    signed, unit = signed_scores(y, mean, scale), _scale(scale, mean)
    out = np.full(len(y), np.nan)
    for f in _folds(fold):
        s = np.sort(_finite(signed[fold != f]))
        m = len(s)
        weight = (2 * np.arange(1, m + 1) - m - 1) / m**2
        for i in np.flatnonzero((fold == f) & np.isfinite(y)):
            # Ascending already: scale > 0 and clipping keep the order of s, so the mean
            # difference of two draws is a weighted sum (see `metrics.crps_empirical`).
            x = _clip(mean[i] + unit[i] * s, bounds)
            out[i] = np.abs(x - y[i]).mean() - x @ weight
    return out


def _scale(scale: Any, mean: np.ndarray) -> np.ndarray:
    if scale is None:
        return np.ones_like(mean)
    scale = np.asarray(scale).astype(mean.dtype)
    bad = ~(scale > 0) & np.isfinite(mean) if scale.shape == mean.shape else ~(scale > 0)
    if bad.any():
        raise DataError(
            "a predicted spread is not positive",
            where="scale",
            expected="> 0",
            found=f"{int(bad.sum())} of {bad.size}, the first {scale[bad][0]}",
        )
    return scale


def _clip(x: np.ndarray, bounds: Bounds) -> np.ndarray:
    return x if bounds is None else np.clip(x, *bounds)


def _finite(scores: Any) -> np.ndarray:
    s = np.asarray(scores, np.float64).ravel()
    return s[~np.isnan(s)]


def _folds(fold: np.ndarray) -> np.ndarray:
    folds = np.unique(fold)
    if len(folds) < 2:
        raise DataError(
            "no other fold to calibrate on",
            where="cross-conformal calibration",
            expected="at least 2 folds",
            found=len(folds),
        )
    return folds


def _same_length(*arrays: np.ndarray) -> None:
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 1:
        raise DataError(
            "out-of-fold arrays do not fit together",
            expected="y, mean and fold of one length",
            found=", ".join(str(a.shape) for a in arrays),
        )
