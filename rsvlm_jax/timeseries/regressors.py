"""The regressors of a season and a trend, their weighted Gram matrices, and batched inverses.

    times [T 1 or B]  ->  columns [T p 1 or B]:  1, trend, cos 1, sin 1, cos 2, sin 2 ...
    weights [T B]     ->  Gram matrices [p p B]  ->  inverses [p p B]

Not an estimator. Pixels are the last axis, so p x p algebra of B pixels runs in vectors. Where all
pixels share their dates, B Gram matrices are one product of matrices: [p p T] x [T B].
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from rsvlm_jax.core.shapes import Bool, Float

HIGHEST = lax.Precision.HIGHEST
"""Of products of matrices: accelerators would take fewer bits."""

SINGULAR = 100
"""A pivot under so many units of rounding, of a matrix with ones on its diagonal, is none."""


def nearby(times: Any) -> tuple[Any, Any]:
    """Times less a whole number near the first of them, and that number, 0-d.

    NumPy arrays are taken in their own precision, before they become the float32 of the values; the
    phase of a year stays as it is.
    """
    if isinstance(times, np.ndarray):
        known = times[np.isfinite(times)]
        base = np.floor(known.min()) if known.size else np.zeros((), np.float64)
        return times - base.astype(times.dtype), np.asarray(base, np.float64)
    inf = jnp.asarray(jnp.inf, times.dtype)
    first = jnp.min(times, initial=jnp.inf, where=jnp.isfinite(times))
    base = jnp.where(first < inf, jnp.floor(first), jnp.zeros((), times.dtype))
    return times - jnp.full(times.shape, base), base


def seasons(times: Float[Any, "T Bt"], harmonics: int) -> list[Any]:
    """cos and sin of every harmonic of a year of length 1, [T Bt] each; 0 where a time is NaN."""
    known = times == times
    phase = jnp.where(known, times - jnp.floor(times), 0) * jnp.asarray(2 * np.pi, times.dtype)
    waves = []
    for k in range(1, harmonics + 1):
        angle = phase * jnp.asarray(k, times.dtype)
        waves += [jnp.where(known, jnp.cos(angle), 0), jnp.where(known, jnp.sin(angle), 0)]
    return waves


def columns(
    times: Float[Any, "T Bt"], line: Float[Any, "T Bt"] | None, harmonics: int
) -> Float[Any, "T p Bt"]:
    """The regressors, 0 where a time is NaN; `line` is the trend, None for none."""
    known = times == times
    trend = [] if line is None else [jnp.where(known, line, 0)]
    return jnp.stack([known.astype(times.dtype), *trend, *seasons(times, harmonics)], axis=1)


def gram(x: Float[Any, "T p Bt"], weight: Float[Any, "T B"]) -> Float[Any, "p p B"]:
    """sum over T of weight x x'."""
    _, p, wide = x.shape
    if wide == 1:
        first, second = np.triu_indices(p)
        pairs = x[:, first, 0] * x[:, second, 0]
        found = jnp.einsum("tq,tb->qb", pairs, weight, precision=HIGHEST)
        place = np.zeros((p, p), int)
        place[first, second] = place[second, first] = np.arange(len(first))
        return found[place]
    return lax.map(lambda column: moment(x, column * weight), x.transpose(1, 0, 2))


def moment(x: Float[Any, "T p Bt"], y: Float[Any, "T B"]) -> Float[Any, "p B"]:
    """sum over T of x y."""
    if x.shape[2] == 1:
        return jnp.einsum("tp,tb->pb", x[:, :, 0], y, precision=HIGHEST)
    return (x * y[:, None, :]).sum(0)


def product(x: Float[Any, "T p Bt"], beta: Float[Any, "p B"]) -> Float[Any, "T B"]:
    """x beta."""
    if x.shape[2] == 1:
        return jnp.einsum("tp,pb->tb", x[:, :, 0], beta, precision=HIGHEST)
    return (x * beta[None]).sum(1)


def inverse(matrix: Float[Any, "p p B"]) -> tuple[Float[Any, "p p B"], Bool[Any, " B"]]:
    """The inverses of symmetric positive definite matrices, and whether they are definite.

    Gauss-Jordan, pixel by pixel in the lanes, after the diagonal is brought to ones.
    """
    p = matrix.shape[0]
    dtype = matrix.dtype
    rows = jnp.arange(p)
    size = jnp.sqrt(matrix[rows, rows])
    size = jnp.where(size > 0, size, 1)
    scale = size[:, None] * size[None]
    least = jnp.asarray(SINGULAR * jnp.finfo(dtype).eps, dtype)

    def eliminate(k: Any, state: Any) -> Any:
        a, definite = state
        row = lax.dynamic_index_in_dim(a, k, 0, keepdims=False)
        column = lax.dynamic_index_in_dim(a, k, 1, keepdims=False)
        pivot = lax.dynamic_index_in_dim(row, k, 0, keepdims=False)
        definite &= pivot > least
        one = 1 / jnp.where(pivot > least, pivot, 1)
        here = (rows == k)[:, None]
        rest = a - column[:, None] * (row * one[None])[None]
        rest = jnp.where(here[:, None], (row * one[None])[None], rest)
        rest = jnp.where(here[None], -(column * one[None])[:, None], rest)
        return jnp.where(here[:, None] & here[None], one[None, None], rest), definite

    start = (matrix / scale, jnp.ones(matrix.shape[2], bool))
    found, definite = lax.fori_loop(0, p, eliminate, start)
    return found / scale, definite


def solve(
    matrix: Float[Any, "p p B"], right: Float[Any, "p B"]
) -> tuple[Float[Any, "p B"], Bool[Any, " B"]]:
    """The solutions of equations with such matrices of unit diagonal, and whether definite.

    A third of the work of an inverse. The barriers keep XLA from fusing one elimination into the
    next, which would compute the first of them again and again.
    """
    p = matrix.shape[0]
    least = SINGULAR * jnp.finfo(matrix.dtype).eps
    rows: list[tuple[Any, Any]] = []
    definite = jnp.ones(matrix.shape[2], bool)
    for _ in range(p):
        pivot = matrix[0, 0]
        known = pivot > least
        definite &= known
        one = 1 / jnp.where(known, pivot, 1)
        row, value = matrix[0, 1:] * one[None], right[0] * one
        rows.append((row, value))
        column = matrix[1:, 0]
        matrix = matrix[1:, 1:] - column[:, None] * row[None]
        right = right[1:] - column * value[None]
        matrix, right = lax.optimization_barrier((matrix, right))
    found = jnp.zeros((0, definite.shape[0]), matrix.dtype)
    for row, value in reversed(rows):
        found = jnp.concatenate([(value - (row * found).sum(0))[None], found])
    return found, definite


def times_vector(matrix: Float[Any, "p p B"], vector: Float[Any, "p B"]) -> Float[Any, "p B"]:
    """matrix vector, of every pixel."""
    return (matrix * vector[None]).sum(1)
