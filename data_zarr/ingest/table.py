"""Tables of plots: CSV, Parquet, NumPy and HDF5 files as columns by name, and the sites in them.

    Table("plots.csv", lon="x", lat="y", crs="EPSG:32611", date="day", labels={"region": "state"})
    Table("*.npy", split={"features": ("VV", "VH"), "latlon": ("lat", "lon")}, month="month")

A column is [N], or [N, T] where each row carries T dates of its own. A row is a site, or with
`rows = "observation"` one date of the site that the column `site` names: then the rows of a site
are sorted by date, and sites with fewer dates are padded. Months without years go to the middle of
a month in a nominal year, and the cube says that the year is not known.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.ingest.columns import Columns, column, read_columns
from data_zarr.ingest.times import utc
from data_zarr.sensors import Number
from data_zarr.sites import Sites

NOMINAL_YEAR = 2001


@dataclasses.dataclass(frozen=True)
class Table:
    """Where the rows are, and which columns say whose and when they are.

    Attributes:
      path: .csv, .parquet, .npz, .npy or .h5; a glob of .npy makes each file a column by its stem,
        one of others lays them below each other, with the column "file" (their stems).
      header: names of the columns of a CSV without a first line of names.
      split: array -> names along its last axis.
      rows: what a row is, see the module docstring.
      site: column of the ids; by default rows are numbered.
      lon, lat: columns or numbers, in degrees or in units of `crs`; NaN where not known.
      date: column of ISO dates, or of day numbers (1 = 0001-01-01) with date_form "ordinal".
      month: column of months in place of `date`; `first_month` is how January is written.
      platform: column, or STAC name for all; `platforms`: pattern of what the column says -> STAC
        name, the first that fits.
      labels: label -> column.
      gsd: metres on the ground that a value stands for.
    """

    path: str
    lon: str | Number = "lon"
    lat: str | Number = "lat"
    header: tuple[str, ...] = ()
    split: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    rows: Literal["site", "observation"] = "site"
    site: str = ""
    crs: str = "EPSG:4326"
    date: str = ""
    date_form: Literal["iso", "ordinal"] = "iso"
    month: str = ""
    first_month: Literal[0, 1] = 1
    platform: str = "unknown"
    platforms: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    gsd: Number | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A table that was read and brought to sites.

    Attributes:
      columns: as read, [N] or [N, T].
      order: int [T, S], row of the columns for each date of each site, -1 where there is none;
        with `wide` the date of a cell is along the second axis of the column instead.
      dates: datetime64[s] [T, S], NaT where there is none; None where the table has no dates.
      platform: str [T, S].
    """

    table: Table
    columns: Columns
    sites: Sites
    order: np.ndarray
    wide: bool
    dates: np.ndarray | None
    platform: np.ndarray

    def cells(self, name: str, where: str) -> np.ndarray:
        """A column as [T, S]; where there is no date the first value of the site."""
        values = column(self.columns, name, where)
        if self.wide:
            wide = values if values.ndim == 2 else values[:, None].repeat(len(self.order), 1)
            if wide.shape != self.order.shape[::-1]:
                raise CubeError("column of another shape", where=f"{where}, {name}",
                                expected=f"rows, or rows x {len(self.order)}",
                                found=list(values.shape))  # fmt: skip
            return np.take_along_axis(wide.T, np.maximum(self.order, 0), axis=0)
        if values.ndim != 1:
            raise CubeError("column of another shape", where=f"{where}, {name}",
                            expected="one value a row", found=list(values.shape))  # fmt: skip
        return values[np.where(self.order < 0, self.order[:1], self.order)]

    def of_site(self, name: str, where: str) -> np.ndarray:
        """A column that is one for each site, [S]; CubeError where it changes with the date."""
        cells = self.cells(name, where)
        different = (cells != cells[:1]) & ((cells == cells) | (cells[:1] == cells[:1]))
        if different.any():
            at = int(np.argmax(different.any(axis=0)))
            raise CubeError(
                "a column changes with the date",
                where=f"{where}, {name}",
                expected="one value a site",
                found=f"{len(set(cells[:, at].tolist()))} at site {self.sites.ids[at]!r}",
                remedy='rows = "site" makes every row a site of its own',
            )
        return cells[0]


def read_rows(table: Table, where: str = "table") -> Rows:
    """Reads a table and finds its sites and dates.

    Raises:
      CubeError: unreadable, columns missing or of other lengths, dates missing or mixed, a place
        that changes with the date.
    """
    columns = read_columns(table.path, table.header, table.split, where)
    n = len(next(iter(columns.values())))
    if table.rows == "observation":
        order, ids = _grouped(table, columns, where)
        wide = False
    else:
        names = (table.date, table.month)
        given = [columns[c] for c in names if c and c in columns]
        second = {v.shape[1] for v in columns.values() if v.ndim == 2}
        t = given[0].shape[1] if given and given[0].ndim == 2 else max(second, default=1)
        order, wide = np.zeros((t, n), np.int64) + np.arange(t)[:, None], True
        digits = len(str(n - 1))
        ids = (
            column(columns, table.site, where).astype(str)
            if table.site
            else np.asarray([f"{i:0{digits}d}" for i in range(n)])
        )
    blank = Sites(ids, np.zeros(len(ids)), np.zeros(len(ids)))
    rows = Rows(table, columns, blank, order, wide, None, np.zeros(0))
    dates = _dates(rows, where)
    if dates is not None:
        # Every site by date, what is missing last.
        late = np.where(np.isnat(dates), np.iinfo(np.int64).max, dates.astype("int64"))
        by_date = np.argsort(late, axis=0, kind="stable")
        dates = np.take_along_axis(dates, by_date, axis=0)
        order = np.take_along_axis(order, by_date, axis=0)
        rows = dataclasses.replace(rows, order=order, dates=dates)
    return dataclasses.replace(rows, sites=_sites(rows, where), platform=_platform(rows, where))


def _grouped(table: Table, columns: Columns, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each site [T, S], -1 where it has no more; and the ids, in order of appearance."""
    if not table.site:
        raise CubeError("no column of sites", where=where, expected="`site`", found="none")
    ids = column(columns, table.site, where).astype(str)
    names, first = np.unique(ids, return_index=True)
    names = names[np.argsort(first)]
    rows = [np.flatnonzero(ids == name) for name in names]
    order = np.full((max(map(len, rows)), len(rows)), -1, np.int64)
    for s, members in enumerate(rows):
        order[: len(members), s] = members
    return order, names


def _dates(rows: Rows, where: str) -> np.ndarray | None:
    table = rows.table
    if table.month:
        return _months(rows, where)
    if not table.date:
        return None
    cells = rows.cells(table.date, where)
    given = rows.order >= 0
    if table.date_form == "ordinal":
        days = cells[given].astype(np.int64) - np.datetime64("1970-01-01").astype("O").toordinal()
        found = days.astype("datetime64[D]").astype("datetime64[s]")
    else:
        found = utc(list(cells[given]), f"{where}, {table.date}")
    dates = np.full(cells.shape, np.datetime64("NaT"), "datetime64[s]")
    dates[given] = found
    return dates


def _months(rows: Rows, where: str) -> np.ndarray:
    """Nominal dates of months: the year goes on where they fall, days part where they repeat."""
    table = rows.table
    cells = rows.cells(table.month, where)
    months = cells.astype(np.int64) - table.first_month
    if ((months < 0) | (months > 11) | (months + table.first_month != cells)).any():
        raise CubeError("not months", where=f"{where}, {table.month}",
                        expected=f"{table.first_month}..{table.first_month + 11}",
                        found=f"{cells.min()}..{cells.max()}")  # fmt: skip
    years = NOMINAL_YEAR + np.cumsum(np.diff(months, axis=0, prepend=months[:1]) < 0, axis=0)
    ticks = (years - 1970) * 12 + months
    days = np.zeros(ticks.shape, np.int64)
    for s in range(ticks.shape[1]):
        _, inverse, counts = np.unique(ticks[:, s], return_inverse=True, return_counts=True)
        seen = np.zeros(len(counts), np.int64)
        for t, group in enumerate(inverse):
            days[t, s] = int(30 * (seen[group] + 0.5) / counts[group] + 0.5) - 1
            seen[group] += 1
    dates = ticks.astype("datetime64[M]").astype("datetime64[D]") + days
    return np.where(rows.order >= 0, dates, np.datetime64("NaT")).astype("datetime64[s]")


def _sites(rows: Rows, where: str) -> Sites:
    table = rows.table

    def place(given: str | Number) -> np.ndarray:
        if not isinstance(given, str):
            return np.full(len(rows.sites), float(given))
        return rows.of_site(given, where).astype(np.float64)

    x, y = place(table.lon), place(table.lat)
    if table.crs != "EPSG:4326":
        from pyproj import Transformer

        to = Transformer.from_crs(table.crs, "EPSG:4326", always_xy=True)
        x, y = (np.asarray(v, np.float64) for v in to.transform(x, y))
    labels = {name: rows.of_site(c, where) for name, c in table.labels.items()}
    sites = Sites(rows.sites.ids, x, y, labels, table.gsd)
    sites.check(where)
    return sites


def _platform(rows: Rows, where: str) -> np.ndarray:
    table = rows.table
    if table.platform not in rows.columns:
        return np.full(rows.order.shape, table.platform, object)
    cells = rows.cells(table.platform, where).astype(str)
    names = {v: _named(v, table.platforms, where) for v in set(cells.ravel().tolist())}
    return np.asarray([names[v] for v in cells.ravel().tolist()], object).reshape(cells.shape)


def _named(text: str, platforms: Mapping[str, str], where: object) -> str:
    """The platform of the first pattern (`fnmatch`) that fits; without patterns `text` itself.

    >>> _named("S2A_MSIL2A_2020", {"S2A*": "sentinel-2a", "*": "unknown"}, "")
    'sentinel-2a'
    """
    for pattern, name in platforms.items():
        if fnmatch.fnmatchcase(text, pattern):
            return name
    if not platforms:
        return text
    raise CubeError("platform is not stated", where=where, found=text,
                    expected="one of " + ", ".join(platforms),
                    remedy='"*" = "unknown" as the last takes all others')  # fmt: skip
