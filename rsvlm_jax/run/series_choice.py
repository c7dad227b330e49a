"""Which series: band set, bands or index, dates, season, platforms and place of a cube.

choose(cube, index="ndvi", where=region) -> Source     names and dates checked, no pixel read
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from data_zarr.cube import Cube
from data_zarr.errors import CubeError, CubeWarning
from data_zarr.format import BandSetInfo, near_miss
from data_zarr.grid import Grid
from data_zarr.harmonize import INSTRUMENTS, coefficients
from data_zarr.indices import INDICES, STAND_INS
from data_zarr.regions import Region
from data_zarr.sensors import PLATFORMS
from data_zarr.sites import Sites
from rsvlm_jax.config import ConfigError, DataError

from .series import LEAST_DATES, Harmonize, Source
from .trend_options import day

COLD = ("nir08", "red", "green", "swir16", "swir22")
"""Bands in which it looks for breaks; the first is the one that is reported."""


def choose(
    cube: Cube,
    *,
    index: str | None = None,
    bands: Sequence[str] = (),
    bandset: str | None = None,
    dates: tuple[str, str] | None = None,
    season: tuple[str, str] | None = None,
    platforms: Sequence[str] = (),
    where: Region | None = None,
    window: tuple[int, int, int, int] | None = None,
    harmonize: Harmonize = "none",
    several: bool = False,
) -> Source:
    """Settles what the series are.

    Args:
      index: one of `data_zarr.indices`, in any case.
      bands: instead of it; by default the only band of a band set, or of `several` those that
        COLD tests, as far as they are there.
      bandset: the first with dates that has the bands, by default.
      dates: the first and the last day that are taken.
      season: the first and the last day of each year that are taken, MM-DD.
      platforms: by name; all by default.
      where, window: the part of the cube that is wanted; (row, column, height, width) in pixels of
        the band set.
      harmonize: reflectances of every platform as those of OLI, by one of the regressions of
        `data_zarr.harmonize`; "none", with a `CubeWarning` where there are several instruments.
      several: whether the method takes more than one band.

    Raises:
      ConfigError: an index or a platform that does not exist; both ways to name a part or a series.
      CubeError: a band set or band that is not there; a part outside the cube; nothing published to
        harmonize by.
      DataError: fewer than four dates; dates without years; what is harmonized already.
    """
    bands, platforms = _names(bands, "--bands"), _names(platforms, "--platforms")
    for word, given, count in (
        ("--dates", dates, 2), ("--season", season, 2), ("--window", window, 4),
    ):  # fmt: skip
        if given is not None and (isinstance(given, str) or len(given) != count):
            raise ConfigError(
                "not as many words as it takes", where=word, expected=count, found=given
            )
    if harmonize not in get_args(Harmonize):
        raise ConfigError(
            "no such regression", where="--harmonize", expected=" | ".join(get_args(Harmonize)),
            found=harmonize,
        )  # fmt: skip
    if index is not None and bands:
        raise ConfigError("an index and bands", where="--index, --bands", expected="one of them")
    if len(bands) > 1 and not several:
        raise ConfigError(
            "a method of one series", where="--bands", expected="one band", found=" ".join(bands)
        )
    if where is not None and window is not None:
        raise ConfigError(
            "two parts of the cube", where="--where, --window", expected="one of them"
        )
    if index is not None and str(index).lower() not in INDICES:
        raise ConfigError(
            "no such index", where="--index", expected=" | ".join(INDICES), found=index,
            remedy=near_miss(str(index), INDICES),
        )  # fmt: skip
    name = None if index is None else index.lower()
    info, found = _bands_of(cube, name, tuple(bands), bandset, several)
    if not info.year_known:
        raise DataError(
            "dates without years have no trend", where=f"{cube.path}: {info.name}",
            expected="year_known", found="only the day of the year is real",
        )  # fmt: skip
    rows, keep = _taken(cube, info, dates, season, platforms)
    own = cube.grid_of(info.name)
    origin, grid = (0, 0), own
    if isinstance(own, Sites) and window is not None:
        raise ConfigError("places have no pixels", where="--window", remedy="select by --where")
    if isinstance(own, Sites) and where is not None and not where.of_sites(own).any():
        raise CubeError("the region and the cube do not meet", where=where.name)
    if isinstance(own, Grid) and (where is not None or window is not None):
        y, x, h, w = window if where is None else where.window(own)  # type: ignore[misc]
        if min(y, x) < 0 or min(h, w) < 1 or y + h > own.height or x + w > own.width:
            raise CubeError(
                "window outside the cube", where="--window",
                expected=f"ROW COLUMN HEIGHT WIDTH within {own.height} x {own.width} pixels",
                found=f"{y} {x} {h} {w}",
            )  # fmt: skip
        origin, grid = (y, x), own.window(y, x, h, w)
    source = Source(cube, info, found, name, rows, keep, grid, origin, where, harmonize)
    _check_instruments(source)
    return source


def _names(given: Any, word: str) -> tuple[str, ...]:
    """Names, one of which may stand alone; ConfigError for what is none."""
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise ConfigError("no name", where=word, expected="text", found=repr(name))
    return names


def _check_instruments(source: Source) -> None:
    """Refuses a regression that nobody has published; warns of a step that one would take away."""
    adjusted = "HLS" in source.info.source
    where = f"{source.cube.path}: {source.info.name}"
    if source.harmonize != "none":
        bands = [source.info.bands[source.info.index(b)] for b in source.bands]
        if adjusted or source.info.kind != "optical" or any(b.unit != "1" for b in bands):
            raise DataError(
                "nothing to harmonize", where=where, expected="surface reflectances as measured",
                found="HLS, which is harmonized" if adjusted else source.info.kind,
                remedy="--harmonize none",
            )  # fmt: skip
        coefficients(source.platforms, source.common_names, method=source.harmonize)
        return
    if adjusted or len({INSTRUMENTS.get(p) for p in source.platforms} - {None}) < 2:
        return
    try:
        coefficients(source.platforms, source.common_names)
    except CubeError:  # nothing published, nothing to advise
        return
    warnings.warn(
        f"several instruments in one series, and a step where they change ({where}: "
        f"{', '.join(source.platforms)}); --harmonize ols or rma takes away its mean",
        CubeWarning, stacklevel=3,
    )  # fmt: skip


def _bands_of(
    cube: Cube, index: str | None, bands: tuple[str, ...], bandset: str | None, several: bool
) -> tuple[BandSetInfo, tuple[str, ...]]:
    """The band set, and the bands of it, for each argument of the index."""
    dated = [b for b in cube.bandsets.values() if not b.static]
    if bandset is not None:
        dated = [cube.bandset(bandset)]
    if not dated or dated[0].static:
        raise CubeError("no series", where=cube.path, expected="a band set with dates")
    if index is None and not bands and several:
        for info in dated:
            there = {b.common_name: b.name for b in reversed(info.bands)}
            if len(found := tuple(there[b] for b in COLD if b in there)) > 1:
                return info, found
    if index is None and not bands:
        if len(dated) == 1 and len(dated[0].bands) == 1:
            return dated[0], dated[0].band_names
        raise ConfigError(
            "which series?", where=cube.path, expected="--index or --bands",
            found="; ".join(f"{b.name}: {' '.join(b.band_names)}" for b in dated),
        )  # fmt: skip
    wanted = [(b, *STAND_INS.get(b, ())) for b in (INDICES[index].bands if index else ())]
    wanted = wanted or [(b,) for b in bands]
    errors = []
    for info in dated:
        found = []
        for names in wanted:
            hits = [b.name for n in names for b in info.bands if n in (b.common_name, b.name)]
            if not hits:
                errors.append((" or ".join(names), info))
                break
            found.append(hits[0])
        else:
            return info, tuple(found)
    raise CubeError(
        "a band is missing",
        where=f"index {index!r}" if index else "--bands",
        expected=errors[0][0],
        found="; ".join(f"{b.name}: {' '.join(b.band_names)}" for _, b in errors),
    )


def _day_of_year(text: Any) -> np.datetime64:
    """MM-DD, in a leap year."""
    try:
        return day(f"2000-{text}", "--season")
    except ConfigError:
        raise ConfigError("no date", where="--season", expected="MM-DD", found=text) from None


def _taken(
    cube: Cube, info: BandSetInfo, dates: tuple[str, str] | None, season: tuple[str, str] | None,
    platforms: Sequence[str],
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """The rows that are taken, and of sites with dates of their own a mask [T, S]."""
    keep = ~np.isnat(info.dates)
    if dates is not None:
        first, last = (day(d, "--dates") for d in dates)
        if first > last:
            raise ConfigError(
                "dates that end before they begin", where="--dates", found=f"{first} {last}",
                expected="the first and the last day",
            )  # fmt: skip
        keep &= (info.dates >= first) & (info.dates < last + np.timedelta64(1, "D"))
    if season is not None:
        # Counted as in a leap year, so that the end of February is where it is.
        first, last = (_day_of_year(d) for d in season)
        if first > last:
            raise ConfigError(
                "a season that ends before it begins", where="--season", found=" ".join(season),
                expected="MM-DD MM-DD within a year",
            )  # fmt: skip
        month = info.dates.astype("datetime64[M]")
        within = info.dates.astype("datetime64[D]") - month.astype("datetime64[D]")
        moved = month.astype(np.int64) % 12 + np.datetime64("2000-01", "M")
        keep &= (moved.astype("datetime64[D]") + within >= first) & (
            moved.astype("datetime64[D]") + within <= last
        )
    for name in platforms:
        if name not in PLATFORMS:
            raise ConfigError(
                "no such platform", where="--platforms", found=name,
                expected=" ".join(PLATFORMS[int(p)] for p in np.unique(info.platform)),
                remedy=near_miss(name, PLATFORMS),
            )  # fmt: skip
    if platforms:
        keep &= np.isin(info.platform, [PLATFORMS.index(p) for p in platforms])
    most = int(keep.sum(axis=0).max())
    if most < LEAST_DATES:
        raise DataError(
            "too few dates for a trend", where=f"{cube.path}: {info.name}",
            expected=f"{LEAST_DATES} or more", found=most,
            remedy=f"it has {len(info.dates)} in all" if most < len(info.dates) else None,
        )  # fmt: skip
    if info.dates.ndim == 2:
        return np.arange(info.shape[0]), keep
    return np.flatnonzero(keep), None
