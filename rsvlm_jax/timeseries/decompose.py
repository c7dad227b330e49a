"""Trend, seasonal cycle and remainder of every pixel, by local lines: STL, with gaps.

    values [pixels T], times, mask  ->  `Parts` of [pixels T]:  value = trend + seasonal + remainder

Cleveland et al. (1990), J. Off. Stat. 6, 3-73. Not a model with parameters: for a forecast take
`forecast.py`. On a series of equal steps without gaps the parts are those of
`statsmodels.tsa.seasonal.STL` to 1e-9 in float64.

Gaps: local lines go through the nearest observations that there are, as in Hafen (2010, `stlplus`);
nothing is filled in. Irregular dates: trend and cycle live on a grid of `period` steps a cycle.
Between grid steps both are straight lines; an observation off its step is moved there along the
cycle as the iteration before had it, which changes nothing for observations on the grid.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config.errors import ConfigError
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

from .blocks import Numbers, checked
from .loess import Near, near
from .pairs import middle
from .result import Code
from .rows import in_rows
from .sen import MIN_DATES
from .steps import steps_of

PLAIN, ROBUST = (5, 1), (2, 16)
"""Iterations within, and rounds of weights, as in statsmodels."""

NUMBERS = 2**20
"""Numbers of a block's largest array, about: 4 MB of float32."""


class Parts(NamedTuple):
    """The parts of every series; NaN with a code where there is no answer.

    Attributes:
      trend, seasonal: [pixels, T], at the times, also those that are masked.
      remainder: [pixels, T], NaN where there is no value.
      weight: [pixels, T], of the observations in the last round; 1 without `robust`, 0 where there
        is no value.
      n, code: int32 [pixels].
    """

    trend: Float[Array, "pixels T"]
    seasonal: Float[Array, "pixels T"]
    remainder: Float[Array, "pixels T"]
    weight: Float[Array, "pixels T"]
    n: Int[Array, " pixels"]
    code: Int[Array, " pixels"]


def decompose(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    mask: Bool[Numbers, "pixels T"] | None = None,
    *,
    period: int = 12,
    cycle: float = 1.0,
    seasonal: int = 7,
    trend: int | None = None,
    robust: bool = False,
    grid: tuple[float, int] | None = None,
    least: int = MIN_DATES,
) -> Parts:
    """STL of every pixel.

    Args:
      values: [pixels, T], float32 or float64 (the latter under `jax.enable_x64`). NaN and infinite
        values do not count.
      times: dates as numbers, in any order, [T] or [pixels, T]; arrays that can be looked at, no
        tracers. NaN = padding, which gets NaN.
      mask: True = counts; None = everything finite.
      period: steps of a cycle: 12 for months, 23 for composites of 16 days.
      cycle: length of a cycle in units of the times: 1.0 for decimal years.
      seasonal: observations of a season in reach of a local line; odd, 3 or more (7 or more is
        advised).
      trend: observations in reach of the trend; odd; None: the next odd number from
        1.5 cycles / (1 - 1.5 / seasonal).
      robust: 15 more rounds, in which outliers lose their weight.
      grid: its first time and number of steps; None: from the first of the times to the last.
      least: pixels with fewer observations, or with a season that was never seen, get
        `Code.TOO_FEW`.

    Raises:
      DataError: shapes or types that do not fit; fewer than two cycles; times outside of the grid.
      ConfigError: an option.
    """
    if trend is None:
        trend = math.ceil(1.5 * period / (1 - 1.5 / max(seasonal, 3))) // 2 * 2 + 1
    for name, odd, over in (("seasonal", seasonal, 2), ("trend", trend, period)):
        if odd % 2 == 0 or odd <= over:
            raise ConfigError(
                "no reach of a local line", where=name, expected=f"odd, more than {over}",
                found=odd,
            )  # fmt: skip
    x, _ = checked(values, times, mask, "pixels T")
    steps = steps_of(times, period, cycle, grid)
    place = jnp.asarray(np.atleast_2d(steps.place), x.dtype)
    slots = jnp.asarray(steps.slots().reshape(len(place), period, -1))
    own = times.ndim == 2
    if not own:
        slots = slots[:1]
    return _decompose(
        x, place, slots, jnp.arange(steps.count).astype(x.dtype), own=own, period=period,
        seasonal=seasonal, trend=trend, robust=robust, least=least,
    )  # fmt: skip


@functools.partial(
    jax.jit, static_argnames=("own", "period", "seasonal", "trend", "robust", "least")
)
def _decompose(
    x: Any, place: Any, slots: Any, steps: Any, *, own: bool, period: int, seasonal: int,
    trend: int, robust: bool, least: int,
) -> Parts:  # fmt: skip
    low_pass = _low_pass(steps, period)

    def body(x: Any, place: Any = place, slots: Any = slots) -> Parts:
        smoother = _Smoother(x, place, slots, steps, low_pass, period, seasonal, trend)
        return smoother.parts(*(ROBUST if robust else PLAIN), least)

    width = NUMBERS // (x.shape[1] * steps.shape[0] + 1)
    return in_rows(body, (x, place, slots) if own else (x,), width)


class _Smoother:
    """One block of pixels: x [B T] with NaN, place [B T] or [1 T], slots [B P M] or [1 P M]."""

    def __init__(
        self, x: Any, place: Any, slots: Any, steps: Any, low_pass: Any, period: int,
        seasonal: int, trend: int,
    ) -> None:  # fmt: skip
        self.x, self.steps, self.low_pass, self.period = x, steps, low_pass, period
        self.there = x == x
        self.y = jnp.where(self.there, x, 0)
        self.dated = jnp.broadcast_to(place == place, x.shape)
        self.place = jnp.where(self.dated, place, 0)
        self.slots = jnp.broadcast_to(slots, (x.shape[0], *slots.shape[1:]))
        self.trend_near = near(steps[None], self.place, self.there, trend)
        # Seasons in cycles: one before the first to one behind the last.
        seen = self.of_seasons(self.there.astype(x.dtype)) > 0
        cycles = -(-steps.shape[0] // period)
        season = jnp.arange(period).astype(x.dtype)[None, :, None]
        at = jnp.arange(-1, cycles + 1).astype(x.dtype)[None, None]
        place = self.of_seasons(self.place)
        at = jnp.broadcast_to(at, (1, period, cycles + 2))
        self.season_near: Near = near(at, (place - season) / period, seen, seasonal)
        self.all_seen = seen.any(-1).all(-1)

    def of_seasons(self, a: Any) -> Any:
        """[B T] -> [B P M], 0 where there is none."""
        flat = jnp.maximum(self.slots, 0).reshape(a.shape[0], -1)
        found = jnp.take_along_axis(a, flat, 1).reshape(self.slots.shape)
        return jnp.where(self.slots >= 0, found, 0)

    def between(self, a: Any) -> Any:
        """[B N] of the grid at the observations, [B T]."""
        low = jnp.clip(jnp.floor(self.place), 0, self.steps.shape[0] - 2)
        i = low.astype(jnp.int32)
        share = self.place - low
        return (1 - share) * jnp.take_along_axis(a, i, 1) + share * jnp.take_along_axis(a, i + 1, 1)

    def off(self, cycle: Any) -> Any:
        """What the cycle differs between an observation and its step, [B T]."""
        i = jnp.round(self.place).astype(jnp.int32)
        return self.between(cycle) - jnp.take_along_axis(cycle, i, 1)

    def inner(self, _: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """One pass: the cycle, then the trend, both [B N]; r [B T] are weights."""
        trend, cycle, r = state
        free = self.y - self.between(trend) - self.off(cycle)
        smooth = self.season_near.smooth(self.of_seasons(free), self.of_seasons(r))
        count = self.steps.shape[0]
        rough = smooth.swapaxes(1, 2).reshape(smooth.shape[0], -1)[:, : count + 2 * self.period]
        moved = rough
        for length in (self.period, self.period, 3):
            moved = _moving(moved, length)
        slow = jnp.einsum("nm,bm->bn", self.low_pass, moved)
        cycle = rough[:, self.period : self.period + count] - slow
        trend = self.trend_near.smooth(self.y - self.between(cycle), r)
        return trend, cycle, r

    def parts(self, within: int, rounds: int, least: int) -> Parts:
        one = self.there.astype(self.x.dtype)
        zero = jnp.zeros((self.x.shape[0], self.steps.shape[0]), self.x.dtype)

        def outer(k: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            trend, cycle, r = state
            r = jnp.where(k > 0, self.weights(trend, cycle), one)
            return jax.lax.fori_loop(0, within, self.inner, (trend, cycle, r))

        trend, cycle, r = jax.lax.fori_loop(0, rounds, outer, (zero, zero, one))
        n = self.there.sum(1, dtype=jnp.int32)
        first = jnp.take_along_axis(self.y, jnp.argmax(self.there, 1)[:, None], 1)
        constant = jnp.all(~self.there | (self.y == first), 1)
        code = jnp.where(constant, int(Code.CONSTANT), int(Code.OK))
        code = jnp.where((n < least) | ~self.all_seen, int(Code.TOO_FEW), code)
        code = jnp.where(n == 0, int(Code.ALL_MASKED), code).astype(jnp.int32)
        answered = (code == 0)[:, None]
        trend, cycle, r = (
            jnp.where(answered & self.dated, a, jnp.nan)
            for a in (self.between(trend), self.between(cycle), r)
        )
        return Parts(trend, cycle, self.x - trend - cycle, r, n, code)

    def weights(self, trend: Any, cycle: Any) -> Any:
        """Bisquare in six times the median of the absolute remainders, [B T]."""
        off = jnp.abs(self.y - self.between(trend) - self.between(cycle))
        far = 6 * middle(jnp.where(self.there, off, jnp.nan).T)[:, None]
        share = off / jnp.where(far > 0, far, 1)
        r = jnp.where(share <= 0.001, 1, (1 - share * share) ** 2)
        r = jnp.where(share <= 0.999, r, 0)
        return jnp.where(self.there, jnp.where(far > 0, r, 1), 0)


def _moving(a: Any, length: int) -> Any:
    """Means of so many steps that follow each other, [B, N - length + 1]."""
    count = a.shape[1] - length + 1
    return sum(a[:, k : k + count] for k in range(length)) / length


def _low_pass(steps: Float[Array, " N"], period: int) -> Float[Array, "N N"]:
    """The local lines through a grid without gaps, as a matrix."""
    reach = period + 1 + period % 2
    every = near(steps[None], steps[None], jnp.ones((1, steps.shape[0]), bool), reach)
    unit = jnp.eye(steps.shape[0], dtype=steps.dtype)
    one = jnp.ones_like(unit[:1])
    return jax.lax.map(lambda y: every.smooth(y[None], one)[0], unit).T
