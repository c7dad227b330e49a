"""Dates in the steps of a cycle: which month of which year, and how far from its middle.

On the host, in float64. A cycle (a year) has `period` steps (12 months, 23 composites); the grid
counts them from its start. What computes by season takes its places from here:

    times 2020.00 2020.09 2021.25, period 12, grid from 2020.0  ->  places 0.0 1.08 15.0
                                                                  seasons   0    1    3
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rsvlm_jax.config.errors import ConfigError, DataError

SNAP = 1e-3
"""Within so much of a step, a time is on the grid: decimal years of months are not exact."""


class Steps(NamedTuple):
    """Places of times on a grid.

    Attributes:
      place: float64, as the times, in steps from the first of the grid; NaN where there is no time.
      count: steps of the grid.
      period: steps of a cycle.
    """

    place: np.ndarray
    count: int
    period: int

    def slots(self) -> np.ndarray:
        """[..., period, M]: which observations are of each season; -1 behind the last."""
        place = np.atleast_2d(self.place)
        known = np.isfinite(place)
        near = np.rint(np.where(known, place, 0)).astype(np.int64)
        season = np.where(known, near % self.period, self.period)
        tally = [np.bincount(row, minlength=self.period + 1)[: self.period] for row in season]
        most = max(int(np.max(tally)), 1)
        out = np.full((len(place), self.period, most), -1, np.int32)
        for row, of in zip(out, season, strict=True):
            order = np.argsort(of, kind="stable")
            ends = np.searchsorted(of[order], np.arange(self.period + 1))
            for k in range(self.period):
                found = order[ends[k] : ends[k + 1]]
                row[k, : len(found)] = found
        return out.reshape(*self.place.shape[:-1], self.period, most)


def steps_of(
    times: Any, period: int, cycle: float = 1.0, grid: tuple[float, int] | None = None
) -> Steps:
    """Places of times on a grid of `period` steps a cycle.

    Args:
      times: [T] or [pixels, T], numbers on the host; NaN = none.
      cycle: its length in units of the times.
      grid: where its first step is, and how many steps it has; None: from the first of the times to
        the last. Give it where series of different dates are to be on one grid.

    Raises:
      ConfigError: no period or cycle. DataError: fewer than two cycles; times outside of the grid.
    """
    if period < 2 or not cycle > 0:
        raise ConfigError("no cycle", where="period, cycle", expected="2 or more steps, above 0",
                          found=f"{period}, {cycle}")  # fmt: skip
    known = np.asarray(times, np.float64)
    step = cycle / period
    if grid is None and not np.isfinite(known).any():
        raise DataError("no times", where="times", expected="a finite one")
    place = (known - (np.nanmin(known) if grid is None else grid[0])) / step
    near = np.rint(place)
    place = np.where(np.abs(place - near) < SNAP, near, place)
    count = int(np.ceil(np.nanmax(place))) + 1 if grid is None else grid[1]
    if count < 2 * period:
        raise DataError(
            "fewer than two cycles", where="times", expected=f"{2 * period} steps or more",
            found=count,
        )  # fmt: skip
    if (place < 0).any() or (place > count - 1).any():
        raise DataError(
            "times outside of the grid", where="grid", expected=f"steps 0 to {count - 1}",
            found=f"{np.nanmin(place):.6g} to {np.nanmax(place):.6g}",
        )  # fmt: skip
    return Steps(place, count, period)
