"""Intervals from the errors that a model made on places it had not seen.

Not a model of the noise: whatever spread a model claims is only a unit of measure; how many of
these units a 90 % interval takes is read off its held-out errors.

    held-out y, mean, scale [n] -> score_i = |y_i - mean_i| / scale_i    (scale 1 where None)
    new mean, scale [...]       -> mean -+ quantile(scores) * scale, clipped to the bounds

Scores normalised by a spread are Lei et al. 2018, section 5.2; those of a model's own interval are
conformalised quantile regression (Romano et al. 2019, eq. 6). `thresholds` finds the quantile for
each new row, of all scores alike, of those of its stratum, or weighted for a shifted region. Which
held-out errors calibrate which rows is a matter of the protocol: `rsvlm_jax.evaluate.conformal`.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from rsvlm_jax.config import DataError

FEW = 50
"""Fewer calibration scores than this are warned of: with 50 the coverage that one calibration
reaches still has a standard deviation of 4 % around 90 %."""


class CalibrationWarning(UserWarning):
    """Calibrated on so few samples that the coverage is a matter of luck."""


Bounds = tuple[float, float] | None
"""Smallest and largest possible value of a target."""


def quantile(scores: Any, alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest score; inf when n is too small for alpha.

    Args:
      scores: [n], NaN are left out.
      alpha: share that may be missed, in (0, 1).
    """
    if not 0 < alpha < 1:
        raise DataError("not a share", where="alpha", expected="0 < alpha < 1", found=alpha)
    s = np.sort(known(scores))
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
      scores: [n] as returned by `evaluate.conformal.cross_conformal`.
      alpha: share that may be missed: 0.1 for 90 % intervals.
      bounds: of the target; ends are clipped to them.

    Returns:
      (lo, hi), the shape and dtype of `mean`. Infinite where the scores are too few and there
      are no bounds.
    """
    mean = np.asarray(mean)
    half = quantile(scores, alpha) * spread(scale, mean)
    lo, hi = clip(mean - half, bounds), clip(mean + half, bounds)
    return lo.astype(mean.dtype), hi.astype(mean.dtype)


def least_size(alpha: float) -> int:
    """The fewest scores of which one is large enough to miss a share of alpha only."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def check_size(n: int, alpha: float, where: str = "calibration") -> None:
    """Whether so many scores can calibrate a level.

    Args:
      n: known scores.

    Raises:
      DataError: alpha is no share, or n is below 1 / alpha - 1, where no score is large enough.

    Warns:
      CalibrationWarning: n is below `FEW`.
    """
    if not 0 < alpha < 1:
        raise DataError("not a share", where="alpha", expected="0 < alpha < 1", found=alpha)
    least = least_size(alpha)
    if n < least:
        raise DataError(
            "too few calibration samples for the level",
            where=where,
            expected=f"at least {least} for {100 * (1 - alpha):g} %",
            found=n,
            remedy="calibrate on more samples, merge strata, or ask for a lower level",
        )
    if n < FEW:
        text = f"{where}: {n} calibration samples (at least {FEW} are advised); the coverage of"
        warnings.warn(f"{text} such intervals is a matter of luck", CalibrationWarning, 3)


def thresholds(
    scores: Any,
    alpha: float,
    rows: int,
    *,
    stratum: tuple[Any, Any] | None = None,
    weight: tuple[Any, Any] | None = None,
    where: str = "calibration",
) -> np.ndarray:
    """The score that each new row takes as its end, f64 [m].

    Args:
      scores: [n] of held-out samples, NaN where unknown.
      alpha: share that may be missed.
      rows: m, new rows.
      stratum: labels of the scores [n] and of the new rows [m]: each stratum is calibrated by its
        own scores ("Mondrian", Vovk et al. 2003), so that each is covered, not only their mean.
      weight: likelihood ratios new / old of the scores [n] and of the new rows [m], >= 0, up to a
        common factor: the scores stand for a shifted population (Tibshirani et al. 2019, eq. 7).
      where: for errors.

    Returns:
      Infinite for a row whose own weight is more than alpha of the total: nothing like it was
      calibrated on.

    Raises:
      DataError: lengths that differ, weights that are none, a stratum with too few scores.

    Warns:
      CalibrationWarning: a stratum with few scores, or weights that leave the worth of few.
    """
    scores = np.asarray(scores, np.float64)
    old, new = _labels(stratum, len(scores), rows, "stratum", where)
    old_weight, new_weight = _labels(weight, len(scores), rows, "weight", where)
    if weight is not None:
        _check_weight(np.concatenate([old_weight, new_weight]), where)
    out = np.empty(rows)
    for name in np.unique(new):
        mine, here = (old == name) & ~np.isnan(scores), new == name
        at = where if stratum is None else f"{where}, stratum {name}"
        check_size(int(mine.sum()), alpha, at)
        if weight is None:
            out[here] = quantile(scores[mine], alpha)
            continue
        w = old_weight[mine]
        worth = w.sum() ** 2 / max(np.square(w).sum(), np.finfo(float).tiny)
        if worth < FEW <= mine.sum():
            text = f"{at}: the weights leave {mine.sum()} samples the worth of {worth:.1f}"
            warnings.warn(text, CalibrationWarning, 2)
        out[here] = _weighted(scores[mine], w, new_weight[here], alpha)
    return out


def quantile_scores(y: Any, lo: Any, hi: Any) -> np.ndarray:
    """How far y lies outside a model's own interval, negative inside: max(lo - y, y - hi)."""
    y, lo, hi = (np.asarray(a, np.float64) for a in (y, lo, hi))
    return np.maximum(lo - y, y - hi)


def _weighted(s: np.ndarray, w: np.ndarray, own: np.ndarray, alpha: float) -> np.ndarray:
    """Quantiles of scores with weights, and the weight of each new row at infinity: [m]."""
    order = np.argsort(s, kind="stable")
    s, below = np.append(s[order], np.inf), np.cumsum(w[order])
    total = below[-1] + own
    # The same slack as in `quantile`, relative: equal weights give the same rank.
    at = np.searchsorted(below, (1 - alpha) * total - 1e-9 * total, side="left")
    return s[at]


def _labels(
    pair: tuple[Any, Any] | None, n: int, rows: int, name: str, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as arrays [n], [m]; ones where nothing is said."""
    old, new = (np.ones(n), np.ones(rows)) if pair is None else map(np.asarray, pair)
    if old.shape != (n,) or new.shape != (rows,):
        raise DataError(
            f"a {name} for other rows",
            where=where,
            expected=f"({n},) and ({rows},)",
            found=f"{old.shape} and {new.shape}",
        )
    return old, new


def _check_weight(weight: np.ndarray, where: str) -> None:
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any() or not weight.any():
        raise DataError(
            "weights that are no likelihood ratios",
            where=where,
            expected="finite, >= 0, not all 0",
            found=f"{int(bad.sum())} others" if bad.any() else "all 0",
        )


def signed_scores(y: Any, mean: Any, scale: Any) -> np.ndarray:
    """(y - mean) / scale, [n]; NaN where y is."""
    mean = np.asarray(mean, np.float64)
    return (np.asarray(y, np.float64) - mean) / spread(scale, mean)


def spread(scale: Any, mean: np.ndarray) -> np.ndarray:
    """The scale as an array like `mean`, ones for None; DataError where it is not positive."""
    if scale is None:
        return np.ones_like(mean)
    scale = np.asarray(scale).astype(mean.dtype)
    if scale.shape != mean.shape:
        raise DataError(
            "a predicted spread has another shape than the prediction",
            where="scale",
            expected=mean.shape,
            found=scale.shape,
        )
    bad = np.isfinite(mean) & ~(scale > 0)
    if bad.any():
        raise DataError(
            "a predicted spread is not positive",
            where="scale",
            expected="> 0",
            found=f"{int(bad.sum())} of {bad.size}, the first {scale[bad][0]}",
        )
    return scale


def clip(x: np.ndarray, bounds: Bounds) -> np.ndarray:
    """x within the bounds; x itself for None."""
    return x if bounds is None else np.clip(x, *bounds)


def known(scores: Any) -> np.ndarray:
    """The scores that are not NaN, float64 [m]."""
    s = np.asarray(scores, np.float64).ravel()
    return s[~np.isnan(s)]
