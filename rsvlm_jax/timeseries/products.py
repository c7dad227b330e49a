"""Least squares of pixels that share their dates: what sums over dates is a product of matrices.

    values, counts [B T], design [T p]  ->  `Fit` of [B], as `estimators.least_squares` has it

The floor of a pixel, with q = p (p + 1) / 2 pairs of regressors: T (q + 3 p) multiply-adds, and T
numbers read once. Of T = 240 dates, three waves and a line (p = 8) that is 14,400 multiply-adds and
960 bytes of float32: arithmetic binds, and it runs as fast as the products of matrices do.
`python -m experiments.bench trend` prints their rate alone beside that of the fit.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.core.shapes import Bool, Float

from .estimators import Fit
from .regressors import HIGHEST, inverse, times_vector


def least_squares_shared(
    design: Float[Any, "T p"], values: Float[Any, "B T"], counts: Bool[Any, "B T"]
) -> tuple[Fit, Float[Any, " B"], Float[Any, " B"]]:
    """Ordinary least squares, corrected once by its own residuals.

    The products are of the values as they are; the mean is taken out of the sums. What that costs
    in digits the correction gives back, as its residuals are of values less their mean.

    Args:
      design: its first column is 1 wherever something counts.
      values: of any kind where they do not count.

    Returns:
      the fit of values less `level`; `level`, about the mean; how many count.
    """
    p = design.shape[1]
    first, second = np.triu_indices(p)
    pairs = _times(counts.astype(values.dtype), design[:, first] * design[:, second]).T
    place = np.zeros((p, p), int)
    place[first, second] = place[second, first] = np.arange(len(first))
    inverted, definite = inverse(pairs[place])
    found = _times(jnp.where(counts, values, 0), design).T
    level = found[0] / jnp.maximum(pairs[0], 1)
    beta = times_vector(inverted, found - level[None] * pairs[:p])
    left = jnp.where(counts, values - level[:, None] - _times(beta.T, design.T), 0)
    over = _times(left, design).T
    step = times_vector(inverted, over)
    # |left - x step|^2, where step solves the normal equations: the step is a rounding, no more.
    ssr = jnp.maximum((left * left).sum(1) - (step * over).sum(0), 0)
    variance = ssr / jnp.maximum(pairs[0] - p, 1)
    fit = Fit(beta + step, inverted * variance[None, None], ssr, definite, jnp.ones_like(definite))
    return fit, level, pairs[0]


def _times(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, precision=HIGHEST)
