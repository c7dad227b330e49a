"""What is known of every pixel while its breaks are looked for, and how it is read; see `watch.py`.

    a [... T B], places [W B] or [B]  ->  what stands there, pixel by pixel

Not the rules. Pixels are the last axis; every pixel is at a place of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Bool, Float, Int

from .estimators import lasso_normal

TIMES = 3
"""Observations a coefficient."""

TRIES = 8
"""Of the LASSO while it runs: a model that is not at rest by then is good enough to go on."""


class Block(NamedTuple):
    """What is known before: of B pixels, in the order of time, what is missing left out.

    Attributes:
      t: [T, B], years, inf behind the last;  waves: [6, T, B];  y: [bands, T, B], 0 behind;
      n: int32 [B];  least: [bands, B], the variogram, below which no rmse falls;
      penalty: of the LASSO;  screen: of which bands `outliers` judges, None for no screening.
    """

    t: Any
    waves: Any
    y: Any
    n: Any
    least: Any
    penalty: Any
    screen: tuple[int, int] | None


class Rules(NamedTuple):
    """Squared normalised differences of a change and of an outlier; observations that confirm;
    the most observations looked at for a first model; segments kept."""

    change: float
    outlier: float
    confirm: int
    window: int
    segments: int


class Found(NamedTuple):
    """Segments: places [segments, B] of the first and the last observation and of the first behind
    the break (-1: none), the share of the confirming observations that broke; and all of them
    that are clear [T, B], how many segments [B]."""

    first: Any
    last: Any
    broke: Any
    share: Any
    clear: Any
    count: Any


class State(NamedTuple):
    """Of every pixel: what it wants; places of the model's first and last observation, of the last
    one seen, where it may reach back to; observations of the model now, at the last fit, since;
    whether it is new, and whether the look ahead is of the last fit; what is clear; the model,
    squared residuals, moments, the time its trend is counted from; the look ahead; the output."""

    phase: Any
    start: Any
    tail: Any
    head: Any
    reach: Any
    span: Any
    fitted: Any
    since: Any
    place: Any
    new: Any
    whole: Any
    beta: Any
    rmse: Any
    squares: Any
    xx: Any
    xy: Any
    zero: Any
    z: Any
    trained: Any
    found: Found


def coefficients(n: Int[Any, " B"]) -> Int[Any, " B"]:
    """Of a model of n observations: 4, 6 or 8."""
    return 4 + 2 * (n >= TIMES * 6).astype(jnp.int32) + 2 * (n >= TIMES * 8).astype(jnp.int32)


def lasso(xx: Any, xy: Any, n: Any, penalty: Any, begin: Any) -> Any:
    """beta [p bands B]; the matrices are the same for all bands."""
    p, bands, wide = xy.shape
    each = jnp.broadcast_to(xx[:, :, None], (p, p, bands, wide)).reshape(p, p, bands * wide)
    count = jnp.broadcast_to(n.astype(xx.dtype)[None], (bands, wide)).reshape(-1)
    begin = None if begin is None else begin.reshape(p, -1)
    beta, _, _ = lasso_normal(each, xy.reshape(p, -1), count, penalty, begin, TRIES)
    return beta.reshape(p, bands, wide)


def columns(t: Any, zero: Any, waves: Any) -> Any:
    """[8 ...]: the regressors at times [... B]."""
    line = t - jnp.broadcast_to(zero, t.shape)
    line = jnp.where(jnp.isfinite(line), line, 0)
    return jnp.concatenate([jnp.ones_like(line)[None], line[None], waves])


def value_at(s: State, t: Float[Any, "W B"], waves: Float[Any, "6 W B"]) -> Float[Any, "bands W B"]:
    """The model at some times: written out, so that it is one pass over [bands W B]."""
    line = jnp.where(jnp.isfinite(t), t - s.zero[None], 0)
    total = s.beta[0][:, None] + s.beta[1][:, None] * line[None]
    for k in range(waves.shape[0]):
        total += s.beta[k + 2][:, None] * waves[k][None]
    return total


def look(block: Block, place: Int[Any, "W B"]) -> tuple[Any, Any, Any]:
    return at(block.t, place), at(block.waves, place), at(block.y, place)


def at(a: Any, place: Int[Any, "W B"]) -> Any:
    """a [... T B] at places, which may lie outside."""
    place = jnp.clip(place, 0, a.shape[-2] - 1)
    place = place.reshape((1,) * (a.ndim - 2) + place.shape)
    return jnp.take_along_axis(a, place, axis=a.ndim - 2)


def pick(a: Any, place: Int[Any, " B"]) -> Any:
    """a [... T B] at one place of every pixel, [... B]."""
    return at(a, place[None])[..., 0, :]


def first_of(there: Bool[Any, "W B"], other: int) -> Int[Any, " B"]:
    """The first row that is there, or another."""
    rows = jnp.arange(there.shape[0], dtype=jnp.int32)[:, None]
    found = jnp.min(jnp.where(there, rows, there.shape[0]), axis=0)
    return jnp.where(found < there.shape[0], found, other)


def without(clear: Any, removed: Bool[Any, "W B"], start: Any, way: int) -> Any:
    """clear [T B] less what is removed of the window from `start` on (way 1) or back (-1)."""
    rows = jnp.arange(clear.shape[0], dtype=jnp.int32)[:, None]
    place = (rows - start[None]) * way
    inside = (place >= 0) & (place < removed.shape[0])
    return clear & ~(at(removed, place) & inside)


def shift(a: Any, k: int, axis: int, fill: float = 0.0) -> Any:
    """a[j + k] at j."""
    if k == 0:
        return a
    kept = lax.slice_in_dim(a, min(k, a.shape[axis]), None, axis=axis)
    wide = [(0, 0)] * a.ndim
    wide[axis] = (0, a.shape[axis] - kept.shape[axis])
    return jnp.pad(kept, wide, constant_values=fill)


def turned_by(a: Float[Any, "bands W B"], b: Float[Any, "bands W B"]) -> Float[Any, "W B"]:
    """Degrees between differences."""
    norm = jnp.sqrt((a * a).sum(0) * (b * b).sum(0))
    cosine = (a * b).sum(0) / jnp.where(norm > 0, norm, 1)
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def recorded(found: Found, which: Any, first: Any, last: Any, broke: Any, share: Any) -> Found:
    """With a segment more for some pixels."""
    rows = jnp.arange(found.first.shape[0], dtype=jnp.int32)[:, None]
    here = (rows == found.count[None]) & which[None]
    share = jnp.broadcast_to(jnp.asarray(share, found.share.dtype), which.shape)
    return found._replace(
        first=jnp.where(here, first[None], found.first),
        last=jnp.where(here, last[None], found.last),
        broke=jnp.where(here, broke[None], found.broke),
        share=jnp.where(here, share[None], found.share),
        count=found.count + which.astype(jnp.int32),
    )
