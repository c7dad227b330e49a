"""The k-th smallest of numbers that are never stored.

Not a sort. `smallest` asks a function how many numbers lie at or below a threshold and what stands
next to it on both sides, and moves a bracket whose ends are always numbers of the set:

    lo <= answer <= hi      below(lo) <= k < upto(hi)

so the answer is one of the numbers, exactly, whatever rounding the thresholds had. Thresholds are
interpolated between the counts, a little beyond the answer on alternating sides, as Floyd and
Rivest (1975, Algorithm 489) take their pivots; every fourth halves the floating-point numbers
between lo and hi, so heavy tails cost 4 x 32 (float32) or 4 x 64 (float64) passes at the very
most. About ten passes find the median of the 28,680 pairwise slopes of 240 dates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Array, Bool, Float, Int

Measure = Callable[[Any], tuple[Any, Any, Any]]
"""threshold [B] -> (count at or below it, largest of those, smallest above it), [B] each."""

FINE = 16
"""With at most so many numbers between the ends, the threshold aims at the answer itself."""


class Bracket(NamedTuple):
    """Ends that are numbers of the set, how many are below `lo`, and how many up to `hi`; [B]."""

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
    measure: Measure,
    k: Int[Array, " B"],
    bracket: Bracket,
    guess: Float[Array, " B"],
    margin: Float[Array, " B"],
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """The k-th smallest (from 0) of every column, and whether it was found.

    Args:
      measure: see `Measure`.
      k: the rank.
      bracket: smallest and largest number of the set, 0 and how many there are.
      guess, margin: the first two thresholds are guess -+ margin; any will do, NaN too.
    """
    dtype = guess.dtype
    limit = 4 * jnp.finfo(dtype).bits + 2

    def unfinished(state: Any) -> Any:
        bracket, _, i = state
        return (i < limit) & jnp.any(bracket.open(k))

    def step(state: Any) -> Any:
        bracket, down, i = state
        first = jnp.where(i == 0, guess - margin, guess + margin)
        middle = _halfway(bracket.lo, bracket.hi)
        m = jnp.where(i < 2, first, jnp.where(i % 4 == 3, middle, _between(bracket, k, down)))
        m = jnp.where(jnp.isfinite(m), m, middle)
        m = jnp.where(m < bracket.hi, jnp.maximum(m, bracket.lo), bracket.lo)
        bracket, down = bracket.moved(k, measure(m))
        return bracket, down, i + 1

    start = (bracket, jnp.zeros(k.shape, bool), jnp.int32(0))
    bracket, _, _ = lax.while_loop(unfinished, step, start)
    return jnp.where(k <= bracket.below, bracket.lo, bracket.hi), ~bracket.open(k)


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
    bits = jnp.finfo(lo.dtype).bits
    integer = jnp.dtype(f"int{bits}")
    rest = jnp.asarray(jnp.iinfo(integer).max, integer)

    def ordered(i: Any) -> Any:
        """Of a float's bits an integer of the same order; its own inverse."""
        return i ^ ((i >> jnp.asarray(bits - 1, integer)) & rest)

    a, b = (ordered(lax.bitcast_convert_type(v, integer)) for v in (lo, hi))
    one = jnp.asarray(1, integer)
    middle = (a >> one) + (b >> one) + (a & b & one)
    return lax.bitcast_convert_type(ordered(middle), lo.dtype)
