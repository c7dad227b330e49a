"""Leave-region-out, leave-site-out, leave-year-out: groups that need no geometry.

Samples that carry a label (site, region, year) are held out by `group_split`, or dealt to folds
whole by `group_folds`. A window of a raster carries no year: it reads a whole series. Then dates
are held out instead of samples (`year_split`), and both sides must say which dates they read:

    dates            2018-06  2018-09 | 2019-05  2019-07 | 2020-06        held: 2019
    a training sample may read  x        x                    x           all others are not valid
    a test sample may read                  x        x                    all others are not valid
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from data_zarr.errors import CubeError
from data_zarr.sensors import Number
from data_zarr.splits.strata import counts_of, deal
from data_zarr.splits.tiles import Split, checked


@dataclass(frozen=True, eq=False)
class DateSplit:
    """Which dates a sample may read; every other date is to be treated as not valid.

    Attributes:
      dates: datetime64 [T], or [T, S] where each place has its own.
      train: bool of the same shape, dates that a training sample may read.
      test: likewise for a test sample. No date is in both; dates near a border are in neither.
    """

    dates: Shaped[np.ndarray, "*t"]
    train: Bool[np.ndarray, "*t"]
    test: Bool[np.ndarray, "*t"]


def group_split(groups: Shaped[np.ndarray, " n"], held: Any | Collection[Any]) -> Split:
    """Leave groups out: sites, years, regions.

    Args:
      groups: the group of every sample.
      held: one group, or a list, tuple or set of them.

    Raises:
      CubeError: a group that does not occur, or no other group is left.
    """
    names: list[Any] = list(held) if isinstance(held, list | tuple | set | frozenset) else [held]
    absent = [name for name in names if not np.any(groups == name)]
    if absent:
        raise CubeError(
            "a group does not occur",
            expected=f"one of {np.unique(groups)[:10].tolist()}",
            found=absent[0],
        )
    out = np.isin(groups, names)
    return checked(np.flatnonzero(~out), np.flatnonzero(out), f"groups held out: {names}")


def group_folds(
    groups: Shaped[np.ndarray, " n"],
    folds: int | None = None,
    *,
    strata: Int[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> Int[np.ndarray, " n"]:
    """The fold of every sample; a group is never cut.

    Args:
      groups: the group of every sample.
      folds: how many; None makes each group a fold, in sorted order (leave one out).
      strata: of every sample, from `strata_of`: groups are dealt so that the strata balance.
      seed: of the dealing.

    Raises:
      CubeError: fewer groups than folds, or only one group.
    """
    names, group = np.unique(groups, return_inverse=True)
    group = group.reshape(-1)
    if len(names) < max(folds or 2, 2):
        raise CubeError(
            "fewer groups than folds",
            expected=f"at least {max(folds or 2, 2)} groups",
            found=f"{len(names)}: {names[:10].tolist()}",
            remedy="fewer folds" if len(names) > 1 else None,
        )
    if folds is None:
        return group.astype(np.int32)
    return deal(counts_of(group, strata), folds, seed)[group]


def year_split(
    dates: Shaped[np.ndarray, "*t"],
    held: int | Collection[int],
    *,
    gap_days: Number = 0,
    year_known: bool = True,
) -> DateSplit:
    """Hold out all dates of one or more years; see the module docstring for who reads what.

    The samples may be the same places on both sides, so a target that does not change with the
    year is seen in training: hold out places too where that matters.

    Args:
      dates: datetime64 [T] or [T, S]; NaT is on neither side.
      held: years.
      gap_days: dates within so many days of a held-out one are not read in training either.
      year_known: `BandSetInfo.year_known`; dates in a nominal year cannot be split by year.

    Raises:
      CubeError: a year without a date, no other year left, or years that are not real.
    """
    years = sorted({held} if isinstance(held, int | np.integer) else set(held))
    known = ~np.isnat(dates)
    if not year_known or not known.any():
        raise CubeError(
            "no years to hold out",
            where=f"years {years}",
            expected="dates with a real year",
            found="months in a nominal year" if not year_known else "no date",
            remedy="split by a label of the samples",
        )
    year = dates.astype("datetime64[Y]").astype(np.int64) + 1970
    have = np.unique(year[known])
    if absent := [y for y in years if y not in have]:
        raise CubeError("a year has no date", expected=f"one of {have.tolist()}", found=absent[0])
    test = known & np.isin(year, years)
    train = known & ~test
    if gap_days > 0:
        day = dates.astype("datetime64[s]").astype(np.int64) / 86400.0
        out = np.sort(day[test])
        at = np.searchsorted(out, day)
        before, after = out[np.maximum(at - 1, 0)], out[np.minimum(at, len(out) - 1)]
        train &= np.minimum(np.abs(day - before), np.abs(day - after)) > gap_days
    if not train.any():
        raise CubeError(
            "a split is empty",
            where=f"years held out: {years}",
            expected="a date left to train on",
            found="none",
            remedy="hold out fewer years, or a smaller gap_days",
        )
    return DateSplit(dates, train, test)


def sample_years(dates: Shaped[np.ndarray, "T S"]) -> Int[np.ndarray, " S"]:
    """The year of every place, to be held out as a group: that of all of its dates.

    Raises:
      CubeError: a place without a date, or with dates of several years (hold out dates instead).
    """
    year = (dates.astype("datetime64[Y]").astype(np.int64) + 1970).astype(np.float64)
    year[np.isnat(dates)] = np.nan
    some = np.isfinite(year)
    first = np.where(some, year, np.inf).min(axis=0)
    last = np.where(some, year, -np.inf).max(axis=0)
    bad = np.flatnonzero(first != last)
    if len(bad):
        i = int(bad[0])
        found = f"{first[i]:.0f}..{last[i]:.0f}" if some[:, i].any() else "no date"
        raise CubeError(
            "a place is not of one year",
            where=f"place {i}",
            expected="all of its dates in one year",
            found=found,
            remedy="hold out dates with `year_split`, or use a label",
        )
    return first.astype(np.int64)
