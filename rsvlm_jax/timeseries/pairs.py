"""All pairs of observations of a pixel, passed over in turns and never stored.

    x [T groups B], t [T 1 B] or [T 1 1]  ->  one number a pixel [B]

T observations of groups (seasons, stations; 1 for a plain series) of B pixels; pairs are of one
group. NaN marks what is not there. Turn d = 1 ... T // 2 meets x[i] with x[i + d], around the end;
T is odd (`odd` adds a row of NaN), so every pair comes once. A turn touches T x groups x B numbers,
and blocks of pixels are so small that these stay in a core's cache: nothing grows as T^2 x pixels.

Why not a sort: it holds all pairs, and XLA on a CPU sorts far slower than it passes over them
some times, in vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Array, Bool, Float, Int

from .selection import Count, Measure, smallest

UNROLL = 8
"""Turns that XLA fuses into one loop over the block."""


def odd(x: Float[Array, "T groups B"]) -> Float[Array, "T1 groups B"]:
    """x with a row of NaN more where T is even."""
    return x if x.shape[0] % 2 else jnp.pad(x, ((0, 1), (0, 0), (0, 0)), constant_values=jnp.nan)


def turns(arrays: tuple[Any, ...], last: int, body: Callable[..., Any], start: Any) -> Any:
    """`body(carry, *later)` for d = 1 ... last, `later` being the arrays rolled by d rows."""
    rows = arrays[0].shape[0]
    twice = [jnp.concatenate([a, a]) for a in arrays]

    def turn(d: Any, carry: Any) -> Any:
        return body(carry, *(lax.dynamic_slice_in_dim(a, d, rows) for a in twice))

    return lax.fori_loop(1, last + 1, turn, start, unroll=max(1, min(UNROLL, last)))


def _slopes(x: Any, t: Any, x2: Any, t2: Any) -> Any:
    """Slopes from x at t to x2 at t2; NaN between observations at one time.

    The step in time depends on the values, as it were: XLA divides by what is the same for a row of
    pixels by multiplying with its inverse, which is another bit than the quotient.
    """
    dt = t2 - t
    return (x2 - x) / jnp.where((dt != 0) & (x2 == x2), dt, jnp.asarray(jnp.nan, x.dtype))


def score(x: Float[Array, "T groups B"], t: Float[Array, "T 1 Bt"]) -> Int[Array, " B"]:
    """Mann and Kendall's S: pairs that rise less pairs that fall, in the order of time."""

    def body(total: Any, x2: Any, t2: Any) -> Any:
        sign = (x2 > x).astype(jnp.int32) - (x2 < x).astype(jnp.int32)
        order = (t2 > t).astype(jnp.int32) - (t2 < t).astype(jnp.int32)
        return total + sign * order

    total = turns((x, t), x.shape[0] // 2, body, jnp.zeros(x.shape, jnp.int32))
    return total.sum((0, 1), dtype=jnp.int32)


def slope_count(x: Float[Array, "T groups B"], t: Float[Array, "T 1 Bt"]) -> Count:
    """The `Count` of the slopes of all pairs."""

    def count(m: Any) -> Any:
        def body(found: Any, x2: Any, t2: Any) -> Any:
            return found + (_slopes(x, t, x2, t2) <= m[None, None]).astype(jnp.int32)

        found = turns((x, t), x.shape[0] // 2, body, jnp.zeros(x.shape, jnp.int32))
        return found.sum((0, 1), dtype=jnp.int32)

    return count


def slope_measure(x: Float[Array, "T groups B"], t: Float[Array, "T 1 Bt"]) -> Measure:
    """The `Measure` of the slopes of all pairs."""
    inf = jnp.asarray(jnp.inf, x.dtype)

    def measure(m: Any) -> Any:
        def body(carry: Any, x2: Any, t2: Any) -> Any:
            count, under, above = carry
            slope = _slopes(x, t, x2, t2)
            low, high = slope <= m[None, None], slope > m[None, None]
            return (
                count + low.astype(jnp.int32),
                jnp.maximum(under, jnp.where(low, slope, -inf)),
                jnp.minimum(above, jnp.where(high, slope, inf)),
            )

        full = jnp.full(x.shape, inf)
        start = (jnp.zeros(x.shape, jnp.int32), -full, full)
        count, under, above = turns((x, t), x.shape[0] // 2, body, start)
        return count.sum((0, 1), dtype=jnp.int32), under.max((0, 1)), above.min((0, 1))

    return measure


def ranked_slopes(
    x: Float[Array, "T groups B"],
    t: Float[Array, "T 1 Bt"],
    pairs: Int[Array, " B"],
    ranks: Int[Array, "R B"],
    away: Float[Array, " R"],
) -> tuple[Float[Array, "R B"], Bool[Array, "R B"]]:
    """The slopes of some ranks (from 0), and convergence.

    Args:
      pairs: how many slopes there are.
      away: where each rank is looked for first, in standard errors from a line by least squares.
    """
    count, measure = slope_count(x, t), slope_measure(x, t)
    guess, error = _least_squares(x, t)

    def one(of: Any) -> Any:
        k, off = of
        return smallest(count, measure, k, pairs, guess + off * error, error)

    return lax.map(one, (ranks, away))


def median_of(measure: Measure, size: Int[Array, " B"], low: Float[Array, " B"]) -> Any:
    """The median of `size` numbers by the one of rank (size - 1) // 2, as `numpy.median`."""
    upto, _, above = measure(low)
    high = jnp.where(upto > jnp.maximum(size - 1, 0) // 2 + 1, low, above)
    return jnp.where(size % 2 == 0, (low + high) * 0.5, low)


def _least_squares(x: Any, t: Any) -> tuple[Any, Any]:
    """Slope within groups and its standard error, where to look first."""
    there = x == x
    n = jnp.maximum(there.sum(0, keepdims=True, dtype=jnp.int32), 1).astype(x.dtype)
    u, y = (jnp.where(there, a, 0) for a in (t, x))
    u = jnp.where(there, u - u.sum(0, keepdims=True) / n, 0)
    y = jnp.where(there, y - y.sum(0, keepdims=True) / n, 0)
    uu, uy, yy = (v.sum((0, 1)) for v in (u * u, u * y, y * y))
    slope = uy / uu
    freedom = jnp.maximum(there.sum((0, 1), dtype=jnp.int32) - x.shape[1] - 1, 1).astype(x.dtype)
    return slope, jnp.sqrt(jnp.maximum(yy - slope * uy, 0) / freedom / uu)


def equals(x: Float[Array, "T groups B"]) -> Int[Array, "T groups B"]:
    """How many other observations of the group have the same value; 0 for NaN."""

    def body(count: Any, later: Any) -> Any:
        return count + (later == x).astype(jnp.int32)

    return turns((x,), x.shape[0] - 1, body, jnp.zeros(x.shape, jnp.int32))


def smaller(x: Float[Array, "T groups B"]) -> Int[Array, "T groups B"]:
    """How many other observations of the group are smaller; 0 for NaN."""

    def body(count: Any, later: Any) -> Any:
        return count + (later < x).astype(jnp.int32)

    return turns((x,), x.shape[0] - 1, body, jnp.zeros(x.shape, jnp.int32))


def middle(x: Float[Array, "N B"]) -> Float[Array, " B"]:
    """Median of what is not NaN, as `numpy.nanmedian`; NaN where nothing is there."""
    there = x == x
    n = there.sum(0, dtype=jnp.int32)
    inf = jnp.asarray(jnp.inf, x.dtype)

    def count(m: Any) -> Any:
        return (x <= m[None]).sum(0, dtype=jnp.int32)

    def measure(m: Any) -> Any:
        low, high = x <= m[None], x > m[None]
        under, above = jnp.where(low, x, -inf).max(0), jnp.where(high, x, inf).min(0)
        return count(m), under, above

    size = jnp.maximum(n, 1).astype(x.dtype)
    mean = jnp.where(there, x, 0).sum(0) / size
    spread = jnp.where(there, jnp.abs(x - mean[None]), 0).sum(0) / size
    low, done = smallest(count, measure, jnp.maximum(n - 1, 0) // 2, n, mean, spread / 4)
    return jnp.where((n > 0) & done, median_of(measure, n, low), jnp.nan)
