"""Least squares, Huber's and the LASSO on a block of pixels that lies in a cache.

    x [T p 1 or B], y [T B], weight [T B] of 0 and 1  ->  `Fit` of [B]

Huber (1964) by iteratively reweighted least squares with the scale of the median absolute residual,
as `statsmodels` `RLM(..., HuberT())`; the LASSO (Tibshirani, 1996) by coordinate descent on the
normal equations (Friedman, Hastie and Tibshirani, 2010), regressors standardised and the intercept
free, as CCDC has it (Zhu et al., 2015, Remote Sens. Environ. 162, 67-83).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Bool, Float

from .pairs import middle
from .regressors import gram, inverse, moment, product, solve, times_vector

TUNING = 1.345
"""Huber's bend, in scales: 95 % efficient for normal errors."""

QUARTILE = NormalDist().inv_cdf(0.75)

ROUNDS = 100
"""Reweightings at most."""

PIVOTS, SWEEPS, TRIES = 5, 6, 60
"""Guesses of the LASSO by its last solution; sweeps between later ones; guesses at most."""


class Fit(NamedTuple):
    """Of a block of pixels.

    Attributes:
      beta: [p, B];  covariance: [p, p, B] of beta, None for the LASSO;  ssr: [B], the sum of the
        squared residuals;  definite: [B], whether the regressors tell the coefficients apart;
      done: [B], whether the iterations came to rest.
    """

    beta: Any
    covariance: Any
    ssr: Any
    definite: Any
    done: Any


def least_squares(
    x: Float[Any, "T p Bt"], y: Float[Any, "T B"], weight: Float[Any, "T B"]
) -> Fit:  # fmt: skip
    """Ordinary least squares, corrected once by its own residuals."""
    inverted, definite = inverse(gram(x, weight))
    beta = times_vector(inverted, moment(x, y * weight))
    left = (y - product(x, beta)) * weight
    over = moment(x, left)
    step = times_vector(inverted, over)
    # |left - x step|^2, where step solves the normal equations: the step is a rounding, no more.
    ssr = jnp.maximum((left * left).sum(0) - (step * over).sum(0), 0)
    variance = ssr / _freedom(x, weight)
    return Fit(beta + step, inverted * variance[None, None], ssr, definite, jnp.ones_like(definite))


def huber(x: Float[Any, "T p Bt"], y: Float[Any, "T B"], weight: Float[Any, "T B"]) -> Fit:
    """Huber's estimate; its covariance is Huber's first proposal ("H1" of statsmodels)."""
    dtype = y.dtype
    tolerance = jnp.asarray(jnp.finfo(dtype).eps ** 0.6, dtype)
    bend = jnp.asarray(TUNING, dtype)
    inverted, definite = inverse(gram(x, weight))
    first = times_vector(inverted, moment(x, y * weight))
    first = first + times_vector(inverted, moment(x, (y - product(x, first)) * weight))

    def residual(beta: Any) -> Any:
        return y - product(x, beta)

    def scale_of(r: Any) -> Any:
        size = jnp.where(weight > 0, jnp.abs(r), jnp.asarray(jnp.nan, dtype))
        return middle(size) / jnp.asarray(QUARTILE, dtype)

    def unfinished(state: Any) -> Any:
        _, _, done, i = state
        return (i < ROUNDS) & ~jnp.all(done)

    def reweighted(state: Any) -> Any:
        beta, scale, done, i = state
        r = residual(beta)
        size = jnp.abs(r) / scale[None]
        w = weight * jnp.where(size <= bend, 1, bend / jnp.where(size > bend, size, 1))
        a, _ = inverse(gram(x, w))
        step = times_vector(a, moment(x, r * w))
        step = step + times_vector(a, moment(x, (r - product(x, step)) * w))
        new = jnp.where(done[None], beta, beta + step)
        moved = jnp.max(jnp.abs(product(x, step)) * weight, axis=0)
        done_now = done | (moved <= tolerance * scale)
        scale = jnp.where(done, scale, scale_of(residual(new)))
        return new, scale, done_now | ~(scale > 0), i + 1

    scale = scale_of(residual(first))
    start = (first, scale, ~definite | ~(scale > 0), jnp.int32(0))
    beta, scale, done, _ = lax.while_loop(unfinished, reweighted, start)
    r = residual(beta)
    # Where half of them are met and not all, a scale of rounding says nothing of the others.
    far, reach = (jnp.max(jnp.abs(a) * weight, axis=0) for a in (r, y))
    least = jnp.finfo(dtype).eps * reach
    done &= ~definite | (scale > 4 * least) | (far <= 100 * least)
    z = r / jnp.where(scale > 0, scale, 1)[None]
    n = weight.sum(0)
    inside = jnp.where(jnp.abs(z) <= bend, weight, 0)
    share = inside.sum(0) / n
    p = jnp.asarray(x.shape[1], dtype)
    factor = 1 + p / n * (share - share * share) / (share * share)
    psi = (jnp.clip(z, -bend, bend) ** 2 * weight).sum(0)
    variance = factor**2 * psi * scale**2 / (_freedom(x, weight) * share**2)
    ssr = _squares(x, y, weight, beta)
    return Fit(beta, inverted * variance[None, None], ssr, definite, done)


def lasso(
    x: Float[Any, "T p Bt"], y: Float[Any, "T B"], weight: Float[Any, "T B"], penalty: float
) -> Fit:
    """The LASSO; the first column is the intercept."""
    beta, definite, done = lasso_normal(
        gram(x, weight), moment(x, y * weight), weight.sum(0), jnp.asarray(penalty, y.dtype)
    )
    return Fit(beta, None, _squares(x, y, weight, beta), definite, done)


def lasso_normal(
    xx: Float[Any, "p p B"],
    xy: Float[Any, "p B"],
    n: Float[Any, " B"],
    penalty: Float[Any, ""],
    begin: Float[Any, "p B"] | None = None,
    tries: int = TRIES,
) -> tuple[Float[Any, "p B"], Bool[Any, " B"], Bool[Any, " B"]]:
    """beta that minimises |y - x beta|^2 / 2n + penalty sum |beta_j| sd(x_j) by x'x and x'y.

    Whoever knows which coefficients are not zero, and of what sign, has linear equations. They are
    guessed: from `begin`; then by the coefficients that the solution of the last guess turned, and
    those that it leaves wanting; in the end by sweeps over the coordinates. A guess that its
    solution confirms is the answer, to rounding.

    Returns:
      beta; whether every regressor varies; whether it came to rest.
    """
    dtype = xx.dtype
    eps = jnp.finfo(dtype).eps
    n = jnp.maximum(n, 1)
    mean = xx[0, 1:] / n[None]
    joint = xx[1:, 1:] / n[None, None] - mean[:, None] * mean[None]
    own = jnp.arange(joint.shape[0])
    spread = jnp.sqrt(jnp.maximum(joint[own, own], 0))
    varies = spread > 10 * eps * jnp.sqrt(xx[own + 1, own + 1] / n[None])
    unit = jnp.where(varies, 1 / jnp.where(varies, spread, 1), 0)
    r = joint * unit[:, None] * unit[None]
    c = (xy[1:] / n[None] - mean * (xy[0] / n)[None]) * unit
    reach = jnp.max(jnp.abs(c), axis=0)
    slack = 100 * eps * jnp.maximum(reach, penalty)
    eye = jnp.eye(joint.shape[0], dtype=dtype)[:, :, None]

    def coordinate(j: Any, b: Any) -> Any:
        row = lax.dynamic_index_in_dim(r, j, 0, keepdims=False)
        here = (own == j)[:, None]
        pull = jnp.where(here, c + b, 0).sum(0) - (row * b).sum(0)
        moved = jnp.sign(pull) * jnp.maximum(jnp.abs(pull) - penalty, 0)
        return jnp.where(here & varies, moved[None], b)

    def sweep(_: Any, b: Any) -> Any:
        return lax.fori_loop(0, joint.shape[0], coordinate, b)

    def unfinished(state: Any) -> Any:
        _, _, done, i = state
        return (i < tries) & ~jnp.all(done)

    def attempt(state: Any) -> Any:
        b, answer, done, i = state
        sign = jnp.where(varies, jnp.sign(b), 0)
        active = sign != 0
        solved, definite = solve(
            jnp.where(active[:, None] & active[None], r, eye),
            jnp.where(active, c - penalty * sign, 0),
        )
        pull = c - times_vector(r, solved)
        agrees = (jnp.sign(solved) == sign) | (penalty == 0)
        wanting = ~active & varies & (jnp.abs(pull) > (penalty + slack)[None])
        exact = definite & jnp.all(jnp.where(active, agrees, ~wanting), axis=0)

        def pivot(_: Any) -> Any:
            return jnp.where(active & agrees, solved, jnp.where(wanting, pull, 0))

        def descend(b: Any) -> Any:
            return lax.fori_loop(0, SWEEPS, sweep, b)

        following = lax.cond(i < PIVOTS, pivot, descend, b)
        moved = jnp.max(jnp.abs(following - b), axis=0)
        rest = (moved <= 4 * eps * reach) & (i > PIVOTS)
        found = jnp.where(exact[None], solved, following)
        answer = jnp.where(done[None], answer, found)
        return following, answer, done | exact | rest, i + 1

    nothing = jnp.zeros_like(c)
    guess = nothing if begin is None else begin[1:]
    start = (guess, nothing, n <= 1, jnp.int32(0))
    _, answer, done, _ = lax.while_loop(unfinished, attempt, start)
    beta = answer * unit
    level = xy[0] / n - (mean * beta).sum(0)
    return jnp.concatenate([level[None], beta]), jnp.all(varies, axis=0), done


def _squares(x: Any, y: Any, weight: Any, beta: Any) -> Any:
    return (((y - product(x, beta)) ** 2) * weight).sum(0)


def _freedom(x: Any, weight: Any) -> Any:
    """n - p, at least 1."""
    return jnp.maximum(weight.sum(0) - x.shape[1], 1)
