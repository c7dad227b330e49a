"""Straight segments through one value a year, and the largest disturbance among them.

    values [pixels T], times [T] or [pixels T], mask  ->  `Segments`: vertices, slopes, fit

After LandTrendr (Kennedy et al., 2010, Remote Sens. Environ. 114, 2897-2910), in its order:

    despike     a year between two years that resemble each other is drawn to them
    vertices    the years that deviate most from regressions between the vertices so far
    cull        of too many, those beside the least steep lines; the beginning of a fall counts more
    fit         from left to right, each segment anchored at the end of the one before: regression
                or a line to the value at the vertex, whichever is closer
    select      fits with fewer and fewer segments; of those whose p (F statistic against the mean,
                two parameters a segment) is nearly the least, the one with most segments; of those
                that leave nothing, the one with fewest

"Like", not a port: no second fit by Levenberg-Marquardt, and a forbidden recovery drops its vertex
without changing the data. Earth Engine's names of parameters stand in the docstring. Several values
a year: `annual_composites` first.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rsvlm_jax.config.errors import ConfigError
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

from .blocks import Numbers, checked
from .result import Code
from .rows import in_rows
from .segments import Fit, Rules, culled, despiked, through, vertices, without_weakest

MIN_YEARS = 6
WIDTH = 256
"""Pixels of a block."""


class Segments(NamedTuple):
    """The fit of every pixel; NaN with a code where there is no answer.

    S is the most segments that were allowed; what is beyond a pixel's own is NaN. Where no fit
    reaches p, it is the mean, one flat segment: no change is an answer too.

    Attributes:
      vertex_time, vertex_value: [pixels, S + 1].
      slope: [pixels, S], value per unit of time.
      fitted: [pixels, T], at all times, also where there is no value; level outside of the
        vertices.
      segments: int32 [pixels], how many.
      p: of the fit against the mean;  rmse: of the values, before despiking.
      change_time, change_magnitude, change_duration: the largest disturbance: the vertex where it
        begins, how much the fit falls (or rises; positive), and for how long; NaN where it
        nowhere does.
      n, code: int32 [pixels].
    """

    vertex_time: Float[Array, "pixels V"]
    vertex_value: Float[Array, "pixels V"]
    slope: Float[Array, "pixels S"]
    fitted: Float[Array, "pixels T"]
    segments: Int[Array, " pixels"]
    p: Float[Array, " pixels"]
    rmse: Float[Array, " pixels"]
    change_time: Float[Array, " pixels"]
    change_magnitude: Float[Array, " pixels"]
    change_duration: Float[Array, " pixels"]
    n: Int[Array, " pixels"]
    code: Int[Array, " pixels"]


def landtrendr(
    values: Float[Numbers, "pixels T"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    mask: Bool[Numbers, "pixels T"] | None = None,
    *,
    disturbance: Literal["fall", "rise"] = "fall",
    segments: int = 6,
    spike: float = 0.9,
    overshoot: int = 3,
    recovery: float = 0.25,
    one_year_recovery: bool = True,
    p: float = 0.05,
    proportion: float = 0.75,
    least: int = MIN_YEARS,
) -> Segments:
    """The segments of every pixel.

    Args:
      values: [pixels, T], one a year, float32 or float64 (the latter under `jax.enable_x64`). NaN
        and infinite values do not count.
      times: years as numbers, in any order, with gaps, none twice; [T] or [pixels, T].
      mask: True = counts; None = everything finite.
      disturbance: what a disturbance does to the value: NDVI and NBR `fall`.
      segments: at most (maxSegments).
      spike: a year is drawn to its neighbours where they differ by less than 1 - spike of its own
        difference; 1 = never (spikeThreshold).
      overshoot: so many vertices more are looked for, and culled (vertexCountOvershoot).
      recovery: the largest share of the range of the fit that may recover in a unit of time; a
        faster one is not believed (recoveryThreshold).
      one_year_recovery: whether a slower one may end within one unit of time (False:
        preventOneYearRecovery; a rise of noise alone then costs a vertex).
      p: of the fit against the mean, at most (pvalThreshold).
      proportion: fits whose p is within 2 - proportion of the least compete for the most segments
        (bestModelProportion).
      least: pixels with fewer years get `Code.TOO_FEW` (minObservationsNeeded).

    Raises:
      DataError: shapes or types that do not fit. ConfigError: an option.
    """
    for name, value, low, high in (
        ("segments", segments, 1, 50), ("spike", spike, 0, 1), ("overshoot", overshoot, 0, 50),
        ("recovery", recovery, 0, float("inf")), ("p", p, 0, 1), ("proportion", proportion, 0, 1),
        ("least", least, 3, float("inf")),
    ):  # fmt: skip
        if not low <= value <= high:
            raise ConfigError("option out of range", where=name, expected=f"{low} to {high}",
                              found=value)  # fmt: skip
    if disturbance not in ("fall", "rise"):
        raise ConfigError("unknown option", where="disturbance", expected="fall | rise",
                          found=disturbance)  # fmt: skip
    x, times = checked(values, times, mask, "pixels T")
    rules = Rules(
        1 if disturbance == "fall" else -1, spike, recovery, jnp.asarray(one_year_recovery), p,
        proportion, least,
    )  # fmt: skip
    return _landtrendr(x, times, rules, segments=segments, overshoot=overshoot)


@functools.partial(jax.jit, static_argnames=("segments", "overshoot"))
def _landtrendr(x: Any, times: Any, rules: Rules, *, segments: int, overshoot: int) -> Segments:
    def one(x: Any, times: Any = times) -> Segments:
        return _pixel(x, times, rules, segments, overshoot)

    return in_rows(jax.vmap(one), (x,) if times.ndim == 1 else (x, times), WIDTH)


def _pixel(x: Any, times: Any, rules: Rules, segments: int, overshoot: int) -> Segments:
    """One pixel: x, times [T]. Inside, a disturbance falls."""
    there = x == x
    n = there.sum(dtype=jnp.int32)
    missing, t, y = lax.sort(((~there).astype(jnp.int32), times, x), num_keys=2)
    t, y = (jnp.where(missing == 0, a, 0) for a in (t, rules.sign * y))
    last = jnp.maximum(n - 1, 0)
    start = t[0]
    t = jnp.where(missing == 0, t - start, 0)
    y = despiked(t, y, n, rules.spike)
    v = culled(t, y, vertices(t, y, n, segments + 1 + overshoot), last, segments)

    def step(v: Any, _: None) -> tuple[Any, Fit]:
        fit = through(t, y, v, n, rules)
        return without_weakest(t, y, fit, last, rules), fit

    _, fits = lax.scan(step, v, None, segments)
    # From most segments to one; where none reaches p, the mean.
    p = jnp.where(fits.allowed, fits.p, 1)
    best = p.min()
    chosen = jnp.argmax(p <= (2 - rules.proportion) * best)
    exact = fits.exact & fits.allowed
    chosen = jnp.where(exact.any(), segments - 1 - jnp.argmax(exact[::-1]), chosen)
    flat = ~(best <= rules.p)
    mean = jnp.where(missing == 0, y, 0).sum() / jnp.maximum(n, 1).astype(y.dtype)
    ends = jnp.where(jnp.arange(segments + 1) > 0, last, 0).astype(jnp.int32)
    v = jnp.where(flat, ends, fits.v[chosen])
    f = rules.sign * jnp.where(flat, mean, fits.f[chosen])
    inf = jnp.inf
    constant = jnp.where(there, x, -inf).max() == jnp.where(there, x, inf).min()
    code = jnp.where(constant, int(Code.CONSTANT), int(Code.OK))
    code = jnp.where(n < rules.least, int(Code.TOO_FEW), code)
    code = jnp.where(n == 0, int(Code.ALL_MASKED), code).astype(jnp.int32)
    at = t[v] + start
    long, rise = jnp.diff(at), jnp.diff(f)
    real = v[:-1] < last
    slope = jnp.where(real, rise / jnp.where(long > 0, long, 1), jnp.nan)
    fitted = _between(times, at, f)
    off = jnp.where(there, x - fitted, 0)
    rmse = jnp.sqrt((off * off).sum() / jnp.maximum(n, 1).astype(x.dtype))
    fall = jnp.where(real, -rules.sign * rise, 0)
    k = jnp.argmax(fall)
    some = fall[k] > 0
    vertex = jnp.concatenate([jnp.ones(1, bool), real])

    def known(a: Any, where: Any = True) -> Any:
        return jnp.where((code == 0) & where, a, jnp.nan)

    return Segments(
        vertex_time=known(at, vertex), vertex_value=known(f, vertex), slope=known(slope),
        fitted=known(fitted), segments=jnp.where(code == 0, real.sum(dtype=jnp.int32), 0),
        p=known(jnp.where(flat, best, p[chosen])), rmse=known(rmse),
        change_time=known(at[k], some), change_magnitude=known(fall[k], some),
        change_duration=known(long[k], some), n=n, code=code,
    )  # fmt: skip


def _between(times: Any, at: Any, f: Any) -> Any:
    """The fit at any times, [T]; level outside of the vertices, NaN where there is no time."""
    k = (at[None] <= times[:, None]).sum(-1, dtype=jnp.int32) - 1
    k = jnp.clip(k, 0, at.shape[0] - 2)
    long = at[k + 1] - at[k]
    share = jnp.clip((times - at[k]) / jnp.where(long > 0, long, 1), 0, 1)
    return f[k] + share * (f[k + 1] - f[k])
