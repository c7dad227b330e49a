"""Values at later dates, with prediction intervals: a harmonic fit, or the last cycle again.

    values [pixels T], times, mask, at [A]  ->  `Forecast` of [pixels A]

Not learned models; these are what they have to beat. Each interval is meant for one new observation
and holds under its own assumption:

    harmonic         the model is right, and errors are independent and normal: Student's t with the
                     error of the coefficients. Errors that remember make it too narrow
    seasonal_naive   differences between cycles will be as they were: their quantiles, by how many
                     cycles lie between, so that a random walk widens it and noise does not
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from rsvlm_jax.config.errors import DataError
from rsvlm_jax.core.shapes import Array, Float, Int

from .blocks import Numbers, checked
from .harmonic import harmonic_fit
from .result import Code
from .rows import in_rows
from .sen import MIN_DATES, check_options
from .steps import steps_of

WIDTH = 512
"""Pixels of a block."""


class Forecast(NamedTuple):
    """What is expected; NaN with a code where there is no answer.

    Attributes:
      value, lo, hi: [pixels, A]; a new observation lies between with probability 1 - alpha.
      n, code: int32 [pixels].
    """

    value: Float[Array, "pixels A"]
    lo: Float[Array, "pixels A"]
    hi: Float[Array, "pixels A"]
    n: Int[Array, " pixels"]
    code: Int[Array, " pixels"]


def harmonic_forecast(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    at: Float[np.ndarray, " A"],
    mask: Any = None,
    *,
    harmonics: int = 2,
    trend: bool = True,
    alpha: float = 0.05,
    least: int | None = None,
) -> Forecast:
    """The least-squares line and waves of a year, continued.

    Args:
      values: [pixels, T], float32 or float64 (the latter under `jax.enable_x64`). NaN and infinite
        values do not count.
      times: decimal years (`decimal_years`), in any order, with gaps; [T] or [pixels, T].
      at: decimal years, later or not; on the host.
      mask: True = counts; None = everything finite.
      harmonics, trend, least: as in `harmonic_fit`.
      alpha: the interval covers 1 - alpha.

    Raises:
      DataError: shapes or types that do not fit. ConfigError: an option.
    """
    check_options(alpha, MIN_DATES)
    _check_at(at)
    known = np.asarray(times)
    # Near the forecast, so that nothing large cancels in the error of the line.
    origin = float(np.floor(np.max(known, initial=at.min(), where=np.isfinite(known))))
    fit = harmonic_fit(
        values, times, mask, harmonics=harmonics, trend=trend, origin=origin, covariance=True,
        least=least,
    )  # fmt: skip
    fitted = 1 + trend + 2 * harmonics
    freedom = np.arange(1, max(values.shape[1] - fitted, 1) + 1)
    quantile = jnp.asarray(stdtrit(freedom, 1 - alpha / 2), fit.rmse.dtype)
    value = fit.predict(at)
    half = _half(fit.regressors(at), fit.covariance, fit.rmse, fit.n - fitted, quantile)
    return Forecast(value, value - half, value + half, fit.n, fit.code)


@jax.jit
def _half(x: Any, covariance: Any, rmse: Any, freedom: Any, quantile: Any) -> Any:
    """Half the prediction interval, [pixels, A]; x [1 A p]."""
    error = jnp.einsum("ap,npq,aq->na", x[0], covariance, x[0], precision="highest")
    t = quantile[jnp.clip(freedom - 1, 0, quantile.shape[0] - 1)]
    return t[:, None] * jnp.sqrt(rmse[:, None] ** 2 + jnp.maximum(error, 0))


def seasonal_naive_forecast(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    at: Float[np.ndarray, " A"],
    mask: Any = None,
    *,
    period: int = 12,
    cycle: float = 1.0,
    alpha: float = 0.05,
    grid: tuple[float, int] | None = None,
    least: int = MIN_DATES,
) -> Forecast:
    """The last value of the same season.

    Observations of one step of a cycle are averaged. The interval is of the differences between
    values of one season, as many cycles apart as the forecast is from the value that it repeats,
    over all seasons; NaN where there are fewer than 2 / alpha - 1 of them, which bound nothing at
    that level.

    Args:
      values, times, mask: see `harmonic_forecast`; times and `at` in any unit, on the host.
      at: later than all times.
      period: steps of a cycle;  cycle: its length in units of the times.
      alpha: the interval covers 1 - alpha.
      grid: first time and number of steps of what is known; None: from the first of the times to
        the last. A time is of the step nearest to it.
      least: pixels with fewer observations get `Code.TOO_FEW`. A season that was never seen is NaN.

    Raises:
      DataError: shapes or types that do not fit; fewer than two cycles; a forecast of the past.
      ConfigError: an option.
    """
    check_options(alpha, least)
    _check_at(at)
    x, _ = checked(values, times, mask, "pixels T")
    steps = steps_of(times, period, cycle, grid)
    known = np.asarray(times, np.float64)
    first, last = np.nanmin(known) if grid is None else grid[0], np.nanmax(known)
    if (at <= last).any():
        raise DataError("a forecast of the past", where="at", expected=f"after {last:.6g}",
                        found=f"{at.min():.6g}")  # fmt: skip
    place = np.where(np.isfinite(steps.place), np.rint(steps.place), 0).astype(np.int32)
    target = np.rint((at.astype(np.float64) - first) / (cycle / period))
    target = jnp.asarray(target.astype(np.int32))
    cycles = -(-steps.count // period)
    return _naive(
        x, jnp.asarray(np.atleast_2d(place)), target, own=place.ndim == 2, cycles=cycles,
        period=period, alpha=alpha, least=least,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("own", "cycles", "period", "alpha", "least"))
def _naive(
    x: Any, place: Any, target: Any, *, own: bool, cycles: int, period: int, alpha: float,
    least: int,
) -> Forecast:  # fmt: skip
    season, to = target % period, target // period

    def body(x: Any, place: Any = place) -> Forecast:
        place = jnp.broadcast_to(place, x.shape)
        there = x == x
        row = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
        shape = (x.shape[0], cycles * period)
        count = jnp.zeros(shape, x.dtype).at[row, place].add(there.astype(x.dtype))
        total = jnp.zeros(shape, x.dtype).at[row, place].add(jnp.where(there, x, 0))
        grid = jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
        grid = grid.reshape(-1, cycles, period)
        seen = grid[:, :, season]
        cycle = jnp.arange(cycles, dtype=jnp.int32)
        before = (seen == seen) & (cycle[:, None] < to[None])[None]
        from_ = (cycles - 1) - jnp.argmax(before[:, ::-1], 1).astype(jnp.int32)
        value = jnp.take_along_axis(seen, from_[:, None], 1)[:, 0]
        value = jnp.where(before.any(1), value, jnp.nan)
        # What is further apart than any two cycles were has no interval.
        apart = to[None] - from_
        i = jnp.clip(apart - 1, 0, cycles - 1)
        low, high = _differences(grid, alpha, jnp.where(before.any(1), i + 1, 0).max())
        low, high = (
            jnp.where(apart <= cycles - 1, jnp.take_along_axis(a, i, 1), jnp.nan)
            for a in (low, high)
        )
        n = there.sum(1, dtype=jnp.int32)
        inf = jnp.inf
        constant = jnp.where(there, x, -inf).max(1) == jnp.where(there, x, inf).min(1)
        code = jnp.where(constant, int(Code.CONSTANT), int(Code.OK))
        code = jnp.where(n < least, int(Code.TOO_FEW), code)
        code = jnp.where(n == 0, int(Code.ALL_MASKED), code).astype(jnp.int32)
        value = jnp.where((code == 0)[:, None], value, jnp.nan)
        return Forecast(value, value + low, value + high, n, code)

    return in_rows(body, (x, place) if own else (x,), WIDTH)


def _differences(grid: Any, alpha: float, most: Any) -> tuple[Any, Any]:
    """Quantiles of the differences of cycles 1, 2 ... `most` apart, [B cycles] each; grid [B C P].

    Sorting is what takes long, and few forecasts look further back than a cycle or two.
    """
    batch, cycles, _ = grid.shape
    later = jnp.pad(grid, ((0, 0), (0, cycles), (0, 0)), constant_values=jnp.nan)
    inf = jnp.asarray(jnp.inf, grid.dtype)

    def apart(k: Any, found: tuple[Any, Any]) -> tuple[Any, Any]:
        off = jax.lax.dynamic_slice_in_dim(later, k, cycles, 1) - grid
        row = jnp.sort(jnp.where(off == off, off, inf).reshape(batch, -1), 1)
        n = (off == off).sum((1, 2), dtype=jnp.int32)
        size = n.astype(grid.dtype)

        def quantile(q: float) -> Any:
            # Of n + 1 gaps between n numbers, each is as likely to hold the next one.
            at = jnp.clip((size + 1) * q - 1, 0, jnp.maximum(size - 1, 0))
            low = jnp.floor(at)
            i = low.astype(jnp.int32)[:, None]
            j = jnp.minimum(i + 1, jnp.maximum(n - 1, 0)[:, None])
            a, b = (jnp.take_along_axis(row, rank, 1)[:, 0] for rank in (i, j))
            return jnp.where(size + 1 >= 2 / alpha, a + (at - low) * (b - a), jnp.nan)

        low, high = (
            jax.lax.dynamic_update_index_in_dim(known, quantile(q), k - 1, 1)
            for known, q in zip(found, (alpha / 2, 1 - alpha / 2), strict=True)
        )
        return low, high

    none = jnp.full((batch, cycles), jnp.nan, grid.dtype)
    return jax.lax.fori_loop(1, most + 1, apart, (none, none))


def _check_at(at: Any) -> None:
    """Raises `DataError` for what is no row of finite times."""
    if at.ndim != 1 or at.size == 0 or not np.isfinite(at).all():
        raise DataError("no times to forecast", where="at", expected="[A], finite, on the host",
                        found=f"shape {at.shape}")  # fmt: skip
