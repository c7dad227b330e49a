"""Years of a cube held out by date: which dates each side may read, band set by band set.

Every sample stays where it is, so a target that does not change with the year is known from
training: hold out places as well (`cubefolds`) where that matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from data_zarr.cube import Cube
from data_zarr.sensors import Number
from data_zarr.splits import DateSplit, year_split
from rsvlm_jax.config import DataError


def held_years(cube: Cube, years: tuple[int, ...], gap_days: Number = 0) -> dict[str, DateSplit]:
    """The dates of each dated band set, split.

    Raises:
      DataError: no band set with dates.
      CubeError: a year without a date or none left, in some band set; dates in a nominal year.
    """
    dated = {name: info for name, info in cube.bandsets.items() if not info.static}
    if not dated:
        raise DataError(
            "no dates to hold out", where=cube.path, expected="a dated band set", found="none"
        )
    return {
        name: year_split(info.dates, years, gap_days=gap_days, year_known=info.year_known)
        for name, info in dated.items()
    }


def years_facts(cube: Cube, found: dict[str, DateSplit], years: tuple[int, ...]) -> dict[str, Any]:
    """What `rsvlm cube folds --year` says, as JSON values."""
    rows = []
    for name, s in found.items():
        known = ~np.isnat(s.dates)
        shared = np.intersect1d(s.dates[s.train], s.dates[s.test])
        rows.append(
            {
                "bandset": name,
                "train": int(s.train.sum()),
                "test": int(s.test.sum()),
                "neither": int((known & ~s.train & ~s.test).sum()),
                "shared_dates": len(shared),
                "gap_days": _gap(s),
            }
        )
    return {
        "cube": str(cube.path),
        "title": cube.title,
        "years": list(years),
        "bandsets": rows,
        "ok": all(r["shared_dates"] == 0 for r in rows),
    }


def _gap(s: DateSplit) -> float:
    """Days between the nearest two dates of the two sides."""
    train, test = (np.unique(s.dates[m]).astype("datetime64[s]") for m in (s.train, s.test))
    at = np.searchsorted(train, test)
    nearest = [
        np.abs(train[np.clip(at + k, 0, len(train) - 1)] - test).astype(np.int64).min()
        for k in (-1, 0)
    ]
    return round(float(min(nearest)) / 86400, 2)


def years_page(facts: dict[str, Any]) -> Table:
    """The report as a table of at most 80 columns."""
    years = ", ".join(map(str, facts["years"]))
    table = Table(
        title=f"{facts['title']}\ndates of {years} held out: a training sample reads the first "
        "column only, a test sample the second",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for head in ("band set", "train dates", "test dates", "neither", "shared", "nearest (days)"):
        table.add_column(head, justify="left" if head == "band set" else "right")
    for r in facts["bandsets"]:
        keys = ("bandset", "train", "test", "neither", "shared_dates", "gap_days")
        table.add_row(*(str(r[k]) for k in keys))
    return table
