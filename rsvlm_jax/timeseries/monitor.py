"""BFAST-monitor: does what comes after a date still follow the season and trend from before it?

    values [pixels T], times [T] or [pixels T] (decimal years), since  ->  `Monitored` of [pixels]

A harmonic model of the history by least squares, and moving sums of the residuals (MOSUM) behind
it, against a boundary that white noise crosses with a known chance. Not several bands, not several
breaks (`breaks.py`). Verbesselt, Zeileis and Herold (2012), Remote Sens. Environ. 123, 98-108;
critical values for ten times the history as simulated by Zeileis et al. (2005), J. Appl. Econom.
20, 99-121; the stable part of the history by the recursive CUSUM of Brown, Durbin and Evans (1975)
in reversed order (ROC; Pesaran and Timmermann, 2002).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from rsvlm_jax.config.errors import ConfigError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Bool, Float

from .blocks import Numbers, checked, in_blocks
from .estimators import least_squares
from .harmonic import BLOCK, check_model, code_of, extent
from .pairs import middle
from .regressors import columns, gram, inverse, moment, nearby, product, times_vector
from .result import Code
from .sen import MIN_DATES

History = Literal["all", "roc"]

ALPHAS = (0.05, 0.04, 0.03, 0.025, 0.02, 0.01, 0.005, 0.002, 0.001)

CRITICAL = {
    0.25: (
        1.341825,
        1.368863,
        1.403188,
        1.423819,
        1.448236,
        1.521645,
        1.597971,
        1.685943,
        1.745509,
    ),
    0.5: (1.902003, 1.949207, 2.006985, 2.044388, 2.08287, 2.209073, 2.325522, 2.465797, 2.570255),
    1.0: (2.745928, 2.82427, 2.92234, 2.980014, 3.049289, 3.276932, 3.474227, 3.736979, 3.941029),
}
"""By the window as a share of the history: of the largest moving sum, for `ALPHAS`."""

SHORTEST = 0.5
"""Years of history at least, where its stable part is looked for."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Monitored:
    """One value a pixel, [pixels] each; NaN with a code where there is none.

    Attributes:
      date: decimal year of the observation at which the boundary is crossed; NaN where it is not.
      process: the moving sum there, or the last one; in standard deviations of all the history.
      boundary: what it must reach.
      magnitude: the median of what was observed since, less what the history foretells.
      sigma: of the residuals of the history.
      start: decimal year of the first observation of the (stable) history.
      history: int32, observations of it;  n: int32, observations since.
      code: int32, a `Code`; `TOO_FEW`: of the history, or none since; `UNDEFINED`: its dates do not
        tell the coefficients apart.
    """

    date: Any
    process: Any
    boundary: Any
    magnitude: Any
    sigma: Any
    start: Any
    history: Any
    n: Any
    code: Any


def monitor_breaks(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    mask: Bool[Numbers, "pixels T"] | None = None,
    *,
    since: float,
    harmonics: int = 2,
    trend: bool = True,
    window: float = 0.25,
    alpha: float = 0.05,
    history: History = "all",
    history_alpha: float = 0.05,
    least: int | None = None,
) -> Monitored:
    """The first break since a date.

    Args:
      values: [pixels, T], float32 or float64 (the latter under `jax.enable_x64`). NaN and infinite
        values do not count.
      times: decimal years, in any order; see `harmonic_fit`.
      mask: True = counts; None = everything finite.
      since: decimal year with which the monitoring starts; what is before is history.
      harmonics, trend: of the model of the history.
      window: of the moving sum, as a share of the history: 0.25, 0.5 or 1.
      alpha: chance of a break in white noise, if ten times the history is watched; of `ALPHAS`.
      history: `all` of it, or by `roc` what is stable of it up to its end, which takes float64: its
        recursion starts from a few months.
      history_alpha: chance to find a stable history unstable.
      least: pixels with a shorter history get `Code.TOO_FEW`; None: one more than coefficients.

    Raises:
      DataError: shapes or types that do not fit. ConfigError: an option.
    """
    check_model(harmonics)
    fitted = 1 + trend + 2 * harmonics
    least = max(fitted + 1, MIN_DATES) if least is None else least
    if history not in get_args(History):
        raise ConfigError("unknown option", where="history", expected=" | ".join(get_args(History)),
                          found=history)  # fmt: skip
    if history == "roc" and values.dtype != jnp.float64:
        raise ConfigError(
            "a stable history takes float64", where="history", expected="values of float64",
            found=values.dtype, remedy="convert under `jax.enable_x64(True)`, or take all",
        )  # fmt: skip
    if window not in CRITICAL or alpha not in ALPHAS:
        raise ConfigError(
            "no critical value is known", where="window, alpha",
            expected=f"{tuple(CRITICAL)} and {ALPHAS}", found=f"{window}, {alpha}",
        )  # fmt: skip
    if least <= fitted or not 0 < history_alpha < 1:
        raise ConfigError(
            "no such history", where="least, history_alpha",
            expected=f"{fitted + 1} or more, and 0 < history_alpha < 1",
            found=f"{least}, {history_alpha}",
        )  # fmt: skip
    near, base = nearby(times)
    x, near = checked(values, near, mask, "pixels T")
    dtype = x.dtype
    found = _monitor(
        x, near, jnp.asarray(since - base, dtype), harmonics=harmonics, trend=trend,
        window=window, critical=CRITICAL[window][ALPHAS.index(alpha)], least=least,
        crossing=cusum_critical(history_alpha) if history == "roc" else None,
    )  # fmt: skip
    first = jnp.asarray(base, dtype)
    return dataclasses.replace(found, date=found.date + first, start=found.start + first)


def cusum_critical(alpha: float) -> float:
    """The factor of the boundary of the recursive CUSUM: Brownian motion crosses it by `alpha`."""

    def chance(x: float) -> float:
        def normal(z: float) -> float:
            return 0.5 * (1 + math.erf(z / math.sqrt(2)))

        if x < 0.3:
            return 1 - 0.1464 * x
        return 2 * (1 - normal(3 * x) + math.exp(-4 * x**2) * (normal(x) + normal(5 * x) - 1)
                    - math.exp(-16 * x**2) * (1 - normal(x)))  # fmt: skip

    low, high = 0.0, 20.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if chance(middle) > alpha else (low, middle)
    return high


@functools.partial(
    jax.jit,
    static_argnames=("harmonics", "trend", "window", "critical", "crossing", "least"),
)
def _monitor(
    x: Any, times: Any, since: Any, *, harmonics: int, trend: bool, window: float,
    critical: float, crossing: float | None, least: int,
) -> Monitored:  # fmt: skip
    def body(x: Any, t: Any) -> Monitored:
        x, t = _by_time(x[:, 0], t[:, 0])
        dtype = x.dtype
        nan = jnp.asarray(jnp.nan, dtype)
        there = x == x
        early = there & (t < since)
        late = there & (t >= since)
        n = late.sum(0, dtype=jnp.int32)
        centre, span = extent(jnp.where(t < since, t, nan))
        line = (t - centre[None]) / span[None] if trend else None
        design = columns(t, line, harmonics)
        total = early.sum(0).astype(dtype)
        level = jnp.where(early, x, 0).sum(0) / jnp.maximum(total, 1)
        y = jnp.where(there, x - level[None], 0)
        stable = jnp.ones(x.shape[1], bool)
        if crossing is not None:
            early = _stable(design, y, early, crossing)
            ages = jnp.where(early, jnp.broadcast_to(t, x.shape), nan)
            stable = jnp.nanmax(ages, axis=0) - jnp.nanmin(ages, axis=0) >= SHORTEST
        history = early.sum(0, dtype=jnp.int32)
        fit = least_squares(design, y, early.astype(dtype))
        size = history.astype(dtype)
        sigma = jnp.sqrt(fit.ssr / jnp.maximum(size - design.shape[1], 1))
        r = jnp.where(there, y - product(design, fit.beta), 0)
        process, edge, first, place = _moving(
            r / (sigma * jnp.sqrt(size))[None], early, late, window, critical
        )
        code = code_of(jnp.where(early, x, nan), history, least)
        few = (code == 0) & ((n == 0) | ~stable)
        code = jnp.where(few, int(Code.TOO_FEW), code)
        code = jnp.where(~jnp.any(there, axis=0), int(Code.ALL_MASKED), code)
        code = jnp.where((code == 0) & ~fit.definite, int(Code.UNDEFINED), code)
        ok = code == 0
        own = jnp.broadcast_to(t, x.shape)
        date = jnp.take_along_axis(own, place[None], 0)[0]
        start = jnp.min(jnp.where(early, own, jnp.asarray(jnp.inf, dtype)), axis=0)
        magnitude = middle(jnp.where(late, r, nan))
        date, process, edge, magnitude, sigma, start = (
            jnp.where(ok & known, a, nan)
            for a, known in (
                (date, first), (process, ok), (edge, ok), (magnitude, ok), (sigma, ok), (start, ok)
            )
        )  # fmt: skip
        return Monitored(date, process, edge, magnitude, sigma, start, history, n,
                         code.astype(jnp.int32))  # fmt: skip

    return in_blocks(body, x[:, :, None], times, numbers=BLOCK)


def _by_time(x: Float[Any, "T B"], t: Float[Any, "T Bt"]) -> tuple[Any, Any]:
    """Both in the order of time; of equal times, in that of the values."""
    order = jnp.argsort(t, axis=0, stable=True)
    x = jnp.take_along_axis(x, jnp.broadcast_to(order, x.shape), 0)
    t = jnp.take_along_axis(t, order, 0)

    def by_value(x: Any) -> Any:
        order = jnp.lexsort((x, jnp.broadcast_to(t, x.shape)), axis=0)
        return jnp.take_along_axis(x, order, 0)

    return lax.cond(jnp.any(t[1:] == t[:-1]), by_value, lambda x: x, x), t


def _moving(
    r: Float[Any, "T B"], early: Bool[Any, "T B"], late: Bool[Any, "T B"], window: float,
    critical: float,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """The moving sum and its boundary at the crossing or the end; whether, and where, it crosses.

    Args:
      r: residuals over sigma sqrt(history).
    """
    used = early | late
    order = jnp.argsort(~used, axis=0, stable=True)
    total = jnp.cumsum(jnp.take_along_axis(jnp.where(used, r, 0), order, 0), axis=0)
    total = jnp.concatenate([jnp.zeros_like(total[:1]), total])
    history = early.sum(0, dtype=jnp.int32)
    count = used.sum(0, dtype=jnp.int32)
    number = jnp.arange(1, r.shape[0] + 1, dtype=jnp.int32)[:, None]
    width = jnp.maximum(history * round(4 * window) // 4, 1)
    behind = jnp.clip(number - width[None], 0, r.shape[0])
    moving = total[1:] - jnp.take_along_axis(total, behind, 0)
    share = number.astype(r.dtype) / jnp.maximum(history, 1).astype(r.dtype)[None]
    late_log = jnp.where(share > math.e, jnp.log(jnp.maximum(share, 1)), 1)
    edge = critical * jnp.sqrt(2 * late_log)
    watched = (number > history[None]) & (number <= count[None])
    crossed = watched & (jnp.abs(moving) >= edge)
    first = jnp.min(jnp.where(crossed, number, r.shape[0] + 1), axis=0)
    some = first <= r.shape[0]
    at = jnp.clip(jnp.where(some, first, count) - 1, 0, r.shape[0] - 1)[None]
    value, limit = (jnp.take_along_axis(a, at, 0)[0] for a in (moving, edge))
    return value, limit, some, jnp.take_along_axis(order, at, 0)[0]


def _stable(
    design: Float[Any, "T p Bt"], y: Float[Any, "T B"], early: Bool[Any, "T B"], factor: float
) -> Bool[Any, "T B"]:
    """The part of the history up to its end that is stable, by recursive residuals backwards."""
    p = design.shape[1]
    dtype = y.dtype
    design, y, early = design[::-1], y[::-1], early[::-1]
    rank = jnp.cumsum(early, axis=0, dtype=jnp.int32)
    first = early & (rank <= p + 1)
    weight = first.astype(dtype)
    a, _ = inverse(gram(design, weight))
    beta = times_vector(a, moment(design, y * weight))

    def step(carry: Any, row: Any) -> Any:
        a, beta = carry
        x, value, counts = row
        x = jnp.broadcast_to(x, beta.shape)
        ax = times_vector(a, x)
        f = 1 + (x * ax).sum(0)
        r = value - (x * beta).sum(0)
        gain = jnp.where(counts, 1 / f, 0)[None] * ax
        carry = a - gain[:, None] * ax[None], beta + gain * r[None]
        return carry, jnp.where(counts, r / jnp.sqrt(f), 0)

    then = early & (rank > p + 1)
    _, w = lax.scan(step, (a, beta), (design, y, then))
    m = jnp.maximum(then.sum(0), 1).astype(dtype)
    mean = w.sum(0) / m
    sigma = jnp.sqrt(jnp.where(then, (w - mean[None]) ** 2, 0).sum(0) / m)
    process = jnp.cumsum(w, axis=0) / (sigma * jnp.sqrt(m))[None]
    place = (rank - (p + 1)).astype(dtype)
    crossed = then & (jnp.abs(process) > factor * (1 + 2 * place / m[None]))
    last = jnp.min(jnp.where(crossed, rank - 1, y.shape[0]), axis=0)
    return (early & (rank <= last[None]))[::-1]
