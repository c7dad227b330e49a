"""Vertices and straight segments of one series: the steps of LandTrendr.

Not called from outside: `landtrendr.py` says what the steps are and puts them together. One pixel:
t, y [T] are the years that count, n of them, in order, and zeros behind; a disturbance falls.
Vertices are indices into them, [V], in order, padded with the last year.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import betainc

DISTURBED = 2
"""More weight of a vertex before a fall over all of the range."""


class Rules(NamedTuple):
    """The arguments of `landtrendr` that shape no array."""

    sign: Any
    spike: Any
    recovery: Any
    one_year: Any
    p: Any
    proportion: Any
    least: Any


class Fit(NamedTuple):
    """One model: vertices as indices into the years that count, padded with the last of them."""

    v: Any
    """int32 [S + 1]."""
    f: Any
    """[S + 1], the fit at them."""
    p: Any
    exact: Any
    """Nothing is left but rounding: more segments cannot be better."""
    allowed: Any


def despiked(t: Any, y: Any, n: Any, spike: Any) -> Any:
    """The worst spike first, while there is one beyond the threshold."""
    inside = jnp.arange(1, y.shape[0] - 1, dtype=jnp.int32) < n - 1

    def spikes(y: Any) -> Any:
        a, b, c = y[:-2], y[1:-1], y[2:]
        most = jnp.maximum(jnp.abs(b - a), jnp.abs(b - c))
        share = 1 - jnp.abs(c - a) / jnp.where(most > 0, most, 1)
        return jnp.where(inside & (most > 0), share, 0)

    def body(state: Any) -> Any:
        y, share, k = state
        i = jnp.argmax(share) + 1
        along = (t[i] - t[i - 1]) / jnp.where(t[i + 1] > t[i - 1], t[i + 1] - t[i - 1], 1)
        line = y[i - 1] + along * (y[i + 1] - y[i - 1])
        y = y.at[i].add(share[i - 1] * (line - y[i]))
        return y, spikes(y), k + 1

    def more(state: Any) -> Any:
        return (state[1].max() > spike) & (state[2] < y.shape[0])

    return lax.while_loop(more, body, (y, spikes(y), jnp.int32(0)))[0] if y.shape[0] > 2 else y


def _inside(v: Any, count: int) -> Any:
    """[V - 1, T], the years of each segment, both ends included; none of the padding."""
    i = jnp.arange(count, dtype=jnp.int32)[None]
    return (i >= v[:-1, None]) & (i <= v[1:, None]) & (v[1:] > v[:-1])[:, None]


def _regression(t: Any, y: Any, inside: Any) -> tuple[Any, Any, Any]:
    """Slope, mean time and mean value of the years inside, over the last axis."""
    w = inside.astype(y.dtype)
    n = jnp.maximum(w.sum(-1, keepdims=True), 1)
    mt, my = (w * t).sum(-1, keepdims=True) / n, (w * y).sum(-1, keepdims=True) / n
    tt, ty = (w * (t - mt) ** 2).sum(-1), (w * (t - mt) * (y - my)).sum(-1)
    return ty / jnp.where(tt > 0, tt, 1), mt[..., 0], my[..., 0]


def vertices(t: Any, y: Any, n: Any, count: int) -> Any:
    """int32 [count], in order, padded with the last year."""
    last = jnp.maximum(n - 1, 0)
    v = jnp.where(jnp.arange(count) > 0, last, 0).astype(jnp.int32)

    def body(_: Any, v: Any) -> Any:
        inside = _inside(v, y.shape[0])
        slope, mt, my = _regression(t[None], y[None], inside)
        off = jnp.abs(y[None] - (my[:, None] + slope[:, None] * (t[None] - mt[:, None])))
        off = jnp.where(inside, off, 0)
        open_ = v[1:] - v[:-1] > 1
        size = jnp.maximum(inside.sum(-1), 1).astype(y.dtype)
        k = jnp.argmax(jnp.where(open_, (off * off).sum(-1) / size, -1))
        i = jnp.arange(y.shape[0], dtype=jnp.int32)
        between = (i > v[k]) & (i < v[k + 1])
        new = jnp.argmax(jnp.where(between, off[k], -1)).astype(jnp.int32)
        return jnp.where(open_.any(), jnp.sort(v.at[-1].set(new)), v)

    return lax.fori_loop(0, count - 2, body, v)


def culled(t: Any, y: Any, v: Any, last: Any, segments: int) -> Any:
    """int32 [segments + 1]: the vertices beside the steepest lines, in a unit square.

    Where a disturbance follows, up to three times as much: of steep noise, the vertex before the
    fall is kept.
    """
    there = jnp.arange(y.shape[0], dtype=jnp.int32) <= last
    inf = jnp.inf
    height = jnp.where(there, y, -inf).max() - jnp.where(there, y, inf).min()
    long = jnp.where(t[last] > 0, t[last], 1)
    for _ in range(v.shape[0] - segments - 1):
        a, b = t[v] / long, y[v] / jnp.where(height > 0, height, 1)
        angle = jnp.abs(jnp.arctan2(jnp.diff(b), jnp.diff(a)))
        inner = v[1:-1] < last
        weight = jnp.maximum(angle[:-1], angle[1:]) * (
            1 + DISTURBED * jnp.maximum(b[1:-1] - b[2:], 0)
        )
        k = jnp.argmin(jnp.where(inner, weight, inf)) + 1
        many = inner.sum() > segments - 1
        v = jnp.where(many, jnp.sort(v.at[k].set(last)), v)
    return v[: segments + 1]


def through(t: Any, y: Any, v: Any, n: Any, rules: Rules) -> Fit:
    """Anchored segments through the vertices, p against the mean, and whether it may be."""

    def segment(carry: Any, ends: Any) -> Any:
        begun, f, fit = carry
        a, b = ends
        i = jnp.arange(y.shape[0], dtype=jnp.int32)
        inside = (i >= a) & (i <= b) & (b > a)
        long = t[b] - t[a]
        away = jnp.where(inside, t - t[a], 0)
        slope, mt, my = _regression(t, y, inside)
        left = jnp.where(begun, f, my - slope * (mt - t[a]))
        squares = (away * away).sum()
        anchored = (away * (y - left)).sum() / jnp.where(squares > 0, squares, 1)
        slope = jnp.where(begun, anchored, slope)
        start = jnp.where(begun, f, y[a])
        direct = (y[b] - start) / jnp.where(long > 0, long, 1)

        def error(left: Any, slope: Any) -> Any:
            off = jnp.where(inside, y - left - slope * away, 0)
            return (off * off).sum()

        closer = error(start, direct) < error(left, slope)
        left, slope = jnp.where(closer, start, left), jnp.where(closer, direct, slope)
        fit = jnp.where(inside, left + slope * away, fit)
        end = jnp.where(b > a, left + slope * long, f)
        return (jnp.ones((), bool), end, fit), (left, end)

    start = (jnp.zeros((), bool), jnp.zeros((), y.dtype), y)
    (_, _, fit), (left, end) = lax.scan(segment, start, (v[:-1], v[1:]))
    f = jnp.concatenate([left[:1], end])
    there = (jnp.arange(y.shape[0], dtype=jnp.int32) < n).astype(y.dtype)
    count = n.astype(y.dtype)
    mean = (there * y).sum() / jnp.maximum(count, 1)
    rest, total = (there * (y - fit) ** 2).sum(), (there * (y - mean) ** 2).sum()
    parameters = 2 * (v[1:] > v[:-1]).sum().astype(y.dtype)
    free = count - parameters - 1
    # P(F > f) of f = (total - rest) / parameters / (rest / free) is an incomplete beta function.
    share = jnp.clip(rest / jnp.where(total > 0, total, 1), 0, 1)
    p = betainc(jnp.maximum(free, 1) / 2, jnp.maximum(parameters, 1) / 2, share)
    p = jnp.where((free > 0) & (total > 0), p, 1)
    eps = 16 * jnp.finfo(y.dtype).eps
    exact = rest <= eps * eps * (there * y * y).sum()
    return Fit(v, f, p, exact, ~_too_fast(t, v, f, rules).any())


def _too_fast(t: Any, v: Any, f: Any, rules: Rules) -> Any:
    """[S], recoveries that are not believed."""
    long, rise = jnp.diff(t[v]), jnp.diff(f)
    height = f.max() - f.min()
    speed = rise / jnp.where(long > 0, long, 1) / jnp.where(height > 0, height, 1)
    fast = speed > rules.recovery
    return (rise > 0) & (fast | (~rules.one_year & (long <= 1)))


def without_weakest(t: Any, y: Any, fit: Fit, last: Any, rules: Rules) -> Any:
    """The vertices less one: the least missed; of a forbidden recovery, if there is one."""
    v, f = fit.v, fit.f
    if v.shape[0] < 3:
        return v
    fast = _too_fast(t, v, f, rules)
    long = jnp.diff(t[v])
    speed = jnp.where(fast, jnp.diff(f) / jnp.where(long > 0, long, 1), -jnp.inf)
    inner = v[1:-1] < last
    # Either end of it, if it is not an end of the series.
    k = jnp.arange(1, v.shape[0] - 1)
    ends = inner & fast.any() & ((k == jnp.argmax(speed)) | (k == jnp.argmax(speed) + 1))
    a, c = v[:-2, None], v[2:, None]
    i = jnp.arange(y.shape[0], dtype=jnp.int32)[None]
    span = jnp.maximum(t[c] - t[a], jnp.finfo(y.dtype).tiny)
    line = f[:-2, None] + (f[2:] - f[:-2])[:, None] * (t[None] - t[a]) / span
    off = jnp.where((i >= a) & (i <= c), y[None] - line, 0)
    missed = jnp.where(inner, (off * off).sum(-1) / span[:, 0], jnp.inf)
    missed = jnp.where(ends.any() & ~ends, jnp.inf, missed)
    k = jnp.argmin(missed) + 1
    return jnp.where(inner.any(), jnp.sort(v.at[k].set(last)), v)
