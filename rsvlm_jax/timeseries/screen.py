"""Clouds and shadows that the quality band missed, by robust regression (Tmask).

    t [W B], y [bands W B], there [W B]  ->  whether an observation is far off [W B]

Two bands, green (clouds bright) and the first short-wave infrared (shadows and clouds dark), each
fitted by a wave a year and one of the whole period; what is off by more than 4.42 times the band's
variogram is no clear look at the ground. Zhu and Woodcock (2014), Remote Sens. Environ. 152,
217-234. The fit is Tukey's bisquare as robustfit has it: residuals over sqrt(1 - leverage), scale
by their median without the p - 1 smallest.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from rsvlm_jax.core.shapes import Bool, Float

from .regressors import inverse

LIMIT = 4.42
"""Variograms that an observation may be off."""

TUNING, SIGMA = 4.685, 0.6745
ROUNDS, HALVINGS, TOLERANCE = 60, 12, 0.01
"""Reweightings at most, halvings of the median's bracket, and when the fit rests, in variograms."""


def outliers(
    t: Float[Any, "W B"],
    cos: Float[Any, "W B"],
    sin: Float[Any, "W B"],
    y: Float[Any, "bands W B"],
    there: Bool[Any, "W B"],
    variogram: Float[Any, "bands B"],
) -> Bool[Any, "W B"]:
    """Which of the observations that are `there` are off in any of the bands.

    Args:
      t: years; cos, sin: of the year.
      y: 0 where nothing is there.
    """
    bands, _, wide = y.shape
    dtype = y.dtype
    inf = jnp.asarray(jnp.inf, dtype)
    first = jnp.min(jnp.where(there, t, inf), axis=0)
    last = jnp.max(jnp.where(there, t, -inf), axis=0)
    first = jnp.where(jnp.isfinite(first), first, 0)
    period = jnp.maximum(jnp.ceil(last - first), 1)
    angle = jnp.where(there, (t - first[None]) / period[None], 0) * jnp.asarray(2 * np.pi, dtype)
    x = jnp.stack([jnp.ones_like(t), cos, sin, jnp.cos(angle), jnp.sin(angle)])
    x = jnp.where(there[None], x, 0)
    p = x.shape[0]
    n = there.sum(0, dtype=jnp.int32)

    def solved(weight: Any) -> Any:
        """beta [p bands B] by weights [bands W B]."""
        left = x[:, None] * weight[None]
        upper = {(i, j): (left[i] * x[j][None]).sum(1) for i in range(p) for j in range(i, p)}
        xx = jnp.stack([jnp.stack([upper[min(i, j), max(i, j)] for j in range(p)])
                        for i in range(p)])  # fmt: skip
        xy = (left * y[None]).sum(2)
        a, _ = inverse(xx.reshape(p, p, bands * wide))
        return (a.reshape(p, p, bands, wide) * xy[None]).sum(1)

    def residual(beta: Any) -> Any:
        total = y
        for k in range(p):
            total -= x[k][None] * beta[k][:, None]
        return jnp.where(there[None], total, 0)

    plain, _ = inverse((x[:, None] * x[None]).sum(2))
    lever = (x * (plain[:, :, None] * x[None]).sum(1)).sum(0)
    stretch = 1 / jnp.sqrt(jnp.maximum(1 - lever, 1e-4))

    def unfinished(state: Any) -> Any:
        _, _, done, i = state
        return (i < ROUNDS) & ~jnp.all(done)

    def reweighted(state: Any) -> Any:
        beta, off, done, i = state
        r = jnp.abs(off) * stretch[None]
        sigma = jnp.maximum(_middle(r, there, n, p) / SIGMA, jnp.finfo(dtype).tiny)
        size = r / (TUNING * sigma)[:, None]
        weight = jnp.where(there[None] & (size < 1), (1 - size * size) ** 2, 0)
        new = solved(weight)
        new = jnp.where(done[None], beta, new)
        now = residual(new)
        moved = jnp.max(jnp.abs(now - off), axis=1)
        return new, now, done | (moved <= TOLERANCE * variogram), i + 1

    beta = solved(jnp.broadcast_to(there.astype(dtype)[None], y.shape))
    still = jnp.broadcast_to(n <= p, variogram.shape) | ~(variogram > 0)
    begin = (beta, residual(beta), still, jnp.int32(0))
    _, off, _, _ = lax.while_loop(unfinished, reweighted, begin)
    return there & jnp.any(jnp.abs(off) > (LIMIT * variogram)[:, None], axis=0)


def _middle(r: Any, there: Any, n: Any, p: int) -> Any:
    """About the median of r [bands W B] without the p - 1 smallest, [bands B]."""
    mean = r.sum(1) / jnp.maximum(n, 1).astype(r.dtype)[None]

    def halve(_: Any, ends: Any) -> Any:
        low, high, low2, high2 = ends
        one, two = 0.5 * (low + high), 0.5 * (low2 + high2)
        down = (there[None] & (r <= one[:, None])).sum(1, dtype=jnp.int32) >= ((n + p) // 2)[None]
        down2 = (there[None] & (r <= two[:, None])).sum(1, dtype=jnp.int32) >= ((n + p + 1) // 2)[
            None
        ]
        return (
            jnp.where(down, low, one), jnp.where(down, one, high),
            jnp.where(down2, low2, two), jnp.where(down2, two, high2),
        )  # fmt: skip

    zero, top = jnp.zeros_like(mean), 4 * mean
    _, one, _, two = lax.fori_loop(0, HALVINGS, halve, (zero, top, zero, top))
    return 0.5 * (one + two)
