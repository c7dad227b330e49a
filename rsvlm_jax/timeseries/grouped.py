"""Mann-Kendall on several series of a pixel at once: seasons, stations, variables.

    values [pixels cycles groups]: years x months, dates x stations  ->  `Trend` of [pixels]

One test for all groups: pairs are of one group, so the cycle of the year is no trend. The variants
of the literature are two computations:

    seasonal, regional, multivariate    groups independent: scores and variances add up
                                        Hirsch et al. (1982), Helsel and Frans (2006)
    correlated seasonal, multivariate   with the covariance of the scores, over cycles in which all
                                        groups have a value; Hirsch and Slack (1984)

In float64 every figure is that of `pymannkendall`. `fold` makes the shape of a regular series.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from rsvlm_jax.config.errors import ConfigError
from rsvlm_jax.core.shapes import Array, Bool, Float

from .blocks import Numbers, checked, in_blocks
from .kendall import finish
from .pairs import equals, middle, score, smaller, turns
from .result import Code, Trend
from .sen import MIN_DATES, check_options, code_of, line, ties


def fold(values: Float[Numbers, "pixels T"], period: int) -> Float[Numbers, "pixels cycles groups"]:
    """A series of equal steps as cycles x seasons, the last cycle filled up with NaN.

    Raises:
      ConfigError: a period below 1.
    """
    if period < 1:
        raise ConfigError("no period", where="period", expected="1 or more", found=period)
    pixels, length = values.shape
    more = -length % period
    full = jnp.pad(jnp.asarray(values), ((0, 0), (0, more)), constant_values=jnp.nan)
    return full.reshape(pixels, -1, period)


def mann_kendall_grouped(
    values: Float[Numbers, "pixels cycles groups"],
    times: Float[Numbers, " cycles"] | Float[Numbers, "pixels cycles"] | None = None,
    mask: Bool[Numbers, "pixels cycles groups"] | None = None,
    *,
    correlated: bool = False,
    alpha: float = 0.05,
    interval: bool = True,
    after: float | tuple[float, ...] | None = None,
    least: int = MIN_DATES,
) -> Trend:
    """The seasonal, regional or multivariate test and the seasonal Sen slope of every pixel.

    Args:
      values: [pixels, cycles, groups], float32 or float64. NaN and infinite values do not count.
      times: of the cycles, in any order, [cycles] or [pixels, cycles]; None: 0, 1, ... The slope,
        of pairs of one group, is per unit of them.
      mask: True = counts; None = everything finite.
      correlated: see the module. The slope is of all values either way.
      alpha: of the interval of the slope, which is that of independent groups either way.
      interval: whether `slope_lo` and `slope_hi` are computed.
      after: how long after the time of their cycle the groups stand, each or all, in units of the
        times; None: one after the other, g / G of G. The intercept is of these times.
      least: pixels with fewer observations (`correlated`: complete cycles) get `Code.TOO_FEW`.
        Leave out groups that are never seen: with them no cycle is complete.

    Returns:
      `Trend`; NaN with a code where there is no answer. `n` counts the values (`correlated`: the
      complete cycles).

    Raises:
      DataError: shapes or types that do not fit. ConfigError: alpha, least, after.
    """
    check_options(alpha, least)
    if isinstance(after, tuple) and len(after) != values.shape[-1]:
        raise ConfigError(
            "no place for every group", where="after", expected=values.shape[-1], found=len(after)
        )
    if times is None:
        times = jnp.arange(values.shape[1]).astype(values.dtype)
    x, times = checked(values, times, mask, "pixels cycles groups")
    return _grouped(
        x, times, correlated=correlated, alpha=alpha, interval=interval, after=after, least=least
    )


@functools.partial(jax.jit, static_argnames=("correlated", "alpha", "interval", "after", "least"))
def _grouped(
    x: Any, times: Any, *, correlated: bool, alpha: float, interval: bool,
    after: float | tuple[float, ...] | None, least: int,
) -> Trend:  # fmt: skip
    def body(x: Any, t: Any) -> Trend:
        dtype = x.dtype
        counted = ties(x, t)
        slope, low, high, done = line(x, t, counted, alpha if interval else None)
        if correlated:
            whole = jnp.all(x == x, axis=1, keepdims=True)
            part = jnp.where(whole, x, jnp.asarray(jnp.nan, dtype))
            s, var, n, all_pairs = _with_covariance(part, t)
        else:
            s, var = score(x, t).astype(dtype), counted.kendall()
            n = (x == x).sum((0, 1), dtype=jnp.int32)
            all_pairs = (counted.n * (counted.n - 1) / 2).sum(0)
        code = code_of(n, counted, least)
        seen = (x == x).any((0, 1))  # in no complete cycle, but seen
        code = jnp.where(seen & (n == 0), int(Code.TOO_FEW), code)
        code = jnp.where((code == 0) & ~done, int(Code.NOT_CONVERGED), code)
        intercept = _crossing(x, t, slope, after)
        result = finish(s, var, s / all_pairs, not correlated, slope, intercept, low, high, n, code)
        return result.with_interval(interval)

    return in_blocks(body, x, times)


def _with_covariance(x: Float[Array, "cycles groups B"], t: Any) -> tuple[Any, Any, Any, Any]:
    """Score, its variance, complete cycles, and pairs of all groups, [B] each; of x whose other
    cycles are NaN.

    The variance is the sum of the covariances of all pairs of groups g, h, (K_gh + 4 sum_i R_gi
    R_hi - n (n + 1)^2) / 3 (Dietz and Killeen, 1981). K_gh is a sum of products of signs and R a
    rank, so the sums over g and h are squares of sums over groups: no matrix of groups.
    """
    dtype = x.dtype
    whole = x[:, :1] == x[:, :1]
    count = whole.sum((0, 1), dtype=jnp.int32)
    n, groups = count.astype(dtype), x.shape[1]

    def body(squares: Any, later: Any) -> Any:
        sign = ((later > x).astype(jnp.int32) - (later < x).astype(jnp.int32)).sum(
            1, dtype=jnp.int32
        )
        return squares + sign * sign

    start = jnp.zeros((x.shape[0], x.shape[2]), jnp.int32)
    products = turns((x,), x.shape[0] // 2, body, start).sum(0).astype(dtype)
    # The mean of the ranks is (n + 1) / 2: without it nothing large is subtracted.
    less, same = smaller(x), equals(x)
    over = (2 * less + same).astype(dtype) - (n - 1)[None, None]
    over = jnp.where(whole, over, 0).sum(1)  # twice the ranks beyond their mean, over groups
    var = (products + (over * over).sum(0)) / 3
    # 4 sum R R' = 4 sum (R - m)(R' - m) + n (n + 1)^2 with m = (n + 1) / 2.
    return score(x, t).astype(dtype), var, count, groups * n * (n - 1) / 2


def _crossing(
    x: Float[Array, "cycles groups B"], t: Float[Array, "cycles 1 Bt"], slope: Any, after: Any
) -> Any:
    """median(x) - slope * median of the times of all values, [B]."""
    groups, width = x.shape[1], x.shape[2]
    unit = groups if after is None else 1
    stands = jnp.arange(groups) if after is None else jnp.broadcast_to(jnp.asarray(after), groups)
    place = t * unit + stands.astype(x.dtype)[None, :, None]
    place = jnp.where(x == x, place, jnp.asarray(jnp.nan, x.dtype))
    when = middle(place.reshape(-1, width)) / unit
    return middle(x.reshape(-1, width)) - when * slope
