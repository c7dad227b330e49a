"""Least squares of pixels that share their dates: what sums over dates is a product of matrices.

    y, weight [B T], design [T p]  ->  `Fit` of [B], as `estimators.least_squares` has it

The floor of a pixel, with q = p (p + 1) / 2 pairs of regressors: T (q + 3 p) multiply-adds, and T
numbers read once. Of T = 240 dates, three waves and a line (p = 8) that is 14,400 multiply-adds and
960 bytes of float32: arithmetic binds, and it runs as fast as the products of matrices do.
`python -m experiments.bench trend` prints their rate alone beside that of the fit.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.core.shapes import Float

from .estimators import Fit
from .regressors import HIGHEST, inverse, times_vector


def least_squares_shared(
    design: Float[Any, "T p"], y: Float[Any, "B T"], weight: Float[Any, "B T"]
) -> Fit:
    """Ordinary least squares, corrected once by its own residuals.

    Args:
      design: its first column is 1 wherever a weight is.
      y: 0 where its weight is.
      weight: 0 or 1.
    """
    p = design.shape[1]
    first, second = np.triu_indices(p)
    pairs = _times(weight, design[:, first] * design[:, second]).T
    place = np.zeros((p, p), int)
    place[first, second] = place[second, first] = np.arange(len(first))
    inverted, definite = inverse(pairs[place])
    beta = times_vector(inverted, _times(y, design).T)
    left = (y - _times(beta.T, design.T)) * weight
    over = _times(left, design).T
    step = times_vector(inverted, over)
    # |left - x step|^2, where step solves the normal equations: the step is a rounding, no more.
    ssr = jnp.maximum(sums(left * left) - (step * over).sum(0), 0)
    variance = ssr / jnp.maximum(pairs[0] - p, 1)
    return Fit(beta + step, inverted * variance[None, None], ssr, definite, jnp.ones_like(definite))


def sums(a: Float[Any, "B T"]) -> Float[Any, " B"]:
    """Over T, as a product: sums along what lies together in memory are no vectors for XLA."""
    return _times(a, jnp.ones((a.shape[1], 1), a.dtype))[:, 0]


def _times(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, precision=HIGHEST)
