"""One value a year from dated observations, by a rule that is stated.

    values [pixels T] or [pixels T bands], dates [T], mask [pixels T]  ->  [pixels Y] or [.. bands]

Not a mosaic of scenes: every pixel chooses for itself. Two rules over the observations of a season:

    median   of each band by itself
    medoid   the observation nearest to these medians, over all bands (sum of squares); the earlier
             of two. Bands then belong to one date. Flood (2013), Remote Sens. 5, 6481-6500
"""

from __future__ import annotations

import datetime
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

from .blocks import Numbers
from .dates import check_dates


class Composites(NamedTuple):
    """One value a year.

    Attributes:
      years: int64 [Y], on the host, without a gap.
      values: as given with Y in place of T; NaN where a year has no observation.
      n: int32 [pixels, Y], observations of the season.
    """

    years: Int[np.ndarray, " Y"]
    values: Float[Array, "pixels Y *bands"]
    n: Int[Array, "pixels Y"]


def annual_composites(
    values: Float[Numbers, "pixels T *bands"],
    dates: Any,
    mask: Bool[Numbers, "pixels T"] | None = None,
    *,
    season: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (12, 31)),
    rule: Literal["median", "medoid"] = "median",
) -> Composites:
    """Composites of a season, one a year.

    Args:
      values: [pixels, T] or [pixels, T, bands]; an observation counts where all bands are finite.
      dates: [T], datetime64 or what NumPy makes it from, in any order; two platforms may share one.
      mask: [pixels, T], True = counts; None = everything finite.
      season: first and last day, (month, day) each, both included, the same in leap years. One that
        ends before it begins goes over New Year and belongs to the year in which it ends.
      rule: see the module.

    Raises:
      DataError: shapes that do not fit, no dates, none in the season. ConfigError: an option.
    """
    if rule not in ("median", "medoid"):
        raise ConfigError("unknown option", where="rule", expected="median | medoid", found=rule)
    found = check_dates(dates, [str(i) for i in range(len(dates))])
    if values.ndim not in (2, 3) or values.shape[1:2] != found.shape:
        raise DataError(
            "dates do not fit the values", expected=f"[pixels, {len(found)}] (and bands)",
            found=values.shape,
        )  # fmt: skip
    if mask is not None and mask.shape != values.shape[:2]:
        raise DataError("the mask does not fit the values", expected=values.shape[:2],
                        found=mask.shape)  # fmt: skip
    years = _years(found, season)
    used = np.flatnonzero(years > 0)
    if len(used) == 0:
        raise DataError("no date in the season", where="season", found=f"{season}")
    used = used[np.lexsort((found[used], years[used]))]
    first, last = int(years[used[0]]), int(years[used[-1]])
    counts = np.bincount(years[used] - first)
    slots = np.full((last - first + 1, counts.max()), -1, np.int32)
    rank = np.arange(len(used)) - np.repeat(np.cumsum(counts) - counts, counts)
    slots[years[used] - first, rank] = used
    x = jnp.asarray(values)
    bands = x if x.ndim == 3 else x[..., None]
    there = jnp.isfinite(bands).all(-1)
    there = there if mask is None else there & jnp.asarray(mask)
    out, n = _composites(bands, there, jnp.asarray(slots), rule=rule)
    return Composites(np.arange(first, last + 1), out if x.ndim == 3 else out[..., 0], n)


def _years(dates: np.ndarray, season: Any) -> np.ndarray:
    """The year of the season of each date, 0 outside of it."""
    try:
        for month, day in season:
            datetime.date(2000, month, day)  # a leap year: 29 February may begin a season
        (first, last) = (100 * month + day for month, day in season)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            "no season", where="season", expected="((month, day), (month, day))", found=error
        ) from error
    month = dates.astype("datetime64[M]")
    year = dates.astype("datetime64[Y]")
    day = (dates.astype("datetime64[D]") - month.astype("datetime64[D]")).astype(np.int64) + 1
    day += 100 * ((month - year).astype(np.int64) + 1)
    number = year.astype(np.int64) + 1970
    if first <= last:
        return np.where((day >= first) & (day <= last), number, 0)
    return np.where(day >= first, number + 1, np.where(day <= last, number, 0))


@functools.partial(jax.jit, static_argnames="rule")
def _composites(x: Any, there: Any, slots: Any, *, rule: str) -> tuple[Any, Any]:
    """x [P T C], there [P T], slots [Y M] -> [P Y C], [P Y]."""
    inf = jnp.asarray(jnp.inf, x.dtype)
    known = there[:, slots] & (slots >= 0)[None]
    x = jnp.where(known[..., None], x[:, slots], inf)
    n = known.sum(2, dtype=jnp.int32)
    ordered = jnp.sort(x, axis=2)
    low, high = (
        jnp.take_along_axis(ordered, jnp.maximum(k, 0)[:, :, None, None], 2)
        for k in ((n - 1) // 2, n // 2)
    )
    median = (low + high) / 2
    if rule == "medoid":
        off = jnp.where(known, ((x - median) ** 2).sum(-1), inf)
        median = jnp.take_along_axis(x, jnp.argmin(off, 2)[:, :, None, None], 2)
    return jnp.where((n > 0)[..., None], median[:, :, 0], jnp.nan), n
