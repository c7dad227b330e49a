"""The k-th smallest of numbers that are never stored.

Not a sort. A function says how many of the numbers lie at or below a threshold, and a bracket
closes in:

    lo <= answer <= hi      below(lo) <= k < upto(hi)

First coarsely, by counts alone, until few numbers are left; then the ends move to numbers of the
set, so the answer is one of them, exactly, whatever rounding the thresholds had. Thresholds are
interpolated between the counts, a little beyond the answer on alternating sides, as Floyd and
Rivest (1975, Algorithm 489) take their pivots; every fourth halves the floating-point numbers
between lo and hi, so heavy tails cost 4 x 32 (float32) or 4 x 64 (float64) passes at the very
most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Array, Bool, Float, Int

Measure = Callable[[Any], tuple[Any, Any, Any]]
"""threshold [B] -> (count at or below it, largest of those, smallest above it), [B] each."""

Count = Callable[[Any], Any]
"""threshold [B] -> count at or below it [B]."""

COARSE, FEW = 10, 6
"""Counts alone for so many passes at most, and while more than so many numbers are left."""

FINE = 16
"""With at most so many numbers between the ends, the threshold aims at the answer itself."""


class Bracket(NamedTuple):
    """Two ends, how many numbers are below `lo`, and how many up to `hi`; [B]."""

    lo: Any
    hi: Any
    below: Any
    upto: Any

    def open(self, k: Any) -> Any:
        """Whether the k-th (from 0) is not known yet; it is `lo` where k <= below, else `hi`."""
        return (k > self.below) & (k < self.upto - 1) & (self.lo < self.hi)

    def moved(self, k: Any, found: tuple[Any, Any, Any]) -> tuple[Bracket, Any]:
        """The bracket after a measurement, and where its upper end came down."""
        count, under, above = found
        down = count > k
        return Bracket(
            lo=jnp.where(down, self.lo, above),
            hi=jnp.where(down, under, self.hi),
            below=jnp.where(down, self.below, count),
            upto=jnp.where(down, count, self.upto),
        ), down


def smallest(
    count: Count,
    measure: Measure,
    k: Int[Array, " B"],
    size: Int[Array, " B"],
    guess: Float[Array, " B"],
    margin: Float[Array, " B"],
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """The k-th smallest (from 0) of every column, and whether it was found.

    Args:
      count, measure: see `Count` and `Measure`.
      k: the rank.
      size: how many numbers a column has.
      guess, margin: the first thresholds are guess -+ margin; any will do, NaN too.
    """
    most = jnp.full_like(guess, jnp.finfo(guess.dtype).max)
    bracket = Bracket(-most, most, jnp.zeros_like(size), size)
    limit = 4 * jnp.finfo(guess.dtype).bits + 2

    def threshold(bracket: Bracket, down: Any, i: Any) -> Any:
        middle = _halfway(bracket.lo, bracket.hi)
        m = jnp.where(i % 4 == 3, middle, _between(bracket, k, down))
        # Until both sides are known: further and further away from the guess.
        step = margin * jnp.exp2(2 * (i // 2)).astype(guess.dtype)
        m = jnp.where(bracket.hi == most, guess + step, m)
        m = jnp.where((bracket.lo == -most) & ((i % 2 == 0) | (bracket.hi < most)), guess - step, m)
        m = jnp.where(jnp.isfinite(m), m, middle)
        return jnp.where(m < bracket.hi, jnp.maximum(m, bracket.lo), bracket.lo)

    def many(state: Any) -> Any:
        bracket, _, i = state
        return (i < COARSE) & jnp.any(bracket.open(k) & (bracket.upto - bracket.below > FEW))

    def coarse(state: Any) -> Any:
        bracket, down, i = state
        m = threshold(bracket, down, i)
        bracket, down = bracket.moved(k, (count(m), m, _next(m)))
        return bracket, down, i + 1

    def unfinished(state: Any) -> Any:
        bracket, _, i = state
        return (i < limit) & jnp.any(bracket.open(k))

    def fine(state: Any) -> Any:
        bracket, down, i = state
        bracket, down = bracket.moved(k, measure(threshold(bracket, down, i)))
        return bracket, down, i + 1

    start = (bracket, jnp.zeros(k.shape, bool), jnp.int32(0))
    bracket, down, i = lax.while_loop(many, coarse, start)
    # To numbers of the set: the largest up to hi, the smallest from lo.
    upto, under, _ = measure(bracket.hi)
    below, _, above = measure(_before(bracket.lo))
    between = (below <= k) & (k < upto)  # not where the answer is infinite
    bracket = bracket._replace(lo=above, hi=under)
    bracket, _, _ = lax.while_loop(unfinished, fine, (bracket, down, jnp.maximum(i, 4)))
    return jnp.where(k <= bracket.below, bracket.lo, bracket.hi), between & ~bracket.open(k)


def _between(bracket: Bracket, k: Any, down: Any) -> Any:
    """A threshold by the counts; after `down` a little under the answer, else a little over it."""
    dtype = bracket.lo.dtype
    span = (bracket.upto - bracket.below).astype(dtype)
    aim = (k - bracket.below).astype(dtype) + 0.5
    off = jnp.where(span > FINE, jnp.sqrt(jnp.maximum(span, 0)), 0)
    beyond = jnp.where(down, aim - off, aim + off)
    aim = jnp.where((beyond > 0) & (beyond < span), beyond, aim)
    share = jnp.clip(aim / jnp.maximum(span, 1), 0, 1)
    return bracket.lo + share * (bracket.hi - bracket.lo)


def _halfway(lo: Any, hi: Any) -> Any:
    """The float with as many floats between it and lo as between it and hi."""
    a, b = _integer(lo), _integer(hi)
    one = jnp.ones((), a.dtype)
    return _float((a >> one) + (b >> one) + (a & b & one), lo.dtype)


def _next(m: Any) -> Any:
    """The smallest float above m, which is finite."""
    a = _integer(m + 0)  # -0 is 0
    return _float(a + jnp.ones((), a.dtype), m.dtype)


def _before(m: Any) -> Any:
    """The largest float below m, which is finite."""
    return -_next(-m)


def _integer(x: Any) -> Any:
    """Integers in the order of the floats x."""
    integer = jnp.dtype(f"int{jnp.finfo(x.dtype).bits}")
    return _flip(lax.bitcast_convert_type(x, integer))


def _float(i: Any, dtype: Any) -> Any:
    return lax.bitcast_convert_type(_flip(i), dtype)


def _flip(i: Any) -> Any:
    """Negative floats are stored as sign and magnitude; its own inverse."""
    bits, largest = jnp.iinfo(i.dtype).bits, jnp.iinfo(i.dtype).max
    return i ^ ((i >> jnp.asarray(bits - 1, i.dtype)) & jnp.asarray(largest, i.dtype))
