"""Theil-Sen: the median of the slopes between all pairs, and its confidence interval.

Not robust regression at large: one line, no weights. Sen (1968), J. Am. Stat. Assoc. 63, 1379-1389;
the intercept is median(x) - slope * median(t), Conover (1980). In float64 the slope, the interval
and the intercept are those of `scipy.stats.theilslopes`, bit by bit but for the intercept.
"""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rsvlm_jax.config.errors import ConfigError
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

from .blocks import Numbers, checked, in_blocks
from .pairs import equals, median_of, middle, ranked_slopes, slope_measure
from .result import Code, Line

MIN_DATES = 4


class Ties(NamedTuple):
    """Of the observations of a group, [groups B] each.

    Attributes:
      n: how many there are;  pairs: int32, pairs of them that have a slope.
      x, t: sums over ties in values and in times;  both: the terms of the variance with both.
      constant: whether all values are the same.
    """

    n: Any
    pairs: Any
    x: Any
    t: Any
    both: Any
    constant: Any

    def sen(self) -> Any:
        """18 x the variance of the score as Sen's interval takes it, [B]."""
        return (_plain(self.n) - self.x - self.t).sum(0)

    def kendall(self) -> Any:
        """The variance of the score, [B]: Kendall (1975), with ties in values and in times."""
        return ((_plain(self.n) - self.x - self.t) / 18 + self.both).sum(0)


def _plain(n: Any) -> Any:
    return n * (n - 1) * (2 * n + 5)


def ties(x: Float[Array, "T groups B"], t: Float[Array, "T 1 Bt"]) -> Ties:
    """Counts the ties; those in times only where the block has any."""
    dtype = x.dtype
    there = x == x
    gx = equals(x).astype(dtype)
    n = there.sum(0).astype(dtype)

    def in_times(_: None) -> Any:
        gt = equals(jnp.where(there, t, jnp.asarray(jnp.nan, dtype))).astype(dtype)
        two = gx.sum(0) * gt.sum(0) / jnp.maximum(2 * n * (n - 1), 1)
        three = (gx * (gx - 1)).sum(0) * (gt * (gt - 1)).sum(0)
        three /= jnp.maximum(9 * n * (n - 1) * (n - 2), 1)
        return (gt * (2 * gt + 7)).sum(0), two + three, gt.sum(0) / 2

    def none(_: None) -> Any:
        return jnp.zeros_like(n), jnp.zeros_like(n), jnp.zeros_like(n)

    # A value that g others equal is in a group of g + 1: sums over groups become sums over values.
    tied, both, lost = lax.cond(jnp.any(equals(t) > 0), in_times, none, None)
    pairs = (n * (n - 1) / 2 - lost).astype(jnp.int32)
    constant = jnp.all(~there | (gx == n[None] - 1), axis=0)
    return Ties(n, pairs, (gx * (2 * gx + 7)).sum(0), tied, both, constant)


def code_of(n: Int[Array, " B"], counted: Ties, least: int) -> Int[Array, " B"]:
    """`Code` by what was counted, before anything is computed of it."""
    constant = jnp.all(counted.constant, axis=0)
    code = jnp.where(constant, int(Code.CONSTANT), int(Code.OK))
    code = jnp.where((n < least) | (counted.pairs.sum(0) == 0), int(Code.TOO_FEW), code)
    return jnp.where(n == 0, int(Code.ALL_MASKED), code).astype(jnp.int32)


def line(x: Any, t: Any, counted: Ties, alpha: float | None) -> tuple[Any, ...]:
    """Slope, its interval (NaN without alpha), and convergence of a block, [B] each."""
    count = counted.pairs.sum(0, dtype=jnp.int32)
    last = jnp.maximum(count - 1, 0)
    ranks, away = [last // 2], [0.0]
    if alpha is not None:
        quantile = NormalDist().inv_cdf(1 - alpha / 2)
        half = quantile * jnp.sqrt(counted.sen() / 18)
        pairs = count.astype(x.dtype)
        first = jnp.round((pairs - half) / 2).astype(jnp.int32) - 1
        final = jnp.round((pairs + half) / 2).astype(jnp.int32)
        ranks += [jnp.clip(k, 0, last) for k in (first, final)]
        away += [-quantile, quantile]
    found, done = ranked_slopes(x, t, count, jnp.stack(ranks), jnp.asarray(away, x.dtype))
    slope = median_of(slope_measure(x, t), count, found[0])
    unknown = jnp.full_like(slope, jnp.nan)
    low, high = (unknown, unknown) if alpha is None else (found[1], found[2])
    return slope, low, high, jnp.all(done, axis=0)


def check_options(alpha: float, least: int) -> None:
    """Raises `ConfigError` for a level outside (0, 1) or fewer than two dates."""
    if not 0 < alpha < 1:
        raise ConfigError("no level of significance", where="alpha", expected="0 < alpha < 1",
                          found=alpha)  # fmt: skip
    if least < 2:
        raise ConfigError("a slope of fewer than two dates", where="least", found=least)


def theil_sen(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    mask: Bool[Numbers, "pixels T"] | None = None,
    *,
    alpha: float = 0.05,
    least: int = MIN_DATES,
) -> Line:
    """The Theil-Sen line of every pixel.

    Args:
      values: [pixels, T], float32 or float64 (the latter under `jax.enable_x64`). NaN and infinite
        values do not count.
      times: dates as numbers, in any order, with gaps, the same twice; [T] or [pixels, T]. The
        slope is per unit of them. In float32 count from a date nearby.
      mask: True = counts; None = everything finite.
      alpha: the interval covers 1 - alpha.
      least: pixels with fewer observations get `Code.TOO_FEW`.

    Returns:
      `Line`; NaN with a code where there is no answer.

    Raises:
      DataError: shapes or types that do not fit. ConfigError: alpha, least.
    """
    check_options(alpha, least)
    x, times = checked(values, times, mask, "pixels T")
    return _theil_sen(x, times, alpha=alpha, least=least)


@functools.partial(jax.jit, static_argnames=("alpha", "least"))
def _theil_sen(x: Any, times: Any, *, alpha: float, least: int) -> Line:
    def body(x: Any, t: Any) -> Line:
        counted = ties(x, t)
        n = (x == x).sum((0, 1), dtype=jnp.int32)
        code = code_of(n, counted, least)
        slope, low, high, done = line(x, t, counted, alpha)
        code = jnp.where((code == 0) & ~done, int(Code.NOT_CONVERGED), code)
        slope, at_0, low, high = (
            jnp.where(code == 0, a, jnp.nan) for a in (slope, crossing(x, t, slope), low, high)
        )
        return Line(slope, at_0, low, high, n, code)

    return in_blocks(body, x[:, :, None], times)


def crossing(x: Float[Array, "T 1 B"], t: Float[Array, "T 1 Bt"], slope: Any) -> Any:
    """median(x) - slope * median(t), [B]: the line at time 0."""
    there = jnp.where(x == x, t, jnp.asarray(jnp.nan, x.dtype))
    return middle(x[:, 0]) - slope * middle(there[:, 0])
