"""Continuous change detection on a block of pixels: every pixel a little machine, all in vectors.

    t [T B], waves [6 T B], y [bands T B], n [B]  ->  `Found`: first, last, break of each segment

A pixel starts a model on at least 12 observations of a year that lie well on it (START), extends it
back (BACK), fits it anew as observations come (REFIT) and looks ahead at the next few (STEP). These
all off by more than chance, and in one direction: a break, and the pixel starts again behind it.
One alone far off: no look at the ground, left out. Zhu et al. (2020), Remote Sens. Environ. 238,
111116 (COLD); Zhu and Woodcock (2014), 144, 152-171 (CCDC). Figures without a reference in this
file are from there.

Pixels of a block are at different places of different series. Each of the four is one program
for all; a pixel that wants another waits until its kind is in the majority. T passes over a block
are cheap; nothing is gathered but the observation in question and a window of the first year.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Bool, Float, Int

from .estimators import lasso_normal
from .screen import outliers

START, BACK, REFIT, STEP, DONE = range(5)

FEWEST, TIMES = 4, 3
"""Coefficients of the first model, and observations a coefficient."""

WHOLE = 24
"""A model of at most so many observations is fitted at every one."""

SHARE = 3
"""Longer ones are fitted again after so many percent more observations."""

ANGLE = 45.0
"""Degrees that consecutive differences may turn, on the average, in a change."""

TAIL = 6
"""Observations that make a segment before the first model, or after the last break."""

TRIES = 8
"""Of the LASSO while it runs: a model that is not at rest by then is good enough to go on."""

NEAR = 7
"""Halvings of half a year, to find the residuals nearest in the season."""

GAP = 1.0
"""Years without an observation that a first model may not bridge."""


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


def watch(block: Block, rules: Rules) -> Found:
    """All segments of a block."""
    # How many wait for a kind before it runs, of those that want another: by what it costs.
    kinds = ((START, _start, 1.0), (BACK, _back, 0.0), (REFIT, _refit, 0.0), (STEP, _step, 0.5))

    def wants(s: State, *some: int) -> Any:
        return sum((s.phase == kind).sum().astype(jnp.float32) for kind in some)

    def turn(s: State) -> State:
        for kind, step, share in kinds:
            others = [k for k in (START, BACK, REFIT, STEP) if k != kind]

            def enough(
                s: State, kind: int = kind, others: Any = others, share: float = share
            ) -> Any:
                mine = wants(s, kind)
                return (mine > 0) & (mine >= share * wants(s, *others))

            if share:
                s = lax.while_loop(enough, lambda s, step=step: step(block, rules, s), s)
            else:
                s = lax.cond(enough(s), lambda s, step=step: step(block, rules, s), lambda s: s, s)
        return s

    s = lax.while_loop(lambda s: wants(s, START, BACK, REFIT, STEP) > 0, turn, _begin(block, rules))
    return _end(block, s)


def _begin(block: Block, rules: Rules) -> State:
    bands, rows, wide = block.y.shape
    dtype = block.y.dtype
    none = jnp.zeros(wide, jnp.int32)
    no = jnp.zeros(wide, bool)
    empty = jnp.full((rules.segments, wide), -1, jnp.int32)
    there = jnp.arange(rows)[:, None] < block.n[None]
    found = Found(empty, empty, empty, jnp.zeros(empty.shape, dtype), there, none)
    enough = block.n >= TIMES * 8
    return State(
        phase=jnp.where(enough, START, DONE).astype(jnp.int32), start=none, tail=none, head=none,
        reach=none, span=none, fitted=none, since=none, place=none, new=no, whole=no,
        beta=jnp.zeros((8, bands, wide), dtype), rmse=jnp.zeros((bands, wide), dtype),
        squares=jnp.zeros((bands, rows, wide), dtype), xx=jnp.zeros((8, 8, wide), dtype),
        xy=jnp.zeros((8, bands, wide), dtype), zero=jnp.zeros(wide, dtype),
        z=jnp.zeros((rules.confirm, bands, wide), dtype), trained=no, found=found,
    )  # fmt: skip


def _start(block: Block, rules: Rules, s: State) -> State:
    """An attempt at a first model from `start` on."""
    go = s.phase == START
    rows = jnp.arange(rules.window)[:, None]
    place = s.start[None] + rows
    inside = place < block.n[None]
    t, waves, y = _window(block, place)
    clear = _at(s.found.clear, place) & inside
    count = jnp.cumsum(clear, axis=0, dtype=jnp.int32)
    never = rules.window + 1
    enough = clear & (count >= TIMES * FEWEST) & (t - t[:1] >= 1) & (place >= s.head[None])
    last = jnp.min(jnp.where(enough, rows, never), axis=0)
    none = last == never
    over = none & (s.start + rules.window < block.n)
    out = (none & ~over) | (~none & (s.start + last + rules.confirm >= block.n))
    inf = jnp.asarray(jnp.inf, t.dtype)
    before = lax.cummax(jnp.where(clear, t, -inf), axis=0)
    before = jnp.concatenate([jnp.full_like(before[:1], -jnp.inf), before[:-1]])
    used = clear & (rows <= last[None])
    gap = jnp.max(jnp.where(used & (before > -inf), t - before, 0), axis=0) > GAP
    following = s.start + _first(clear & (rows >= 1), 1)
    look = clear & (rows <= (last + rules.confirm)[None]) & (go & ~none & ~out & ~gap)[None]
    if block.screen is None:
        bad = jnp.zeros_like(look)
    else:
        pair = jnp.asarray(block.screen)
        bad = outliers(
            t, waves[0], waves[1], jnp.where(look[None], y[pair], 0), look, block.least[pair]
        )
    kept = used & ~bad
    n = kept.sum(0, dtype=jnp.int32)
    left = _first(kept, 0)
    right = jnp.max(jnp.where(kept, rows, -1), axis=0)
    t0, t1 = _pick(t, left), _pick(t, right)
    short = (n < TIMES * FEWEST) | ~(t1 - t0 >= 1)
    normal = go & ~none & ~out & ~gap & ~short
    # The first model and how well its ends and its trend lie on it.
    x = jnp.where(kept[None], jnp.stack([jnp.ones_like(t), t - t0[None], waves[0], waves[1]]), 0)
    xx = (x[:, None] * x[None]).sum(2)
    xy = (x[:, None] * y[None]).sum(2)
    beta = _lasso(xx, xy, jnp.where(normal, n, 0), block.penalty, None)
    r = jnp.where(kept[None], y - (x[:, None] * beta[:, :, None]).sum(0), 0)
    rmse = jnp.sqrt((r * r).sum(1) / jnp.maximum(n - FEWEST, 1).astype(t.dtype)[None])
    scale = jnp.maximum(block.least, rmse)
    ends = jnp.maximum(jnp.abs(_pick(r, left)), jnp.abs(_pick(r, right)))
    off = (jnp.abs(beta[1] * (t1 - t0)[None]) + ends) / scale
    stable = normal & ((off * off).sum(0) <= rules.change)
    unstable = normal & ~stable
    ahead = s.start + last + 1
    beyond = s.start + _first(kept & (rows > left[None]), 1)
    start = jnp.where(stable, s.start + left, s.start)
    start = jnp.where(unstable, beyond, start)
    start = jnp.where(go & (gap | over) & ~out, following, start)
    head = jnp.where(go & ~none & ~stable & ~out, ahead, s.head)
    head = jnp.where(stable, s.start + last, jnp.maximum(head, jnp.where(go, start, head)))
    phase = jnp.where(stable, BACK, s.phase)
    phase = jnp.where(go & out, DONE, phase)
    reach = jnp.where(go & gap & ~none & ~out, start, s.reach)
    removed = jnp.where(normal[None], used & bad, False)
    clear_now = _without(s.found.clear, removed, s.start, 1)
    whole = jnp.concatenate([beta, jnp.zeros((4, *beta.shape[1:]), beta.dtype)])
    return s._replace(
        phase=phase.astype(jnp.int32), start=start, head=head, reach=reach,
        tail=jnp.where(stable, s.start + right, s.tail),
        beta=jnp.where(stable[None, None], whole, s.beta),
        rmse=jnp.where(stable[None], rmse, s.rmse), zero=jnp.where(stable, t0, s.zero),
        found=s.found._replace(clear=clear_now),
    )  # fmt: skip


def _back(block: Block, rules: Rules, s: State) -> State:
    """The first model back in time, up to the last break, as long as observations lie on it."""
    go = s.phase == BACK
    rows = jnp.arange(rules.window)[:, None]
    place = s.start[None] - 1 - rows
    t, waves, y = _window(block, place)
    clear = _at(s.found.clear, place) & (place >= s.reach[None])
    n = clear.sum(0, dtype=jnp.int32)
    z = (y - _value(s, t, waves)) / jnp.maximum(block.least, s.rmse)[:, None]
    size = jnp.where(clear, (z * z).sum(0), 0)
    order = jnp.argsort(~clear, axis=0, stable=True)
    near = jnp.take_along_axis(z, order[None], axis=1)
    near_size = jnp.where(rows < n[None], jnp.take_along_axis(size, order, axis=0), jnp.inf)
    pairs = jnp.where(rows < n[None] - 1, _turn(near, _shift(near, 1, 1)), 0)
    least, turned = near_size, jnp.zeros_like(size)
    for k in range(1, rules.confirm):
        least = jnp.minimum(least, _shift(near_size, k, 0, jnp.inf))
        turned += _shift(pairs, k - 1, 0)
    looked = jnp.clip(n[None] - rows, 1, rules.confirm)
    turned /= jnp.maximum(looked - 1, 1).astype(t.dtype)
    breaks = (rows < n[None]) & (least > rules.change) & (turned < ANGLE)
    stop = jnp.min(jnp.where(breaks, rows, n[None]), axis=0)
    rank = jnp.cumsum(clear, axis=0, dtype=jnp.int32) - 1
    passed = clear & (rank < stop[None]) & go[None]
    removed = passed & (size > rules.outlier)
    reached = jnp.max(jnp.where(passed & ~removed, rows, -1), axis=0)
    start = s.start - 1 - reached
    clear_now = _without(s.found.clear, removed, s.start - 1, -1)
    # What lies before the first model and is enough for one of its own.
    all_rows = jnp.arange(clear_now.shape[0])[:, None]
    before = clear_now & (all_rows >= s.reach[None]) & (all_rows < start[None])
    extra = go & (s.found.count == 0) & (before.sum(0, dtype=jnp.int32) >= TAIL)
    last = jnp.max(jnp.where(before, all_rows, -1), axis=0)
    found = _record(s.found._replace(clear=clear_now), extra, s.reach, last, start, 1.0)
    used = clear_now & (all_rows >= start[None]) & (all_rows <= s.head[None])
    zero = _pick(block.t, jnp.where(go, start, 0))
    x = jnp.where(used[None], _columns(block.t, zero, block.waves), 0)
    return s._replace(
        phase=jnp.where(go, REFIT, s.phase).astype(jnp.int32), start=jnp.where(go, start, s.start),
        span=jnp.where(go, used.sum(0, dtype=jnp.int32), s.span),
        xx=jnp.where(go[None, None], (x[:, None] * x[None]).sum(2), s.xx),
        xy=jnp.where(go[None, None], (x[:, None] * block.y[None]).sum(2), s.xy),
        new=s.new | go, zero=jnp.where(go, zero, s.zero),
        beta=jnp.where(go[None, None], 0, s.beta), found=found,
    )  # fmt: skip


def _refit(block: Block, rules: Rules, s: State) -> State:
    """The model anew, by the moments of all its observations."""
    go = s.phase == REFIT
    rows = jnp.arange(block.t.shape[0])[:, None]
    size = coefficients(s.span)
    on = jnp.arange(8)[:, None] < size[None]
    xx = jnp.where(on[:, None] & on[None], s.xx, 0)
    beta = _lasso(
        xx, jnp.where(on[:, None], s.xy, 0), jnp.where(go, s.span, 0), block.penalty, s.beta
    )
    beta = jnp.where(go[None, None], beta, s.beta)
    zero = s.zero
    used = s.found.clear & (rows >= s.start[None]) & (rows <= s.head[None])
    fresh = s._replace(beta=beta)
    r = jnp.where(used[None], block.y - _value(fresh, block.t, block.waves), 0)
    squares = jnp.where(go[None, None], r * r, s.squares)
    freedom = jnp.maximum(s.span - size, 1).astype(beta.dtype)
    rmse = jnp.where(go[None], jnp.sqrt(squares.sum(1) / freedom[None]), s.rmse)
    whole = go & (s.new | (s.span <= WHOLE))
    ahead = s.head[None] + 1 + jnp.arange(rules.confirm)[:, None]
    t, waves, y = _window(block, ahead)
    z = (y - _value(fresh, t, waves)) / jnp.maximum(block.least, rmse)[:, None]
    z = jnp.where(whole[None, None], z.transpose(1, 0, 2), s.z)
    return s._replace(
        phase=jnp.where(go, STEP, s.phase).astype(jnp.int32), beta=beta, rmse=rmse, zero=zero,
        squares=squares, z=z, whole=jnp.where(go, whole, s.whole), new=s.new & ~go,
        fitted=jnp.where(go, s.span, s.fitted), since=jnp.where(go, 0, s.since),
        place=jnp.where(go, s.head, s.place),
    )  # fmt: skip


def _step(block: Block, rules: Rules, s: State) -> State:
    """One observation: the look ahead tells a break, an outlier, or nothing new."""
    go = s.phase == STEP
    rows = jnp.arange(block.t.shape[0])[:, None]
    dtype = block.t.dtype
    ahead = s.head + rules.confirm
    t, waves, y = (a[:, 0] if a.ndim == 3 else a[0] for a in _window(block, ahead[None]))
    # The rmse of this time of the year: of the residuals nearest to it, whatever the year.
    used = s.found.clear & (rows >= s.start[None]) & (rows <= s.place[None])
    size = coefficients(s.fitted)
    away = block.t - t[None]
    away = jnp.where(used, jnp.abs(away - jnp.round(away)), 1)

    def halve(_: Any, ends: Any) -> Any:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = (away <= middle[None]).sum(0, dtype=jnp.int32) >= TIMES * size
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    half = jnp.full(t.shape, 0.5, dtype)
    near = away <= lax.fori_loop(0, NEAR, halve, (jnp.zeros_like(half), half))[1][None]
    freedom = jnp.maximum(near.sum(0, dtype=jnp.int32) - size, 1).astype(dtype)
    seasonal = jnp.sqrt(jnp.where(near[None], s.squares, 0).sum(1) / freedom[None])
    value = _value(s, t[None], waves[:, None])[:, 0]
    z = (y - value) / jnp.maximum(block.least, seasonal)
    z = jnp.where(s.whole[None, None], s.z, jnp.concatenate([s.z[1:], z[None]]))
    sizes = (z * z).sum(1)
    turned = _turn(z[:-1].transpose(1, 0, 2), z[1:].transpose(1, 0, 2)).mean(0)
    change = go & (jnp.min(sizes, axis=0) > rules.change) & (turned < ANGLE)
    drop = go & ~change & (sizes[0] > rules.outlier)
    taken = go & ~change & ~drop
    here = s.head + 1
    found = _record(s.found, change, s.start, s.tail, here, 1.0)
    clear = found.clear & ~(drop[None] & (rows == here[None]))
    # The model takes the next observation in.
    t, waves, y = (a[:, 0] if a.ndim == 3 else a[0] for a in _window(block, here[None]))
    x = jnp.where(taken[None], _columns(t, s.zero, waves), 0)
    head = jnp.where(go, here, s.head)
    span = s.span + taken.astype(jnp.int32)
    since = s.since + taken.astype(jnp.int32)
    over = go & ~change & (head + rules.confirm >= block.n)
    # At the end: how many of the last observations are off, from the last that is not.
    turns = [
        _turn(z[k:-1].transpose(1, 0, 2), z[k + 1 :].transpose(1, 0, 2)).mean(0)
        if k + 1 < rules.confirm
        else jnp.zeros_like(t)
        for k in range(rules.confirm)
    ]
    calm = (sizes <= rules.change) | (jnp.stack(turns) >= ANGLE)
    places = jnp.arange(1, rules.confirm + 1)[:, None]
    stable = jnp.max(jnp.where(calm, places, 0), axis=0)
    share = (rules.confirm - stable).astype(dtype) / rules.confirm
    broke = jnp.where(stable < rules.confirm, here + stable, -1)
    found = _record(found._replace(clear=clear), over, s.start, s.head + stable, broke, share)
    refit = (span <= WHOLE) | (since > s.fitted * SHARE // 100)
    phase = jnp.where(go & refit, REFIT, s.phase)
    phase = jnp.where(change, START, phase)
    phase = jnp.where(over, DONE, phase)
    return s._replace(
        phase=phase.astype(jnp.int32), start=jnp.where(change, here, s.start), head=head,
        tail=jnp.where(taken, here, s.tail), reach=jnp.where(change, here, s.reach), span=span,
        since=since, whole=s.whole & ~go, z=jnp.where(go[None, None], z, s.z),
        xx=s.xx + x[:, None] * x[None], xy=s.xy + x[:, None] * y[None], trained=s.trained | over,
        found=found,
    )  # fmt: skip


def _end(block: Block, s: State) -> Found:
    """With a segment of what is left behind the last break, where there is no model."""
    rows = jnp.arange(block.t.shape[0])[:, None]
    left = s.found.clear & (rows >= s.reach[None]) & ~s.trained[None]
    left &= (block.n >= TIMES * 8)[None]
    if block.screen is not None:
        pair = jnp.asarray(block.screen)
        y = jnp.where(left[None], block.y[pair], 0)
        t = jnp.where(left, block.t, 0)
        bad = outliers(t, block.waves[0], block.waves[1], y, left, block.least[pair])
        enough = left.sum(0, dtype=jnp.int32) >= TAIL
        bad &= enough[None]
        left &= ~bad
        s = s._replace(found=s.found._replace(clear=s.found.clear & ~bad))
    some = left.sum(0, dtype=jnp.int32) >= TAIL
    last = jnp.max(jnp.where(left, rows, -1), axis=0)
    return _record(s.found, some, s.reach, last, jnp.full_like(last, -1), 0.0)


def coefficients(n: Int[Any, " B"]) -> Int[Any, " B"]:
    """Of a model of n observations: 4, 6 or 8."""
    return 4 + 2 * (n >= TIMES * 6).astype(jnp.int32) + 2 * (n >= TIMES * 8).astype(jnp.int32)


def _lasso(xx: Any, xy: Any, n: Any, penalty: Any, begin: Any) -> Any:
    """beta [p bands B]; the matrices are the same for all bands."""
    p, bands, wide = xy.shape
    each = jnp.broadcast_to(xx[:, :, None], (p, p, bands, wide)).reshape(p, p, bands * wide)
    count = jnp.broadcast_to(n.astype(xx.dtype)[None], (bands, wide)).reshape(-1)
    begin = None if begin is None else begin.reshape(p, -1)
    beta, _, _ = lasso_normal(each, xy.reshape(p, -1), count, penalty, begin, TRIES)
    return beta.reshape(p, bands, wide)


def _columns(t: Any, zero: Any, waves: Any) -> Any:
    """[8 ...]: the regressors at times [... B]."""
    line = t - jnp.broadcast_to(zero, t.shape)
    line = jnp.where(jnp.isfinite(line), line, 0)
    return jnp.concatenate([jnp.ones_like(line)[None], line[None], waves])


def _value(s: State, t: Float[Any, "W B"], waves: Float[Any, "6 W B"]) -> Float[Any, "bands W B"]:
    """The model at some times: written out, so that it is one pass over [bands W B]."""
    line = jnp.where(jnp.isfinite(t), t - s.zero[None], 0)
    total = s.beta[0][:, None] + s.beta[1][:, None] * line[None]
    for k in range(waves.shape[0]):
        total += s.beta[k + 2][:, None] * waves[k][None]
    return total


def _window(block: Block, place: Int[Any, "W B"]) -> tuple[Any, Any, Any]:
    return _at(block.t, place), _at(block.waves, place), _at(block.y, place)


def _at(a: Any, place: Int[Any, "W B"]) -> Any:
    """a [... T B] at places, which may lie outside."""
    place = jnp.clip(place, 0, a.shape[-2] - 1)
    place = place.reshape((1,) * (a.ndim - 2) + place.shape)
    return jnp.take_along_axis(a, place, axis=a.ndim - 2)


def _pick(a: Any, place: Int[Any, " B"]) -> Any:
    """a [... T B] at one place of every pixel, [... B]."""
    return _at(a, place[None])[..., 0, :]


def _first(there: Bool[Any, "W B"], other: int) -> Int[Any, " B"]:
    """The first row that is there, or another."""
    rows = jnp.arange(there.shape[0])[:, None]
    found = jnp.min(jnp.where(there, rows, there.shape[0]), axis=0)
    return jnp.where(found < there.shape[0], found, other)


def _without(clear: Any, removed: Bool[Any, "W B"], start: Any, way: int) -> Any:
    """clear [T B] less what is removed of the window from `start` on (way 1) or back (-1)."""
    rows = jnp.arange(clear.shape[0])[:, None]
    place = (rows - start[None]) * way
    inside = (place >= 0) & (place < removed.shape[0])
    return clear & ~(_at(removed, place) & inside)


def _shift(a: Any, k: int, axis: int, fill: float = 0.0) -> Any:
    """a[j + k] at j."""
    if k == 0:
        return a
    kept = lax.slice_in_dim(a, min(k, a.shape[axis]), None, axis=axis)
    wide = [(0, 0)] * a.ndim
    wide[axis] = (0, a.shape[axis] - kept.shape[axis])
    return jnp.pad(kept, wide, constant_values=fill)


def _turn(a: Float[Any, "bands W B"], b: Float[Any, "bands W B"]) -> Float[Any, "W B"]:
    """Degrees between differences."""
    norm = jnp.sqrt((a * a).sum(0) * (b * b).sum(0))
    cosine = (a * b).sum(0) / jnp.where(norm > 0, norm, 1)
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def _record(found: Found, which: Any, first: Any, last: Any, broke: Any, share: Any) -> Found:
    """With a segment more for some pixels."""
    rows = jnp.arange(found.first.shape[0])[:, None]
    here = (rows == found.count[None]) & which[None]
    share = jnp.broadcast_to(jnp.asarray(share, found.share.dtype), which.shape)
    return found._replace(
        first=jnp.where(here, first[None], found.first),
        last=jnp.where(here, last[None], found.last),
        broke=jnp.where(here, broke[None], found.broke),
        share=jnp.where(here, share[None], found.share),
        count=found.count + which.astype(jnp.int32),
    )
