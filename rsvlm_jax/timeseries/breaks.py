"""Breaks of multispectral series in the manner of COLD and CCDC: when did it change, to what?

    values [pixels T C], times [T] or [pixels T] (decimal years)  ->  `Breaks`, segments of [pixels]

Not BFAST-monitor (`monitor.py`), which watches one series against one history. The rules are those
of Zhu et al. (2020), COLD, as `pyxccd` has them; see `watch.py` for how it runs, and for what is
ours: years of the calendar instead of 365.25 days; no bands beside those of the test while it runs;
at the end every segment is fitted once more on all its observations.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Bool, Float

from .blocks import Numbers, checked, in_blocks
from .dates import bucket
from .harmonic import ORIGIN, PENALTY
from .machine import Block, Found, Rules, at, coefficients, columns, lasso
from .pairs import middle
from .regressors import nearby, seasons
from .result import Code
from .watch import watch

OUTLIER = 1e-5
"""Probability of one observation that is further off than what is left out as no clear look."""

LEAST = 24
"""Observations without which a pixel is `Code.TOO_FEW`."""

BLOCK = 400_000
"""Numbers of a block, about: the wider, the less a step costs of all that is not arithmetic."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Breaks:
    """Segments of a pixel in the order of time; NaN (n: 0) behind the last.

    Attributes:
      start, end: [pixels, segments], decimal years of the first and the last observation.
      date: [pixels, segments], of the first observation behind the break that ends the segment; NaN
        where none does.
      probability: [pixels, segments], the share of the confirming observations that broke: 1 but
        for a change that the end of the series leaves open, 0 where there is none.
      magnitude: [pixels, segments, C], the median of these observations less the model.
      coefficients: [pixels, segments, C, 8], as of `Harmonic` with three waves: level at `origin`,
        slope per year, cos, sin ...; 0 for waves that so few observations do not bear.
      rmse: [pixels, segments, C];  n: int32 [pixels, segments], observations of the model.
      count: int32 [pixels], segments found; more than there is room for are not kept.
      code: int32 [pixels], a `Code`; `NOT_CONVERGED`: no stretch of the series bears a model.
    """

    start: Any
    end: Any
    date: Any
    probability: Any
    magnitude: Any
    coefficients: Any
    rmse: Any
    n: Any
    count: Any
    code: Any
    origin: float = dataclasses.field(default=ORIGIN, metadata={"static": True})

    @property
    def confirmed(self) -> Any:
        """[pixels, segments], whether a segment ends by a break for certain."""
        return self.probability == 1

    def predict(self, times: Float[Numbers, " N"]) -> Float[jax.Array, "pixels N C"]:
        """The models at some times, decimal years; NaN where no segment is."""
        dtype = self.start.dtype
        whole = float(np.floor(self.origin))
        near = jnp.asarray(times - np.asarray(whole, times.dtype), dtype)
        waves = seasons(near[:, None], 3)
        line = near - jnp.asarray(self.origin - whole, dtype)
        x = jnp.stack([jnp.ones_like(line), line, *(w[:, 0] for w in waves)], axis=1)
        at = near[None, None]
        inside = (at >= self.start[..., None] - whole) & (at <= self.end[..., None] - whole)
        each = jnp.einsum("np,isbp->isnb", x, self.coefficients, precision="highest")
        value = jnp.where(inside[..., None], each, 0).sum(1)
        return jnp.where(inside.any(1)[..., None], value, jnp.asarray(jnp.nan, dtype))


def detect_breaks(
    values: Float[Numbers, "pixels T C"],
    times: Float[Numbers, " T"] | Float[Numbers, "pixels T"],
    mask: Bool[Numbers, "pixels T"] | Bool[Numbers, "pixels T C"] | None = None,
    *,
    bands: tuple[int, ...] | None = None,
    screen: tuple[int, int] | None = None,
    alpha: float = 0.01,
    confirm: int = 6,
    penalty: float = PENALTY,
    segments: int = 10,
) -> Breaks:
    """Breaks and the segments between them.

    Args:
      values: [pixels, T, C], float32 or float64 (the latter under `jax.enable_x64`). A date counts
        where all bands are finite.
      times: decimal years, in any order; of equal ones that of the least value, of the first band
        in which they differ, counts. See `harmonic_fit`.
      mask: True = a clear look; None = everything finite.
      bands: those that are tested (COLD: green, red, near and short-wave infrared); None: all.
      screen: green and the first short-wave infrared, by which clouds that the mask has missed are
        found before a model starts; None: no such screening.
      alpha: chance of an observation to lie outside of the change threshold.
      confirm: consecutive observations outside that make a break.
      penalty: of the LASSO, in the unit of the values: 20 for reflectances x 10000.
      segments: room for so many of a pixel.

    Raises:
      DataError: shapes or types that do not fit. ConfigError: an option.
    """
    if values.ndim != 3:
        raise DataError("wrong number of axes", where="values pixels T C",
                        found=f"shape {values.shape}")  # fmt: skip
    tested = tuple(range(values.shape[2])) if bands is None else tuple(bands)
    for name, some in (("bands", tested), ("screen", tested[:1] if screen is None else screen)):
        if not some or not all(0 <= b < values.shape[2] for b in some):
            raise ConfigError("no such band", where=name, found=some,
                              expected=f"of 0 to {values.shape[2] - 1}")  # fmt: skip
    if screen is not None and not set(screen) <= set(tested):
        raise ConfigError("a band that is not tested", where="screen", expected=f"of {tested}",
                          found=screen)  # fmt: skip
    if not 0 < alpha < 1 or not penalty >= 0 or segments < 1 or not 2 <= confirm <= 12:
        raise ConfigError(
            "no such test", where="alpha, penalty, segments, confirm",
            expected="0 < alpha < 1, penalty >= 0, segments >= 1, confirm of 2 to 12",
            found=f"{alpha}, {penalty}, {segments}, {confirm}",
        )  # fmt: skip
    if mask is not None and mask.ndim == 2 and mask.shape == values.shape[:2]:
        mask = np.broadcast_to(mask[:, :, None], values.shape) if isinstance(
            mask, np.ndarray) else jnp.broadcast_to(mask[:, :, None], values.shape)  # fmt: skip
    near, base = nearby(times)
    x, near = checked(values, near, mask, "pixels T C")
    rows, window = _sizes(values, times, mask)
    from scipy.special import chdtri

    rules = Rules(float(chdtri(len(tested), alpha)), float(chdtri(len(tested), OUTLIER)), confirm,
                  window, segments)  # fmt: skip
    pair = None if screen is None else (tested.index(screen[0]), tested.index(screen[1]))
    base, weight = (jnp.asarray(a, x.dtype) for a in (base, penalty))
    return _detect(x, near, base, weight, rules=rules, tested=tested, pair=pair, rows=rows)


def _sizes(values: Any, times: Any, mask: Any) -> tuple[int, int]:
    """Rows that hold the clear observations of a pixel, and those of its first year and a half.

    Of arrays in this program all of them: only NumPy arrays are looked into.
    """
    length = values.shape[1]
    if not all(isinstance(a, np.ndarray) for a in (values, times)) or values.size == 0:
        return length, length
    there = np.isfinite(values).all(2)
    if mask is not None:
        there &= np.asarray(mask).all(2)
    rows = min(bucket(int(there.sum(1).max()) + 1), length)
    t = np.broadcast_to(times, there.shape)
    most = 1
    for series, some in zip(t, there, strict=True):
        own = np.sort(series[some])
        if len(own):
            most = max(most, int((np.searchsorted(own, own + 1.5) - np.arange(len(own))).max()))
    return rows, min(1 << (most + LEAST).bit_length(), rows)


class _Series(NamedTuple):
    t: Any
    y: Any
    n: Any


@functools.partial(jax.jit, static_argnames=("rules", "tested", "pair", "rows"))
def _detect(
    x: Any, times: Any, base: Any, penalty: Any, *, rules: Rules, tested: tuple[int, ...],
    pair: tuple[int, int] | None, rows: int,
) -> Breaks:  # fmt: skip
    def body(x: Any, t: Any) -> Breaks:
        series = _in_order(x, t, rows)
        y, level = _centred(series)
        waves = jnp.stack(seasons(jnp.where(jnp.isfinite(series.t), series.t, jnp.nan), 3))
        some = jnp.asarray(tested)
        step = jnp.abs(y[:, 1:] - y[:, :-1])
        known = jnp.arange(1, rows, dtype=jnp.int32)[:, None] < series.n[None]
        flat = jnp.where(known[None], step, jnp.asarray(jnp.nan, y.dtype)).transpose(1, 0, 2)
        variogram = middle(flat.reshape(rows - 1, -1)).reshape(y.shape[0], -1)
        spread = jnp.abs(y).max((1,))[some]
        constant = jnp.any(spread == 0, axis=0)
        able = (series.n >= LEAST) & ~constant
        n = jnp.where(able, series.n, 0)
        least = jnp.where(able[None], variogram[some], 1)
        block = Block(series.t, waves, y[some], n, least, penalty, pair)
        found = watch(block, rules)
        code = jnp.where(constant, int(Code.CONSTANT), int(Code.OK))
        code = jnp.where(series.n < LEAST, int(Code.TOO_FEW), code)
        code = jnp.where(series.n == 0, int(Code.ALL_MASKED), code)
        code = jnp.where((code == 0) & (found.count == 0), int(Code.NOT_CONVERGED), code)
        return _described(found, block._replace(y=y), level, base, rules, code)

    return in_blocks(body, x, times, numbers=BLOCK)


def _in_order(x: Float[Any, "T C B"], t: Float[Any, "T 1 Bt"], rows: int) -> _Series:
    """What is there, by time, in the first `rows`; of equal times that of the least values."""
    there = jnp.all(x == x, axis=1)
    inf = jnp.asarray(jnp.inf, x.dtype)
    t = jnp.where(there, jnp.broadcast_to(t[:, 0], there.shape), inf)

    def by_time(t: Any, x: Any) -> tuple[Any, Any]:
        order = jnp.argsort(t, axis=0, stable=True)
        return jnp.take_along_axis(t, order, 0), jnp.take_along_axis(x, order[:, None], 0)

    t, x = by_time(t, x)
    again = jnp.concatenate([jnp.zeros_like(t[:1], bool), (t[1:] == t[:-1]) & (t[1:] < inf)])

    def once(t: Any, x: Any) -> tuple[Any, Any]:
        bands = (x[:, band] for band in reversed(range(x.shape[1])))
        order = jnp.lexsort((*bands, t), axis=0)
        return by_time(jnp.where(again, inf, t), jnp.take_along_axis(x, order[:, None], 0))

    t, x = lax.cond(jnp.any(again), once, lambda t, x: (t, x), t, x)
    t, x = t[:rows], x[:rows]
    return _Series(t, x.transpose(1, 0, 2), (t < inf).sum(0, dtype=jnp.int32))


def _centred(series: _Series) -> tuple[Float[Any, "C T B"], Float[Any, "C B"]]:
    """Values less their mean, 0 behind the last; and the means."""
    there = jnp.arange(series.t.shape[0], dtype=jnp.int32)[:, None] < series.n[None]
    n = jnp.maximum(series.n, 1).astype(series.t.dtype)
    level = jnp.where(there[None], series.y, 0).sum(1) / n[None]
    return jnp.where(there[None], series.y - level[:, None], 0), level


def _described(
    found: Found, block: Block, level: Any, base: Any, rules: Rules, code: Any
) -> Breaks:
    """Dates, models and magnitudes of the segments."""
    rows = jnp.arange(block.t.shape[0], dtype=jnp.int32)[:, None]
    dtype = block.t.dtype
    origin = jnp.asarray(ORIGIN, dtype) - base

    def one(segment: Any) -> Any:
        first, last, broke, share = segment
        here = first >= 0
        used = found.clear & (rows >= first[None]) & (rows <= last[None]) & here[None]
        n = used.sum(0, dtype=jnp.int32)
        t = jnp.where(jnp.isfinite(block.t), block.t, 0)
        zero = at(t, first[None])[0]
        x = jnp.where(used[None], columns(t, zero, block.waves), 0)
        x = jnp.where(
            (jnp.arange(8, dtype=jnp.int32)[:, None] < coefficients(n)[None])[:, None], x, 0
        )
        beta = lasso(
            (x[:, None] * x[None]).sum(2),
            (x[:, None] * block.y[None]).sum(2),
            n,
            block.penalty,
            None,
        )
        r = jnp.where(used[None], block.y - (x[:, None] * beta[:, :, None]).sum(0), 0)
        freedom = jnp.maximum(n - coefficients(n), 1).astype(dtype)
        rmse = jnp.sqrt((r * r).sum(1) / freedom[None])
        ahead = broke[None] + jnp.arange(rules.confirm, dtype=jnp.int32)[:, None]
        seen = (ahead < block.n[None]) & (broke >= 0)[None]
        x = columns(at(t, ahead), zero, at(block.waves, ahead))
        off = at(block.y, ahead) - (x[:, None] * beta[:, :, None]).sum(0)
        off = jnp.where(seen[None], off, jnp.asarray(jnp.nan, dtype)).transpose(1, 0, 2)
        magnitude = middle(off.reshape(rules.confirm, -1)).reshape(rmse.shape)
        beta = beta.at[0].add(level + beta[1] * (origin - zero)[None])
        nan = jnp.asarray(jnp.nan, dtype)
        date = jnp.where(broke >= 0, at(block.t, broke[None])[0] + base, nan)
        start, end = zero + base, at(block.t, last[None])[0] + base
        known = (jnp.where(here, a, nan) for a in (start, end, date, share))
        shown = (jnp.where(here[None], a, nan) for a in (magnitude, rmse))
        return (*known, *shown, jnp.where(here[None, None], beta, nan), jnp.where(here, n, 0))

    segments = (found.first, found.last, found.broke, found.share)
    shapes = jax.eval_shape(one, jax.tree.map(lambda a: a[0], segments))

    def nothing(_: Any) -> Any:
        return tuple(jnp.full(a.shape, 0 if a.dtype == jnp.int32 else jnp.nan, a.dtype)
                     for a in shapes)  # fmt: skip

    each = lax.map(lambda s: lax.cond(jnp.any(s[0] >= 0), one, nothing, s), segments)
    start, end, date, share, magnitude, rmse, beta, n = each
    return Breaks(
        start.T, end.T, date.T, share.T, magnitude.transpose(2, 0, 1), beta.transpose(3, 0, 2, 1),
        rmse.transpose(2, 0, 1), n.T, found.count, code.astype(jnp.int32),
    )  # fmt: skip
