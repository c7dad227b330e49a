"""Mann-Kendall on single series: is there a monotonic trend, and how steep (Theil-Sen)?

    values [pixels T], times [T] or [pixels T], mask  ->  `Trend` of [pixels]

Not for several seasons or stations in one test: that is `grouped.py`. Mann (1945), Kendall (1975);
the corrected variants are described in `serial.py`. In float64 with `detrend="order"` every figure
is that of `pymannkendall` (Hussain and Mahmud, 2019).
"""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc

from rsvlm_jax.config.errors import ConfigError
from rsvlm_jax.core.shapes import Bool, Float

from . import serial
from .blocks import Numbers, checked, in_blocks
from .pairs import odd, score
from .result import Code, Trend
from .sen import MIN_DATES, check_options, code_of, crossing, line, ties

Method = Literal["original", "hamed_rao", "yue_wang", "pre_whitening", "trend_free"]
Detrend = Literal["dates", "order"]


def mann_kendall(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    mask: Bool[Numbers, "pixels T"] | None = None,
    *,
    method: Method = "original",
    alpha: float = 0.05,
    interval: bool = True,
    lags: int | None = None,
    detrend: Detrend = "dates",
    least: int = MIN_DATES,
) -> Trend:
    """The Mann-Kendall test and the Theil-Sen line of every pixel.

    Observations at one time are no pair: they have no order. The variants that correct for
    autocorrelation see their mean.

    Args:
      values: [pixels, T], float32 or float64 (the latter under `jax.enable_x64`). NaN and infinite
        values do not count.
      times: dates as numbers, in any order, with gaps; [T] or [pixels, T]. The slope is per unit of
        them. In float32 count from a date nearby.
      mask: True = counts; None = everything finite.
      method: see `serial.py`.
      alpha: of the interval of the slope, and of the bounds of Hamed-Rao's autocorrelations.
      interval: whether `slope_lo` and `slope_hi` are computed (two more selections). Where a
        variant corrects the variance of the score, the interval is as much wider or narrower on
        either side as the square root of that correction. The whitened variants correct no
        variance: theirs is that of independent errors (`experiments.bench trend_coverage`).
      lags: Hamed-Rao and Yue-Wang look at so many lags; None: at all, as `pymannkendall`, which is
        no good idea with Yue-Wang: see `python -m experiments.bench trend_statistics`.
      detrend: where a trend is removed (all but `original` and `pre_whitening`): at the `dates`; or
        as if the observations that count followed each other in steps of one unit of time
        (`order`), which is what `pymannkendall` does with gaps.
      least: pixels with fewer observations get `Code.TOO_FEW`.

    Returns:
      `Trend`; NaN with a code where there is no answer. `n` counts observations, also of whitened
      series (which have one less).

    Raises:
      DataError: shapes or types that do not fit. ConfigError: an option.
    """
    check_options(alpha, least)
    for name, value, allowed in (("method", method, Method), ("detrend", detrend, Detrend)):
        if value not in get_args(allowed):
            raise ConfigError(
                "unknown option", where=name, expected=" | ".join(get_args(allowed)), found=value
            )
    if lags is not None and (lags < 1 or method not in ("hamed_rao", "yue_wang")):
        raise ConfigError(
            "no such lags", where="lags", found=lags,
            expected="1 or more, and method hamed_rao or yue_wang",
        )  # fmt: skip
    x, times = checked(values, times, mask, "pixels T")
    return _mann_kendall(
        x, times, method=method, alpha=alpha, interval=interval, lags=lags, detrend=detrend,
        least=least,
    )  # fmt: skip


@functools.partial(
    jax.jit, static_argnames=("method", "alpha", "interval", "lags", "detrend", "least")
)
def _mann_kendall(
    x: Any, times: Any, *, method: str, alpha: float, interval: bool, lags: int | None,
    detrend: str, least: int,
) -> Trend:  # fmt: skip
    def body(x: Any, t: Any) -> Trend:
        counted = ties(x, t)
        n = (x == x).sum((0, 1), dtype=jnp.int32)
        code = code_of(n, counted, least)
        slope, low, high, done = line(x, t, counted, alpha if interval else None)
        code = jnp.where((code == 0) & ~done, int(Code.NOT_CONVERGED), code)
        s, var, m = score(x, t).astype(x.dtype), counted.kendall(), n.astype(x.dtype)
        if method != "original":
            s, var, m, factor = _corrected(x, t, s, var, slope, method, alpha, lags, detrend)
            if factor is not None:
                low, high = widened(slope, low, high, factor)
        tau = s / (m * (m - 1) / 2)
        result = finish(s, var, tau, True, slope, crossing(x, t, slope), low, high, n, code)
        return result.with_interval(interval)

    return in_blocks(body, x[:, :, None], times)


def _corrected(
    x: Any, t: Any, s: Any, var: Any, slope: Any, method: str, alpha: float, lags: int | None,
    detrend: str,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """Score, variance and length of the series after a variant of the test, and by how much it
    multiplied the variance (None: by nothing), [B] each."""
    n = (x == x).sum((0, 1)).astype(x.dtype)
    y, at = serial.at_one_time(*serial.in_order(x[:, 0], t[:, 0]))
    place = serial.places(y, at, detrend)
    if method in ("hamed_rao", "yue_wang"):
        free = y - serial.product(place, slope[None])
        if method == "hamed_rao":
            factor = serial.hamed_rao(free, alpha, lags)
        else:
            factor = serial.yue_wang(free, lags)
        # What is left where the sum is 0 but for its rounding is no variance.
        rounding = 1000 * jnp.finfo(x.dtype).eps
        factor = jnp.where(jnp.abs(factor) < rounding, 0, factor)
        return s, var * factor, n, factor
    if method == "pre_whitening":
        y = serial.whitened(y)
    else:
        y = serial.trend_free(y, place, slope, detrend)
    m = (y == y).sum(0).astype(x.dtype)
    y = odd(y[:, None])
    steps = jnp.arange(y.shape[0]).astype(y.dtype)[:, None, None]
    return score(y, steps).astype(x.dtype), ties(y, steps).kendall(), m, None


def widened(slope: Any, low: Any, high: Any, factor: Any) -> tuple[Any, Any]:
    """The interval of a slope whose variance is so many times as large, [B]; NaN where that is
    none."""
    root = jnp.sqrt(jnp.where(factor > 0, factor, jnp.nan))
    return slope + (low - slope) * root, slope + (high - slope) * root


def finish(
    s: Any, var: Any, tau: Any, continuity: bool, slope: Any, intercept: Any, low: Any, high: Any,
    n: Any, code: Any,
) -> Trend:  # fmt: skip
    """z and p by the score and its variance, and NaN where the code says that there is no answer.

    Args:
      continuity: whether the score is moved by one towards 0 first.
      The rest: [B], see `Trend`.
    """
    moved = s - jnp.sign(s) if continuity else s
    defined = (var > 0) & jnp.isfinite(var)
    z = jnp.where(defined, moved / jnp.sqrt(jnp.where(defined, var, 1)), jnp.nan)
    p = erfc(jnp.abs(z) / 2**0.5)
    code = jnp.where((code == 0) & ~defined, int(Code.UNDEFINED), code)
    some = (code == 0) | (code == int(Code.UNDEFINED))
    slope, intercept, low, high, tau, s, var = (
        jnp.where(some, a, jnp.nan) for a in (slope, intercept, low, high, tau, s, var)
    )
    p, z = (jnp.where(code == 0, a, jnp.nan) for a in (p, z))
    return Trend(slope, intercept, low, high, p, z, tau, s, var, n, code)
