"""The leakage report: what the two sides of a split share, measured without asking how it was made.

Distances run between the nearest pixels of a test window and of any training window: in pixels
the larger of rows and columns (0 shared, 1 adjacent), in metres straight on the ground. Every
search is in a KD-tree, so the time grows as n log n:

    training windows a x a, test windows b x b at upper left (y, x):
    a test window touches a training window  <=>  (y, x) lies in a box of a + b - 1 pixels
    its distance to all training windows      =   distance of (y, x) to the edge of those boxes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from data_zarr.errors import CubeError
from data_zarr.ground import arc, points
from data_zarr.sampling import WindowTable
from data_zarr.sensors import Number
from data_zarr.splits.groups import DateSplit
from data_zarr.splits.tiles import Split, boxes, cover


@dataclass(frozen=True)
class Leakage:
    """What a split shares; None where it was not asked for.

    Attributes:
      shared_pixels: pixels that lie in a training and in a test window (rows, of a point cube).
      min_distance: smallest distance in pixels between a training and a test window: 0 shared,
        1 adjacent, inf if a side is empty, NaN for places.
      train_windows, test_windows: how many there are.
      train_pixels, test_pixels: distinct pixels covered.
      min_distance_metres: likewise on the ground.
      shared_places: labels (sites, regions, years) that occur on both sides.
      shared_dates: instants that both sides may read.
      range_metres: the variogram range that was given.
      nearer_than_range: share of the test windows that are nearer to training than that.
    """

    shared_pixels: int
    min_distance: float
    train_windows: int
    test_windows: int
    train_pixels: int
    test_pixels: int
    min_distance_metres: float | None = None
    shared_places: int | None = None
    shared_dates: int | None = None
    range_metres: float | None = None
    nearer_than_range: float | None = None

    @property
    def ok(self) -> bool:
        """No label and no instant is shared, and no pixel, unless its dates are kept apart."""
        apart_in_time = self.shared_dates == 0
        pixels = self.shared_pixels == 0 or apart_in_time
        return pixels and not self.shared_places and not self.shared_dates


def leakage(
    split: Split,
    train_table: WindowTable,
    eval_table: WindowTable,
    *,
    grid: Any = None,
    places: Any = None,
    dates: DateSplit | None = None,
    range_metres: Number | None = None,
) -> Leakage:
    """Measures, independently of how the split was made, what its two sides share.

    Args:
      split: rows of the two tables.
      grid: of the cube, a `Grid` or the places of a point cube: gives distances in metres.
      places: a label of every row of the table (of both, as a pair, if they differ), e.g. site
        names: counts those on both sides.
      dates: what each side may read, of a split by year.
      range_metres: of the target's variogram; needs `grid`.

    Raises:
      CubeError: a range without a grid, or labels that do not fit the tables.
    """
    if range_metres is not None and grid is None:
        raise CubeError("a range in metres needs the grid", expected="grid=cube.grid", found=None)
    train, test = train_table.take(split.train), eval_table.take(split.test)
    height, width = (
        max((int(c.max()) + t.size for t, c in pairs if len(c)), default=1)
        for pairs in (((train, train.y), (test, test.y)), ((train, train.x), (test, test.x)))
    )
    in_train, in_test = cover(train, height, width), cover(test, height, width)
    metres = None if grid is None else distances_of(train, test, grid)
    return Leakage(
        shared_pixels=int((in_train & in_test).sum()),
        min_distance=math.nan if _places(grid) else _pixels_apart(train, test),
        train_windows=len(train),
        test_windows=len(test),
        train_pixels=int(in_train.sum()),
        test_pixels=int(in_test.sum()),
        min_distance_metres=None if metres is None else float(metres.min(initial=math.inf)),
        shared_places=None if places is None else _shared(places, split, train_table, eval_table),
        shared_dates=None
        if dates is None
        else len(np.intersect1d(dates.dates[dates.train], dates.dates[dates.test])),
        range_metres=None if range_metres is None else float(range_metres),
        nearer_than_range=None
        if range_metres is None or metres is None or not len(metres)
        else float((metres < range_metres).mean()),
    )


def distances_of(train: WindowTable, test: WindowTable, grid: Any) -> Float[np.ndarray, " m"]:
    """Metres from every test window to the nearest training window, inf if there is none.

    For degrees exact but for the change of a degree's length over one window.
    """
    if not len(train) or not len(test):
        return np.full(len(test), math.inf)
    from scipy.spatial import KDTree

    if _places(grid):
        a, b = (points(grid, t.y + 0.5, t.x + 0.5) for t in (train, test))
        return np.asarray(arc(KDTree(a).query(b)[0], grid), np.float64)
    height, width = grid.height, grid.width
    edge = train.size + test.size - 1
    y0, x0 = train.y - test.size + 1, train.x - test.size + 1
    touching = boxes(y0, x0, y0 + edge, x0 + edge, height, width)
    out = np.zeros(len(test))
    apart = ~touching[test.y, test.x]
    if apart.any():
        row, col = np.nonzero(_rim(touching))
        tree = KDTree(points(grid, row + 0.5, col + 0.5))
        near = tree.query(points(grid, test.y[apart] + 0.5, test.x[apart] + 0.5))[0]
        out[apart] = arc(near, grid)
    return out


def _rim(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels of a mask with a neighbour outside it: the nearest point of a set is one of them."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def _pixels_apart(train: WindowTable, test: WindowTable) -> float:
    if not len(train) or not len(test):
        return math.inf
    from scipy.spatial import KDTree

    middle = [np.stack([t.y, t.x], axis=1) + (t.size - 1) / 2 for t in (train, test)]
    near = KDTree(middle[0]).query(middle[1], p=np.inf)[0].min()
    return float(max(near - (train.size + test.size) / 2 + 1, 0))


def _places(grid: Any) -> bool:
    """True for the places of a point cube: they have ids and no transform."""
    return grid is not None and getattr(grid, "transform", None) is None


def _shared(places: Any, split: Split, train_table: WindowTable, eval_table: WindowTable) -> int:
    of_train, of_test = places if isinstance(places, tuple) else (places, places)
    if len(of_train) != len(train_table) or len(of_test) != len(eval_table):
        raise CubeError(
            "labels do not fit the tables",
            expected=f"{len(train_table)} and {len(eval_table)} labels",
            found=f"{len(of_train)} and {len(of_test)}",
        )
    a: Shaped[np.ndarray, " n"] = np.asarray(of_train)[split.train]
    return len(np.intersect1d(a, np.asarray(of_test)[split.test]))
