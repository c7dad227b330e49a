"""CRPS of each of many distributions that are known as such, not by draws or a few quantiles.

    integral of (F(x) - [x >= y])^2 over x  =  left of y of F^2  +  right of y of (1 - F)^2

All take bounds at which the distribution was clipped: F is 0 below `low` and 1 from `high` on, so
both integrals end there, and a `y` beyond one adds its distance to it. Arrays of one shape in and
out, NumPy or JAX; means over samples are the caller's.

    y, loc, scale [...]       -> crps_normal, crps_laplace       closed forms
    y [...], knots [..., n]   -> crps_chain                      exact where F is linear in between
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .sums import namespace

NOTHING = -40.0
"""Standard deviations below which the left tail has no mass in floating point."""


class Tail(NamedTuple):
    """An exponential end of a chain: `mass` beyond its last knot, of mean distance `length`."""

    mass: float = 0.0
    length: Any = 0.0


def crps_normal(y: Any, loc: Any, scale: Any, low: Any = -np.inf, high: Any = np.inf) -> Any:
    """Of N(loc, scale^2), scale > 0, clipped to [low, high].

    Unclipped it is Gneiting et al. (2005, eq. 5); clipped, Jordan et al. (2019, appendix A).
    """
    xp, ndtr = namespace(y), _normal_cdf(namespace(y))

    def left(z: Any) -> Any:
        """Integral of Phi^2 up to z."""
        z = xp.maximum(z, NOTHING)
        density = xp.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        cdf = ndtr(z)
        return z * cdf**2 + 2 * cdf * density - ndtr(math.sqrt(2) * z) / math.sqrt(math.pi)

    return _symmetric(left, y, loc, scale, low, high)


def crps_laplace(y: Any, loc: Any, scale: Any, low: Any = -np.inf, high: Any = np.inf) -> Any:
    """Of a Laplace distribution (density exp(-|z|) / 2 of z = (y - loc) / scale), clipped alike."""
    xp = namespace(y)

    def left(z: Any) -> Any:
        far = xp.exp(-xp.abs(xp.maximum(z, 2 * NOTHING)))
        return xp.where(z < 0, far**2 / 8, 1 / 8 + z - (1 - far) + (1 - far**2) / 8)

    return _symmetric(left, y, loc, scale, low, high)


def crps_chain(
    y: Any,
    knots: Any,
    below: Any,
    tails: tuple[Tail, Tail] = (Tail(), Tail()),
    low: Any = -np.inf,
    high: Any = np.inf,
) -> Any:
    """Of a distribution function that is linear between knots, clipped alike.

    Args:
      knots: ascending, [..., n]; two may be one, where mass lies at a point.
      below: F at the knots, [..., n].
      tails: below the first knot and above the last; without mass F jumps there to 0 and to 1.
    """
    xp = namespace(y)
    inside = xp.clip(y, low, high)
    left = _squared(xp, low + 0 * inside, inside, knots, below, *tails)
    mirrored = xp.flip(-knots, -1), 1 - xp.flip(below, -1), *tails[::-1]
    right = _squared(xp, -(high + 0 * inside), -inside, *mirrored)
    return left + right + xp.abs(y - inside)


def _symmetric(left: Callable[[Any], Any], y: Any, loc: Any, scale: Any, low: Any, high: Any):
    """From the integral of F^2 up to z, of a distribution that is symmetric about 0."""
    xp = namespace(y)
    inside = xp.clip(y, low, high)
    z, first, last = ((x - loc) / scale for x in (inside, low, high))
    return scale * (left(z) - left(first) + left(-z) - left(-last)) + xp.abs(y - inside)


def _squared(xp: Any, start: Any, end: Any, knots: Any, below: Any, first: Tail, last: Tail) -> Any:
    """Integral of F^2 from `start` to `end` [...]."""
    a, b = (xp.clip(x[..., None], knots[..., :-1], knots[..., 1:]) for x in (start, end))
    width = knots[..., 1:] - knots[..., :-1]
    slope = (below[..., 1:] - below[..., :-1]) / xp.where(width > 0, width, 1)
    fa, fb = (below[..., :-1] + slope * (x - knots[..., :-1]) for x in (a, b))
    total = ((b - a) * (fa**2 + fa * fb + fb**2) / 3).sum(axis=-1)
    if first.mass:
        fa, fb = (
            first.mass * xp.exp(xp.minimum(x - knots[..., 0], 0) / first.length)
            for x in (start, end)
        )
        total = total + first.length / 2 * (fb**2 - fa**2)
    a, b = (xp.maximum(x - knots[..., -1], 0) for x in (start, end))
    total = total + b - a
    if last.mass:
        fa, fb = (last.mass * xp.exp(-x / last.length) for x in (a, b))
        total = total + last.length * (2 * (fb - fa) + (fa**2 - fb**2) / 2)
    return total


def _normal_cdf(xp: Any) -> Any:
    if xp is np:
        from scipy.special import ndtr
    else:
        from jax.scipy.special import ndtr
    return ndtr
