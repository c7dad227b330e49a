"""`landtrendr` with its defaults, in plain loops over one series: slow, and easy to read."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.stats import f as fisher

SEGMENTS, OVERSHOOT, SPIKE, RECOVERY, P, PROPORTION = 6, 3, 0.9, 0.25, 0.05, 0.75


def segments_in_loops(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Vertex times, values at them, and p; a disturbance falls."""
    y = despiked(t, y.copy())
    v = culled(t, y, vertices(t, y))
    models = []
    while True:
        f = through(t, y, v)
        fast = recoveries(t, v, f)
        models.append((v, f, p_of(t, y, v, f), not any(fast)))
        if len(v) == 2:
            break
        ends = [k for k in range(1, len(v) - 1) if fast_end(fast, t, v, f, k)]
        among = ends or range(1, len(v) - 1)
        v = np.delete(v, min(among, key=lambda k: missed(t, y, v, f, k)))
    # Of series with few vertices the last model comes again and again: no matter.
    p = [m[2] if m[3] else 1.0 for m in models]
    if min(p) > P:
        return t[[0, -1]], np.full(2, y.mean()), min(p)
    v, f, found, _ = models[next(i for i, q in enumerate(p) if q <= (2 - PROPORTION) * min(p))]
    return t[v], f, found


def despiked(t: np.ndarray, y: np.ndarray) -> np.ndarray:
    for _ in range(len(y)):
        share = np.zeros(len(y))
        for i in range(1, len(y) - 1):
            most = max(abs(y[i] - y[i - 1]), abs(y[i] - y[i + 1]))
            share[i] = 1 - abs(y[i + 1] - y[i - 1]) / most if most > 0 else 0
        i = share.argmax()
        if share[i] <= SPIKE:
            break
        line = np.interp(t[i], t[[i - 1, i + 1]], y[[i - 1, i + 1]])
        y[i] += share[i] * (line - y[i])
    return y


def vertices(t: np.ndarray, y: np.ndarray) -> np.ndarray:
    v = [0, len(t) - 1]
    while len(v) < SEGMENTS + 1 + OVERSHOOT:
        best = None
        for a, b in itertools.pairwise(v):
            if b - a < 2:
                continue
            off = np.abs(
                y[a : b + 1] - np.polyval(np.polyfit(t[a : b + 1], y[a : b + 1], 1), t[a : b + 1])
            )
            if best is None or (off**2).mean() > best[0]:
                best = ((off**2).mean(), a + 1 + int(off[1:-1].argmax()))
        if best is None:
            break
        v = sorted([*v, best[1]])
    return np.array(v)


def culled(t: np.ndarray, y: np.ndarray, v: np.ndarray) -> np.ndarray:
    while len(v) > SEGMENTS + 1:
        a, b = t[v] / (t[-1] - t[0]), y[v] / np.ptp(y)
        angle = np.abs(np.arctan(np.diff(b) / np.diff(a)))
        weight = np.maximum(angle[:-1], angle[1:])
        weight *= 1 + 2 * np.maximum(b[1:-1] - b[2:], 0)
        v = np.delete(v, weight.argmin() + 1)
    return v


def through(t: np.ndarray, y: np.ndarray, v: np.ndarray) -> np.ndarray:
    f = []
    for a, b in itertools.pairwise(v):
        away, part = t[a : b + 1] - t[a], y[a : b + 1]
        if f:
            left = f[-1]
            slope = (away * (part - left)).sum() / (away**2).sum()
        else:
            slope, left = np.polyfit(away, part, 1)
        start = f[-1] if f else y[a]
        direct = (y[b] - start) / away[-1]
        errors = [((part - c - s * away) ** 2).sum() for c, s in ((start, direct), (left, slope))]
        if errors[0] < errors[1]:
            left, slope = start, direct
        f = [*f, left + slope * away[-1]] if f else [left, left + slope * away[-1]]
    return np.array(f)


def recoveries(t: np.ndarray, v: np.ndarray, f: np.ndarray) -> list[float]:
    """How fast each segment recovers where it may not; 0 where it may."""
    speed = np.diff(f) / np.diff(t[v])
    return [s if s / np.ptp(f) > RECOVERY else 0.0 for s in speed]


def fast_end(fast: list[float], t: np.ndarray, v: np.ndarray, f: np.ndarray, k: int) -> bool:
    """Whether a vertex is an end of the fastest of them."""
    worst = int(np.argmax(fast))
    return fast[worst] > 0 and k in (worst, worst + 1)


def missed(t: np.ndarray, y: np.ndarray, v: np.ndarray, f: np.ndarray, k: int) -> float:
    a, c = v[k - 1], v[k + 1]
    line = np.interp(t[a : c + 1], t[[a, c]], f[[k - 1, k + 1]])
    return ((y[a : c + 1] - line) ** 2).sum() / (t[c] - t[a])


def p_of(t: np.ndarray, y: np.ndarray, v: np.ndarray, f: np.ndarray) -> float:
    rest, total = ((y - np.interp(t, t[v], f)) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    parameters = 2 * (len(v) - 1)
    free = len(y) - parameters - 1
    if free <= 0:
        return 1.0
    return float(fisher.sf(max(total - rest, 0) / parameters / (rest / free), parameters, free))
