"""Cross-conformal calibration: each fold by the errors of the others.

    y, mean, scale [n], fold [n] -> lo, hi, scores [n]     (`cross_conformal`)
                                 -> crps [n]               (`cross_crps`)

Every row has been predicted by a model that saw nothing of its fold; its interval takes the
quantile of the scores of all *other* folds (Vovk 2015). It is close to nominal when folds are
exchangeable; the guarantee of its relative CV+ is only 1 - 2 alpha (Barber et al. 2021), and under
a shift to unlike places it under-covers. So coverage is measured and printed, never assumed.
`interval` and `quantile` for a trained run are `rsvlm_jax.metrics.conformal`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.metrics.conformal import (
    Bounds,
    clip,
    interval,
    known,
    quantile,
    signed_scores,
    spread,
)

__all__ = ["Bounds", "cross_conformal", "cross_crps", "interval", "quantile"]


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
    unit = spread(scale, mean)
    lo, hi = np.empty_like(mean), np.empty_like(mean)
    for f in _folds(fold):
        here = fold == f
        lo[here], hi[here] = interval(mean[here], unit[here], np.abs(signed[~here]), alpha, bounds)
    return lo, hi, np.abs(signed)


def cross_crps(y: Any, mean: Any, scale: Any, fold: Any, bounds: Bounds = None) -> np.ndarray:
    """CRPS [n] of each sample's conformal predictive distribution; NaN where y is.

    One definition for every model, with or without a spread of its own: the distribution of sample
    i is the empirical one of mean_i + scale_i * s over the signed scores s of the other folds,
    clipped to the bounds (the split-conformal predictive system of Vovk et al. 2020).
    """
    y, mean, fold = np.asarray(y, np.float64), np.asarray(mean, np.float64), np.asarray(fold)
    _same_length(y, mean, fold)
    signed, unit = signed_scores(y, mean, scale), spread(scale, mean)
    out = np.full(len(y), np.nan)
    for f in _folds(fold):
        s = np.sort(known(signed[fold != f]))
        m = len(s)
        weight = (2 * np.arange(1, m + 1) - m - 1) / m**2
        for i in np.flatnonzero((fold == f) & np.isfinite(y)):
            # Ascending already: scale > 0 and clipping keep the order of s, so the mean
            # difference of two draws is a weighted sum (see `metrics.crps_empirical`).
            x = clip(mean[i] + unit[i] * s, bounds)
            out[i] = np.abs(x - y[i]).mean() - x @ weight
    return out


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
