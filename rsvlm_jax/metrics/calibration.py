"""How far intervals and predictive distributions can be trusted.

Scores of given intervals and distributions, not a way to make them: that is
`conformal`. All but `binomial_interval` return `(sum, weight)`; NaN targets are
ignored, as in `rsvlm_jax.metrics.regression`.

    y, lo, hi [...]           -> picp, width, interval_score
    y, mean, scale [...]      -> crps_gaussian
    y [...], samples [..., m] -> crps_empirical;  quantiles [..., q] -> pinball, crps_quantiles
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .sums import Pair, namespace, valid_weight


def picp(y: Any, lo: Any, hi: Any, weight: Any = None) -> Pair:
    """Prediction interval coverage probability: share of lo <= y <= hi."""
    xp = namespace(y)
    w, y, lo = valid_weight(y, lo, weight)
    inside = (lo <= y) & (y <= xp.where(w > 0, hi, 0))
    return xp.sum(xp.where(inside, w, 0)), xp.sum(w)


def width(lo: Any, hi: Any, weight: Any = None) -> Pair:
    """Mean width hi - lo."""
    xp = namespace(lo)
    w, lo, hi = valid_weight(lo, hi, weight)
    return xp.sum(w * (hi - lo)), xp.sum(w)


def interval_score(y: Any, lo: Any, hi: Any, alpha: float, weight: Any = None) -> Pair:
    """Width plus 2/alpha times the miss (Gneiting and Raftery 2007, eq. 43); lower is better."""
    xp = namespace(y)
    w, y, lo = valid_weight(y, lo, weight)
    hi = xp.where(w > 0, hi, 0)
    miss = xp.maximum(lo - y, 0) + xp.maximum(y - hi, 0)
    return xp.sum(w * (hi - lo + 2 / alpha * miss)), xp.sum(w)


def pinball(y: Any, quantiles: Any, levels: Sequence[float], weight: Any = None) -> Pair:
    """Mean pinball loss of quantiles [..., q] at `levels` [q], averaged over the levels."""
    xp = namespace(y)
    w, y, _ = valid_weight(y, y, weight)
    q = xp.where(w[..., None] > 0, quantiles, 0)
    tau = xp.reshape(xp.asarray(levels, dtype=y.dtype), (1,) * y.ndim + (-1,))
    u = y[..., None] - q
    loss = xp.mean(xp.maximum(tau * u, (tau - 1) * u), axis=-1)
    return xp.sum(w * loss), xp.sum(w)


def crps_quantiles(y: Any, quantiles: Any, levels: Sequence[float], weight: Any = None) -> Pair:
    """CRPS as twice the mean pinball loss over evenly spaced levels (i - 1/2) / q, i = 1 .. q.

    With other levels the mean is no quadrature of the integral: ValueError.
    """
    even = (np.arange(len(levels)) + 0.5) / len(levels)
    if not np.allclose(levels, even, atol=1e-6):
        raise ValueError(f"levels must be (i - 1/2) / q, i = 1 .. q; found {list(levels)}")
    total, w = pinball(y, quantiles, levels, weight)
    return 2 * total, w


def crps_gaussian(y: Any, mean: Any, scale: Any, weight: Any = None) -> Pair:
    """CRPS of N(mean, scale^2) in closed form (Gneiting et al. 2005, eq. 5).

    A scale of 0 is a point mass, whose CRPS is the absolute error.
    """
    xp = namespace(y)
    w, y, mean = valid_weight(y, mean, weight)
    scale = xp.where(w > 0, scale, 0)
    spread = scale > 0
    s = xp.where(spread, scale, 1)
    z = (y - mean) / s
    pdf = xp.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    value = s * (z * (2 * _normal_cdf(xp, z) - 1) + 2 * pdf - 1 / math.sqrt(math.pi))
    return xp.sum(w * xp.where(spread, value, xp.abs(y - mean))), xp.sum(w)


def crps_empirical(y: Any, samples: Any, weight: Any = None) -> Pair:
    """CRPS of the empirical distribution of samples [..., m]: E|X - y| - E|X - X'| / 2.

    Exact for that step function (Jordan et al. 2019, eq. 3), not the "fair" ensemble version.
    """
    xp = namespace(y)
    w, y, _ = valid_weight(y, y, weight)
    x = xp.sort(xp.where(w[..., None] > 0, samples, 0), axis=-1)
    m = x.shape[-1]
    rank = xp.arange(1, m + 1, dtype=y.dtype)
    spread = xp.sum(x * xp.reshape((2 * rank - m - 1) / m / m, (1,) * y.ndim + (-1,)), axis=-1)
    value = xp.mean(xp.abs(x - y[..., None]), axis=-1) - spread
    return xp.sum(w * value), xp.sum(w)


def binomial_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson ("exact") interval of a share k / n; (NaN, NaN) for n = 0.

    It takes the n trials as independent. Neighbouring windows are not, so the true uncertainty of
    a coverage is larger than this interval says.
    """
    from scipy.stats import binomtest

    if n == 0:
        return math.nan, math.nan
    found = binomtest(int(k), int(n)).proportion_ci(confidence_level=level, method="exact")
    return float(found.low), float(found.high)


def _normal_cdf(xp: Any, z: Any) -> Any:
    if xp is np:
        from scipy.special import ndtr
    else:
        from jax.scipy.special import ndtr
    return ndtr(z)
