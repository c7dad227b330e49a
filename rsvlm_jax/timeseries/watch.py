"""Continuous change detection on a block of pixels: every pixel a little machine, all in vectors.

    t [T B], waves [6 T B], y [bands T B], n [B]  ->  `Found`: first, last, break of each segment

A pixel starts a model on at least 12 observations of a year that lie well on it (START), extends it
back (BACK), fits it anew as observations come (REFIT) and looks ahead at the next few (STEP). These
all off by more than chance, and in one direction: a break, and the pixel starts again behind it.
One alone far off: no look at the ground, left out. Zhu et al. (2020), Remote Sens. Environ. 238,
111116 (COLD); Zhu and Woodcock (2014), 144, 152-171 (CCDC). Figures without a reference in this
file are from there.

Pixels of a block are at different places of different series. Each of the four is one program
for all; a pixel that wants one waits until enough others want the same. Passes over all T of a
block are cheap; nothing is gathered but single observations and a window of the first year.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from rsvlm_jax.core.shapes import Float, Int

from .machine import (
    TIMES,
    Block,
    Found,
    Rules,
    State,
    at,
    coefficients,
    columns,
    first_of,
    lasso,
    look,
    pick,
    recorded,
    shift,
    turned_by,
    value_at,
    without,
)
from .screen import outliers

START, BACK, REFIT, STEP, DONE = range(5)

FEWEST = 4
"""Coefficients of the first model."""

WHOLE = 24
"""A model of at most so many observations is fitted at every one."""

SHARE = 3
"""Longer ones are fitted again after so many percent more observations."""

ANGLE = 45.0
"""Degrees that consecutive differences may turn, on the average, in a change."""

TAIL = 6
"""Observations that make a segment before the first model, or after the last break."""

NEAR = 7
"""Halvings of half a year, to find the residuals nearest in the season."""

GAP = 1.0
"""Years without an observation that a first model may not bridge."""


def watch(block: Block, rules: Rules) -> Found:
    """All segments of a block."""
    # A kind runs while so many want it, over all that want another: fewer of what costs little.
    # The shares of all that this asks for (x / (1 + x)) sum up to less than 1: one always runs.
    kinds = ((START, _start, 0.65), (BACK, _back, 0.0), (REFIT, _refit, 0.33), (STEP, _step, 0.5))

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

            s = lax.while_loop(enough, lambda s, step=step: step(block, rules, s), s)
        return s

    s = lax.while_loop(lambda s: wants(s, START, BACK, REFIT, STEP) > 0, turn, _begin(block, rules))
    return _end(block, s)


def _begin(block: Block, rules: Rules) -> State:
    bands, rows, wide = block.y.shape
    dtype = block.y.dtype
    none = jnp.zeros(wide, jnp.int32)
    no = jnp.zeros(wide, bool)
    empty = jnp.full((rules.segments, wide), -1, jnp.int32)
    there = jnp.arange(rows, dtype=jnp.int32)[:, None] < block.n[None]
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
    rows = jnp.arange(rules.window, dtype=jnp.int32)[:, None]
    place = s.start[None] + rows
    inside = place < block.n[None]
    t, waves, y = look(block, place)
    clear = at(s.found.clear, place) & inside
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
    following = s.start + first_of(clear & (rows >= 1), 1)
    seen = clear & (rows <= (last + rules.confirm)[None]) & (go & ~none & ~out & ~gap)[None]
    if block.screen is None:
        bad = jnp.zeros_like(seen)
    else:
        pair = jnp.asarray(block.screen)
        bad = outliers(
            t, waves[0], waves[1], jnp.where(seen[None], y[pair], 0), seen, block.least[pair]
        )
    kept = used & ~bad
    n = kept.sum(0, dtype=jnp.int32)
    left = first_of(kept, 0)
    right = jnp.max(jnp.where(kept, rows, -1), axis=0)
    t0, t1 = pick(t, left), pick(t, right)
    short = (n < TIMES * FEWEST) | ~(t1 - t0 >= 1)
    normal = go & ~none & ~out & ~gap & ~short
    # The first model and how well its ends and its trend lie on it.
    x = jnp.where(kept[None], jnp.stack([jnp.ones_like(t), t - t0[None], waves[0], waves[1]]), 0)
    xx = (x[:, None] * x[None]).sum(2)
    xy = (x[:, None] * y[None]).sum(2)
    beta = lasso(xx, xy, jnp.where(normal, n, 0), block.penalty, None)
    r = jnp.where(kept[None], y - (x[:, None] * beta[:, :, None]).sum(0), 0)
    rmse = jnp.sqrt((r * r).sum(1) / jnp.maximum(n - FEWEST, 1).astype(t.dtype)[None])
    scale = jnp.maximum(block.least, rmse)
    ends = jnp.maximum(jnp.abs(pick(r, left)), jnp.abs(pick(r, right)))
    off = (jnp.abs(beta[1] * (t1 - t0)[None]) + ends) / scale
    stable = normal & ((off * off).sum(0) <= rules.change)
    unstable = normal & ~stable
    ahead = s.start + last + 1
    beyond = s.start + first_of(kept & (rows > left[None]), 1)
    start = jnp.where(stable, s.start + left, s.start)
    start = jnp.where(unstable, beyond, start)
    start = jnp.where(go & (gap | over) & ~out, following, start)
    head = jnp.where(go & ~none & ~stable & ~out, ahead, s.head)
    head = jnp.where(stable, s.start + last, jnp.maximum(head, jnp.where(go, start, head)))
    phase = jnp.where(stable, BACK, s.phase)
    phase = jnp.where(go & out, DONE, phase)
    reach = jnp.where(go & gap & ~none & ~out, start, s.reach)
    removed = jnp.where(normal[None], used & bad, False)
    clear_now = without(s.found.clear, removed, s.start, 1)
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
    rows = jnp.arange(rules.window, dtype=jnp.int32)[:, None]
    place = s.start[None] - 1 - rows
    t, waves, y = look(block, place)
    clear = at(s.found.clear, place) & (place >= s.reach[None])
    n = clear.sum(0, dtype=jnp.int32)
    z = (y - value_at(s, t, waves)) / jnp.maximum(block.least, s.rmse)[:, None]
    size = jnp.where(clear, (z * z).sum(0), 0)
    order = jnp.argsort(~clear, axis=0, stable=True)
    near = jnp.take_along_axis(z, order[None], axis=1)
    near_size = jnp.where(rows < n[None], jnp.take_along_axis(size, order, axis=0), jnp.inf)
    pairs = jnp.where(rows < n[None] - 1, turned_by(near, shift(near, 1, 1)), 0)
    least, turned = near_size, jnp.zeros_like(size)
    for k in range(1, rules.confirm):
        least = jnp.minimum(least, shift(near_size, k, 0, jnp.inf))
        turned += shift(pairs, k - 1, 0)
    looked = jnp.clip(n[None] - rows, 1, rules.confirm)
    turned /= jnp.maximum(looked - 1, 1).astype(t.dtype)
    breaks = (rows < n[None]) & (least > rules.change) & (turned < ANGLE)
    stop = jnp.min(jnp.where(breaks, rows, n[None]), axis=0)
    rank = jnp.cumsum(clear, axis=0, dtype=jnp.int32) - 1
    passed = clear & (rank < stop[None]) & go[None]
    removed = passed & (size > rules.outlier)
    reached = jnp.max(jnp.where(passed & ~removed, rows, -1), axis=0)
    start = s.start - 1 - reached
    clear_now = without(s.found.clear, removed, s.start - 1, -1)
    # What lies before the first model and is enough for one of its own.
    all_rows = jnp.arange(clear_now.shape[0], dtype=jnp.int32)[:, None]
    before = clear_now & (all_rows >= s.reach[None]) & (all_rows < start[None])
    extra = go & (s.found.count == 0) & (before.sum(0, dtype=jnp.int32) >= TAIL)
    last = jnp.max(jnp.where(before, all_rows, -1), axis=0)
    found = recorded(s.found._replace(clear=clear_now), extra, s.reach, last, start, 1.0)
    used = clear_now & (all_rows >= start[None]) & (all_rows <= s.head[None])
    zero = pick(block.t, jnp.where(go, start, 0))
    x = jnp.where(used[None], columns(block.t, zero, block.waves), 0)
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
    rows = jnp.arange(block.t.shape[0], dtype=jnp.int32)[:, None]
    size = coefficients(s.span)
    on = jnp.arange(8, dtype=jnp.int32)[:, None] < size[None]
    xx = jnp.where(on[:, None] & on[None], s.xx, 0)
    beta = lasso(
        xx, jnp.where(on[:, None], s.xy, 0), jnp.where(go, s.span, 0), block.penalty, s.beta
    )
    beta = jnp.where(go[None, None], beta, s.beta)
    zero = s.zero
    used = s.found.clear & (rows >= s.start[None]) & (rows <= s.head[None])
    fresh = s._replace(beta=beta)
    r = jnp.where(used[None], block.y - value_at(fresh, block.t, block.waves), 0)
    squares = jnp.where(go[None, None], r * r, s.squares)
    freedom = jnp.maximum(s.span - size, 1).astype(beta.dtype)
    rmse = jnp.where(go[None], jnp.sqrt(squares.sum(1) / freedom[None]), s.rmse)
    whole = go & (s.new | (s.span <= WHOLE))
    ahead = s.head[None] + 1 + jnp.arange(rules.confirm, dtype=jnp.int32)[:, None]
    t, waves, y = look(block, ahead)
    z = (y - value_at(fresh, t, waves)) / jnp.maximum(block.least, rmse)[:, None]
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
    rows = jnp.arange(block.t.shape[0], dtype=jnp.int32)[:, None]
    dtype = block.t.dtype
    ahead = s.head + rules.confirm
    t, waves, y = (a[:, 0] if a.ndim == 3 else a[0] for a in look(block, ahead[None]))
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
    value = value_at(s, t[None], waves[:, None])[:, 0]
    z = (y - value) / jnp.maximum(block.least, seasonal)
    z = jnp.where(s.whole[None, None], s.z, jnp.concatenate([s.z[1:], z[None]]))
    sizes = (z * z).sum(1)
    turned = turned_by(z[:-1].transpose(1, 0, 2), z[1:].transpose(1, 0, 2)).mean(0)
    change = go & (jnp.min(sizes, axis=0) > rules.change) & (turned < ANGLE)
    drop = go & ~change & (sizes[0] > rules.outlier)
    taken = go & ~change & ~drop
    here = s.head + 1
    head = jnp.where(go, here, s.head)
    over = go & ~change & (head + rules.confirm >= block.n)
    clear = s.found.clear & ~(drop[None] & (rows == here[None]))
    # At the end of the series a change may be left open.
    stable = lax.cond(
        jnp.any(over), lambda: _calm(z, sizes, rules), lambda: jnp.full_like(here, rules.confirm)
    )
    share = jnp.where(over, (rules.confirm - stable).astype(dtype) / rules.confirm, 1)
    found = recorded(
        s.found._replace(clear=clear), change | over, s.start,
        jnp.where(change, s.tail, s.head + stable),
        jnp.where(change, here, jnp.where(stable < rules.confirm, here + stable, -1)), share,
    )  # fmt: skip
    # The model takes the next observation in.
    t, waves, y = (a[:, 0] if a.ndim == 3 else a[0] for a in look(block, here[None]))
    x = jnp.where(taken[None], columns(t, s.zero, waves), 0)
    span = s.span + taken.astype(jnp.int32)
    since = s.since + taken.astype(jnp.int32)
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


def _calm(z: Float[Any, "ahead bands B"], sizes: Any, rules: Rules) -> Int[Any, " B"]:
    """How many observations it takes ahead to the last one from which on there is no change."""
    turns = [
        turned_by(z[k:-1].transpose(1, 0, 2), z[k + 1 :].transpose(1, 0, 2)).mean(0)
        for k in range(rules.confirm - 1)
    ]
    turned = jnp.stack([*turns, jnp.zeros_like(turns[0])])
    calm = (sizes <= rules.change) | (turned >= ANGLE)
    places = jnp.arange(1, rules.confirm + 1, dtype=jnp.int32)[:, None]
    return jnp.max(jnp.where(calm, places, 0), axis=0)


def _end(block: Block, s: State) -> Found:
    """With a segment of what is left behind the last break, where there is no model."""
    rows = jnp.arange(block.t.shape[0], dtype=jnp.int32)[:, None]
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
    return recorded(s.found, some, s.reach, last, jnp.full_like(last, -1), 0.0)
