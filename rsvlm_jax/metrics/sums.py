"""(sum, weight): the form in which metrics travel, and the masking that all of them share."""

from __future__ import annotations

from typing import Any

import numpy as np

Pair = tuple[Any, Any]
"""(sum, weight): two scalars of the array library that came in."""


def namespace(x: Any) -> Any:
    """`numpy` or `jax.numpy`, by the array that came in (tracers included)."""
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


def ratio(pair: Pair) -> Any:
    """sum / weight, NaN where the weight is 0."""
    total, weight = pair
    xp = namespace(total)
    return xp.where(weight > 0, total / xp.where(weight > 0, weight, 1), xp.nan)


def valid_weight(y: Any, other: Any, weight: Any) -> tuple[Any, Any, Any]:
    """(weight that is 0 at NaN in y, y, other), both 0 wherever the weight is.

    The zeros keep what lies behind the mask out of sums (0 * NaN is NaN) and out of gradients.
    NumPy arrays are summed in float64, JAX arrays in float32 or better.

    Raises:
      ValueError: the shapes differ; nothing is broadcast.
    """
    xp = namespace(y)
    if y.shape != other.shape:
        raise ValueError(f"two shapes where one is expected: {y.shape} and {other.shape}")
    dtype = xp.float64 if xp is np or y.dtype == np.float64 else xp.float32
    y, other = y.astype(dtype), xp.asarray(other).astype(dtype)
    w = xp.ones_like(y) if weight is None else xp.asarray(weight).astype(dtype)
    if w.shape != y.shape:
        raise ValueError(f"the weight has shape {w.shape}, the values {y.shape}")
    w = xp.where(xp.isnan(y), xp.zeros_like(w), w)
    return w, xp.where(w > 0, y, xp.zeros_like(y)), xp.where(w > 0, other, xp.zeros_like(y))
