"""Local lines through observations that may be missing: loess, of degree one.

    observations at [B M], places to smooth at [B E]  ->  smooth values [B E]

The definition of STL (Cleveland et al., 1990): tricube weights out to the q-th nearest observation,
times the weight of each observation. What is missing is not there: the q nearest are of those that
are. Observations without weight around a place leave it the value of the nearest.

Not for one-off smoothing: what depends on places alone (`Near`) is computed once, and applied to
many vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from rsvlm_jax.core.shapes import Array, Bool, Float

ONE, NONE = 0.001, 0.999
"""Shares of the width: weight one up to the first, none beyond the second."""


class Near(NamedTuple):
    """What the places say.

    Attributes:
      weights: [..., E, M], tricube.
      away: [..., E, M], from the place to the observation.
      nearest: int32 [..., E], the nearest observation.
      span: [..., 1], from the first observation to the last.
    """

    weights: Any
    away: Any
    nearest: Any
    span: Any

    def smooth(self, y: Float[Array, "... M"], r: Float[Array, "... M"]) -> Float[Array, "... E"]:
        """The local lines through y, with weights r of the observations (0 where missing)."""
        sums, first, second = self._moments(r[..., None, :])
        flat, sloped = self._sums(jnp.where(r > 0, r * y, 0)[..., None, :])
        some = sums > 0
        sums = jnp.where(some, sums, 1)
        mean, level = first / sums, flat / sums
        spread = second / sums - mean * mean
        wide = jnp.sqrt(jnp.maximum(spread, 0)) > 0.001 * self.span
        slope = (sloped / sums - mean * level) / jnp.where(wide, spread, 1)
        value = jnp.where(wide, level - mean * slope, level)
        return jnp.where(some, value, jnp.take_along_axis(y, self.nearest, -1))

    def _sums(self, r: Any) -> tuple[Any, Any]:
        weights = self.weights * r
        return weights.sum(-1), (weights * self.away).sum(-1)

    def _moments(self, r: Any) -> tuple[Any, Any, Any]:
        weights = self.weights * r
        turned = weights * self.away
        return weights.sum(-1), turned.sum(-1), (turned * self.away).sum(-1)


def near(
    at: Float[Array, "... E"], u: Float[Array, "... M"], there: Bool[Array, "... M"], q: int
) -> Near:
    """`Near` of observations at u, of which some are there.

    Args:
      at: the places to smooth at;  u: of the observations, in any order, in units such that
        neighbours are about one apart.
      q: observations in reach. Where fewer are there, the width grows by half of what is missing.
    """
    inf = jnp.asarray(jnp.inf, u.dtype)
    # The q nearest of a sorted row follow each other: the best of all windows of q.
    row = jnp.sort(jnp.where(there, u, inf), -1)
    n = there.sum(-1, keepdims=True, dtype=jnp.int32)
    away = u[..., None, :] - at[..., :, None]
    distance = jnp.where(there[..., None, :], jnp.abs(away), inf)
    farthest = jnp.where(there[..., None, :], distance, 0).max(-1)
    short = farthest + jnp.maximum((q - n) // 2, 0).astype(u.dtype)
    width = short
    if q <= row.shape[-1]:
        first, last = row[..., None, : row.shape[-1] - q + 1], row[..., None, q - 1 :]
        reach = jnp.maximum(at[..., :, None] - first, last - at[..., :, None]).min(-1)
        width = jnp.where(n >= q, reach, short)
    width = width[..., None]
    cube = (distance / jnp.where(width > 0, width, 1)) ** 3
    weights = jnp.where(distance <= ONE * width, 1, (1 - cube) ** 3)
    weights = jnp.where(distance <= NONE * width, weights, 0)
    known = jnp.where(there, u, 0)
    span = jnp.where(there, u, -inf).max(-1) - jnp.where(there, u, inf).min(-1)
    away = jnp.where(there[..., None, :], known[..., None, :] - at[..., :, None], 0)
    return Near(weights, away, jnp.argmin(distance, -1).astype(jnp.int32), span[..., None])
