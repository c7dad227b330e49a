"""Intervals from the errors that a model made on places it had not seen.

Not a model of the noise: whatever spread a model claims is only a unit of measure; how many of
these units a 90 % interval takes is read off its held-out errors.

    held-out y, mean, scale [n] -> score_i = |y_i - mean_i| / scale_i    (scale 1 where None)
    new mean, scale [...]       -> mean -+ quantile(scores) * scale, clipped to the bounds

Scores normalised by a spread are Lei et al. 2018, section 5.2. Which held-out errors calibrate
which rows is a matter of the protocol: `rsvlm_jax.evaluate.conformal` does it across folds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rsvlm_jax.config import DataError

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
