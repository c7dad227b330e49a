"""Corrections of the Mann-Kendall test for series that remember: of one block, [T B].

Not tests themselves: `kendall.py` calls them. All see the observations one after the other, however
far apart in time: lag 1 is the next observation there is. Those at one time are one, their mean.

    hamed_rao        var(S) by the significant autocorrelations of the ranks   Hamed, Rao (1998)
    yue_wang         var(S) by all autocorrelations of the values              Yue, Wang (2004)
    pre_whitening    the test on x[k + 1] - r x[k]                             Yue, Wang (2002)
    trend_free       the same without its trend, which is put back             Yue et al. (2002)
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Array, Float

from .pairs import equals, smaller


def in_order(
    x: Float[Array, "T B"], t: Float[Array, "T Bt"]
) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
    """Observations by time, those at one time by value, without gaps; NaN behind the last."""
    t = jnp.broadcast_to(t, x.shape)
    missing = (x != x).astype(jnp.int32)
    _, t, x = lax.sort((missing, t, x), dimension=0, num_keys=3)
    return x, jnp.where(x == x, t, jnp.asarray(jnp.nan, x.dtype))


def at_one_time(
    x: Float[Array, "T B"], t: Float[Array, "T B"]
) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
    """The mean of those at one time, which have no order that a lag could count; from and as
    `in_order`. Costs nothing where there are none."""

    def averaged(_: None) -> tuple[Any, Any]:
        def step(state: tuple[Any, Any, Any], row: tuple[Any, Any]) -> tuple[Any, Any]:
            total, count, before = state
            value, when = row
            total = jnp.where(when == before, total, 0) + value
            count = jnp.where(when == before, count, 0) + 1
            return (total, count, when), total / count

        nothing = jnp.zeros_like(x[0])
        _, mean = lax.scan(step, (nothing, nothing, jnp.full_like(x[0], jnp.nan)), (x, t))
        later = jnp.concatenate([t[1:], jnp.full_like(t[:1], jnp.nan)])
        return in_order(jnp.where(t == later, jnp.asarray(jnp.nan, x.dtype), mean), t)

    return lax.cond(jnp.any(t[1:] == t[:-1]), averaged, lambda _: (x, t), None)


def product(a: Any, b: Any) -> Any:
    """a * b, rounded. A product that is subtracted at once may be rounded only once, in a fused
    multiply-add; the two observations that made the median slope are a tie once detrended, and
    would differ by another bit than in NumPy, and with it a rank. The choice stands between."""
    return jnp.where(b == b, a * b, b)


def places(x: Any, t: Any, detrend: str) -> Any:
    """Where the observations stand for the removal of the trend: see `mann_kendall`."""
    if detrend == "order":
        return jnp.broadcast_to(_counted(x), x.shape)
    return t - t[:1]


def _counted(x: Any) -> Any:
    """1, 2, ... T, [T 1]."""
    return jnp.arange(1, x.shape[0] + 1).astype(x.dtype)[:, None]


def autocorrelations(x: Float[Array, "T B"], lags: int | None = None) -> Float[Array, "T1 B"]:
    """r of lags 0 ... `lags` (None: all); sums over the pairs that there are, divided by n."""
    there = x == x
    n = there.sum(0).astype(x.dtype)
    mean = jnp.where(there, x, 0).sum(0) / n
    y = jnp.where(there, x - mean[None], 0)
    rows = x.shape[0]
    last = rows - 1 if lags is None else min(lags, rows - 1)
    padded = jnp.concatenate([y, jnp.zeros_like(y)])
    sums = lax.map(
        lambda d: (y * lax.dynamic_slice_in_dim(padded, d, rows)).sum(0), jnp.arange(last + 1)
    )
    covariance = sums / n[None]
    return covariance / covariance[:1]


def hamed_rao(detrended: Float[Array, "T B"], alpha: float, lags: int | None) -> Any:
    """The factor of var(S), [B], from autocorrelations of the ranks beyond the alpha bounds."""
    there = detrended == detrended
    n = there.sum(0, keepdims=True).astype(detrended.dtype)
    less, same = (f(detrended[:, None])[:, 0].astype(n.dtype) for f in (smaller, equals))
    ranks = jnp.where(there, less + 1 + same / 2, jnp.asarray(jnp.nan, n.dtype))
    r = autocorrelations(ranks, lags)[1:]
    bound = NormalDist().inv_cdf(1 - alpha / 2) / jnp.sqrt(n)
    i = _counted(r)
    weight = (n - i) * (n - i - 1) * (n - i - 2)
    beyond = (i < n) & (jnp.abs(r) > bound)
    factor = 2 / (n * (n - 1) * (n - 2))
    return 1 + factor[0] * jnp.where(beyond, weight * r, 0).sum(0)


def yue_wang(detrended: Float[Array, "T B"], lags: int | None) -> Any:
    """The factor of var(S), [B], from all autocorrelations of the values."""
    n = (detrended == detrended).sum(0, keepdims=True).astype(detrended.dtype)
    r = autocorrelations(detrended, lags)[1:]
    i = _counted(r)
    return 1 + 2 * jnp.where(i < n, (1 - i / n) * r, 0).sum(0)


def whitened(x: Float[Array, "T B"]) -> Float[Array, "T1 B"]:
    """x[k + 1] - r x[k] with the autocorrelation r of lag 1; NaN behind the last."""
    r = autocorrelations(x, 1)[1:]
    return x[1:] - product(x[:-1], r)


def trend_free(x: Float[Array, "T B"], at: Float[Array, "T B"], slope: Any, detrend: str) -> Any:
    """Whitened without the trend, and the trend put back: at the later of the two dates, or in
    steps, where that is no matter, as `pymannkendall` at the earlier."""
    free = whitened(x - product(at, slope[None]))
    return free + product(at[:-1] if detrend == "order" else at[1:], slope[None])
