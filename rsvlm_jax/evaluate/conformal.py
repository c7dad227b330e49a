"""Which held-out errors calibrate which rows: other samples, other folds, the same stratum.

    held out y, mean, scale [n]; new mean, scale [m] -> lo, hi [m]          (`split_conformal`)
    held out y, own lo, hi [n];  new own lo, hi [m]  -> lo, hi [m]          (`split_quantiles`)
    y, mean, scale [n], fold [n]                     -> lo, hi, scores [n]  (`cross_conformal`)
                                                     -> crps [n]            (`cross_crps`)
    y, own lo, hi [n],  fold [n]                     -> lo, hi [n]          (`cross_quantiles`)
    features of both places                          -> weights [n], [m]    (`likelihood_ratio`)

Split calibration (Papadopoulos et al. 2002) covers 1 - alpha of samples exchangeable with those it
was calibrated on; per stratum, that of each stratum; weighted, that of a place whose inputs are
distributed otherwise but whose targets depend on them alike.

Across folds, every row has been predicted by a model that saw nothing of its fold; its interval
takes the quantile of the scores of all *other* folds (Vovk 2015). It is close to nominal when folds
are exchangeable; the guarantee of its relative CV+ is only 1 - 2 alpha (Barber et al. 2021), and
under a shift to unlike places it under-covers. So coverage is measured and printed, never assumed.
`interval` and `quantile` for a trained run are `rsvlm_jax.metrics.conformal`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.metrics.conformal import (
    Bounds,
    check_size,
    clip,
    interval,
    known,
    quantile,
    quantile_scores,
    signed_scores,
    spread,
    thresholds,
)

__all__ = [
    "Bounds",
    "cross_conformal",
    "cross_crps",
    "cross_quantiles",
    "interval",
    "likelihood_ratio",
    "quantile",
    "split_conformal",
    "split_quantiles",
]

Ends = tuple[np.ndarray, np.ndarray]
"""(lo, hi)."""

Pair = tuple[Any, Any]
"""Of the held-out samples [n] and of the new rows [m]."""

LEAST_SHARE = 0.01
"""A classifier's share of either place is kept above this: a weight is at most 99 to 1."""


def split_conformal(
    y: Any,
    mean: Pair,
    scale: Pair | None,
    alpha: float,
    bounds: Bounds = None,
    *,
    stratum: Pair | None = None,
    weight: Pair | None = None,
) -> Ends:
    """Intervals mean -+ q * scale of new rows, q read off the errors of held-out ones.

    Args:
      y: [n], observed, NaN = unknown.
      mean, scale: of the held-out samples and of the new rows; scale may be None.
      alpha, bounds: as in `interval`.
      stratum, weight: as in `metrics.conformal.thresholds`.

    Returns:
      (lo, hi) [m]. Infinite where a weight says that nothing like this row was held out.

    Raises:
      DataError: lengths that differ, a scale that is not positive, infinite observations,
        predictions that are not finite, too few samples for the level.

    Warns:
      CalibrationWarning: fewer than 50 samples.
    """
    held, new = (np.asarray(a, np.float64) for a in mean)
    of_held, of_new = (None, None) if scale is None else scale
    y = np.asarray(y, np.float64)
    _same_length(y, held)
    _finite(y, held, new)
    scores = np.abs(signed_scores(y, held, of_held))
    q = thresholds(scores, alpha, len(new), stratum=stratum, weight=weight)
    half = q * spread(of_new, new)
    return clip(new - half, bounds), clip(new + half, bounds)


def split_quantiles(
    y: Any,
    lo: Pair,
    hi: Pair,
    alpha: float,
    bounds: Bounds = None,
    *,
    stratum: Pair | None = None,
    weight: Pair | None = None,
) -> Ends:
    """Conformalised quantile regression (Romano et al. 2019): own ends moved out, or in, by q.

    Args:
      y: [n], observed, NaN = unknown.
      lo, hi: the model's own ends, of the held-out samples and of the new rows.
      alpha, bounds, stratum, weight: as in `split_conformal`; so are errors and warnings.

    Returns:
      (lo, hi) [m]; where ends moved in would cross, both are their middle.
    """
    y = np.asarray(y, np.float64)
    (held_lo, new_lo), (held_hi, new_hi) = (
        [np.asarray(a, np.float64) for a in pair] for pair in (lo, hi)
    )
    _same_length(y, held_lo, held_hi)
    _same_length(new_lo, new_hi)
    _finite(y, held_lo, held_hi, new_lo, new_hi)
    scores = quantile_scores(y, held_lo, held_hi)
    q = thresholds(scores, alpha, len(new_lo), stratum=stratum, weight=weight)
    return _moved(new_lo, new_hi, q, bounds)


def cross_quantiles(
    y: Any, lo: Any, hi: Any, fold: Any, alpha: float, bounds: Bounds = None
) -> Ends:
    """`split_quantiles` across folds: the ends of each are moved by the scores of the others.

    Args:
      y, lo, hi: [n] observed (NaN = unknown) and the model's own out-of-fold ends.
      fold, alpha, bounds: as in `cross_conformal`.

    Raises, warns: as `cross_conformal`.
    """
    y, lo, hi = (np.asarray(a, np.float64) for a in (y, lo, hi))
    fold = np.asarray(fold)
    _same_length(y, lo, hi, fold)
    scores, q = quantile_scores(y, lo, hi), np.empty_like(y)
    for f in _folds(fold):
        check_size(len(known(scores[fold != f])), alpha, "calibration by the other folds")
        q[fold == f] = quantile(scores[fold != f], alpha)
    return _moved(lo, hi, q, bounds)


def likelihood_ratio(held: Any, new: Any, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights for a shifted place: how much likelier features are there than where was held out.

    A logistic regression of standardised features tells new rows from held-out ones; its odds are
    the likelihood ratio up to a factor, which no interval depends on (Tibshirani et al. 2019, 2.3).

    Args:
      held, new: features [n, d] and [m, d], finite.

    Returns:
      Weights [n] and [m] for `split_conformal(..., weight=...)`.

    Raises:
      DataError: features that do not fit together, or are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    held, new = np.asarray(held, np.float64), np.asarray(new, np.float64)
    if held.ndim != 2 or new.ndim != 2 or held.shape[1] != new.shape[1]:
        raise DataError(
            "features of two places do not fit together",
            where="likelihood_ratio",
            expected="[n, d] and [m, d]",
            found=f"{held.shape} and {new.shape}",
        )
    x = np.concatenate([held, new])
    if not np.isfinite(x).all() or not len(held) or not len(new):
        raise DataError(
            "features that cannot be compared",
            where="likelihood_ratio",
            expected="finite numbers of both places",
            found=f"{int((~np.isfinite(x)).sum())} not finite, {len(held)} and {len(new)} rows",
        )
    there = np.arange(len(x)) >= len(held)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
    share = classifier.fit(x, there).predict_proba(x)[:, 1]
    share = np.clip(share, LEAST_SHARE, 1 - LEAST_SHARE)
    weight = share / (1 - share)
    return weight[~there], weight[there]


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
      DataError: one fold only, a shape that differs, a scale that is not positive, or other folds
        with too few scores for the level.

    Warns:
      CalibrationWarning: they have fewer than 50.
    """
    y, mean, fold = np.asarray(y, np.float64), np.asarray(mean, np.float64), np.asarray(fold)
    _same_length(y, mean, fold)
    signed = signed_scores(y, mean, scale)
    unit = spread(scale, mean)
    lo, hi = np.empty_like(mean), np.empty_like(mean)
    for f in _folds(fold):
        here = fold == f
        check_size(len(known(signed[~here])), alpha, "calibration by the other folds")
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


def _moved(lo: np.ndarray, hi: np.ndarray, q: np.ndarray, bounds: Bounds) -> Ends:
    low, high = lo - q, hi + q
    crossed = low > high
    middle = (lo + hi) / 2
    return (
        clip(np.where(crossed, middle, low), bounds),
        clip(np.where(crossed, middle, high), bounds),
    )


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


def _finite(y: np.ndarray, *predicted: np.ndarray) -> None:
    """NaN says of an observation that it is unknown; of a prediction it says nothing."""
    bad = int(np.isinf(y).sum()), sum(int((~np.isfinite(p)).sum()) for p in predicted)
    if any(bad):
        raise DataError(
            "numbers that calibrate nothing",
            where="split calibration",
            expected="observations that are finite or NaN, finite predictions",
            found=f"{bad[0]} infinite observations, {bad[1]} predictions that are not finite",
        )


def _same_length(*arrays: np.ndarray) -> None:
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 1:
        raise DataError(
            "out-of-fold arrays do not fit together",
            expected="y, mean and fold of one length",
            found=", ".join(str(a.shape) for a in arrays),
        )
