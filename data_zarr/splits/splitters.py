"""Splitters with scikit-learn's protocol: `split(X, y, groups)` and `get_n_splits`.

    cv = SpatialBlocks(table, cube.grid, block=64, folds=5, buffer="range")
    cross_val_score(model, X, y, cv=cv)              rows of X and y: the windows of `table`

    cv = SiteBlocks(lon, lat, metres=20_000, folds=5)
    cv = GroupFolds()                                cross_val_score(..., groups=region)

`cross_val_score`, `cross_validate` and `GridSearchCV` take all three. `SpatialBlocks` and
`SiteBlocks` also take one of sklearn's group splitters to deal their blocks
(`deal=StratifiedGroupKFold(5)`); `splits_of` turns any splitter's answer into `Split`s for
`leakage`. The protocol is duck-typed: nothing here imports scikit-learn.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Shaped

from data_zarr.errors import CubeError
from data_zarr.ground import pixel_metres
from data_zarr.sampling import WindowTable
from data_zarr.sensors import Number
from data_zarr.splits.groups import group_folds
from data_zarr.splits.sites import site_blocks, site_split
from data_zarr.splits.strata import strata_of
from data_zarr.splits.tiles import Narrow, Split, check_narrow, split, tile_map
from data_zarr.variogram import variogram

Buffer = Number | Literal["range"]


class _Folds(abc.ABC):
    """What the three share: a fold of every row, and a split of every fold."""

    folds: int | None

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """How many folds."""
        if self.folds is not None:
            return self.folds
        if groups is None:
            raise CubeError("folds of groups need groups", expected="groups=[...]", found=None)
        return len(np.unique(groups))

    def split(
        self, X: Any = None, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(training rows, test rows) of each fold, int64."""
        for found in self.splits(y, groups):
            yield found.train, found.test

    @abc.abstractmethod
    def splits(self, y: Any = None, groups: Any = None) -> Iterator[Split]:
        """The same as `Split`s."""


class SpatialBlocks(_Folds):
    """Spatial tiles of a raster dealt to folds; training windows clear of the held-out ones.

    Args:
      table: the windows, one a sample, in the order of the rows of X.
      grid: of the cube.
      block: edge of a tile, in pixels.
      folds: how many.
      buffer: free ground between training and test, in windows; at least 1 by default, so that a
        training window is a whole window away. "range" takes the variogram range of `y` (the
        larger of it and a window).
      stratify: quantile bins of `y` that the folds shall share evenly; 0: none. Classes are
        strata by themselves where `y` is not a float.
      deal: one of sklearn's splitters of groups (`GroupKFold`, `StratifiedGroupKFold`, ...) that
        deals the tiles instead of ours; `folds` is then its own.
      narrow: what to do with a buffer below 1: "warn", "refuse", or "accept" it.
      seed: of the dealing.
    """

    def __init__(
        self,
        table: WindowTable,
        grid: Any,
        *,
        block: int,
        folds: int = 5,
        buffer: Buffer = 1.0,
        stratify: int = 0,
        deal: Any = None,
        narrow: Narrow = "warn",
        seed: int = 0,
    ):
        self.table, self.grid, self.block = table, grid, block
        self.buffer: Buffer = buffer
        self.narrow: Narrow = narrow
        self.stratify, self.deal, self.seed = stratify, deal, seed
        self.folds = folds if deal is None else deal.get_n_splits(groups=np.arange(10**6))

    def fold_map(self, y: Any = None) -> Int[np.ndarray, "H W"]:
        """The fold of every pixel; -1 in tiles without a window's centre."""
        tile = tile_map(self.grid.height, self.grid.width, self.block)
        own = tile[self.table.centre]
        dealt = np.full(int(tile.max()) + 1, -1, np.int32)
        dealt[own] = _dealt(self, own, y)
        return dealt[tile]

    def splits(self, y: Any = None, groups: Any = None) -> Iterator[Split]:
        size, fold_map = self.table.size, self.fold_map(y)
        if isinstance(self.buffer, str):
            centre = (self.table.y + size / 2, self.table.x + size / 2)
            found = _range_of(y, self.grid, *centre)
            buffer: Number = max(found / min(pixel_metres(self.grid)) / size, 1.0)
        else:
            buffer = self.buffer
        check_narrow(int(np.ceil(buffer * size)), size, self.narrow)
        for fold in range(self.get_n_splits()):
            yield split(self.table, self.table, fold_map, fold, buffer=buffer)


class SiteBlocks(_Folds):
    """Blocks of places on the ground dealt to folds; training places away from the held-out ones.

    Args:
      lon, lat: degrees [S], in the order of the rows of X.
      metres: edge of a block.
      folds: how many.
      buffer_metres: training places as near as this to a test place are left out; "range" takes
        the variogram range of `y`.
      stratify, deal, seed: as in `SpatialBlocks`.
    """

    def __init__(
        self,
        lon: Shaped[np.ndarray, " S"],
        lat: Shaped[np.ndarray, " S"],
        *,
        metres: Number,
        folds: int = 5,
        buffer_metres: Buffer = 0,
        stratify: int = 0,
        deal: Any = None,
        seed: int = 0,
    ):
        self.lon, self.lat, self.metres = lon, lat, metres
        self.buffer_metres: Buffer = buffer_metres
        self.stratify, self.deal, self.seed = stratify, deal, seed
        self.folds = folds if deal is None else deal.get_n_splits(groups=np.arange(10**6))

    def fold_of(self, y: Any = None) -> Int[np.ndarray, " S"]:
        """The fold of every place."""
        return _dealt(self, site_blocks(self.lon, self.lat, self.metres), y)

    def splits(self, y: Any = None, groups: Any = None) -> Iterator[Split]:
        fold_of, buffer = self.fold_of(y), self.buffer_metres
        if isinstance(buffer, str):
            where = _Places(self.lon, self.lat)
            row = np.arange(len(self.lon)) + 0.5
            buffer = _range_of(y, where, row, np.full(len(row), 0.5))
        for fold in range(self.get_n_splits()):
            yield site_split(fold_of, fold, self.lon, self.lat, buffer_metres=buffer)


class GroupFolds(_Folds):
    """Groups (regions, sites, years) held out whole.

    Args:
      folds: how many; None leaves out one group at a time.
      stratify: quantile bins of `y` that the folds shall share evenly (needs `folds`); 0: none.
      seed: of the dealing.
    """

    def __init__(self, folds: int | None = None, *, stratify: int = 0, seed: int = 0):
        self.folds, self.stratify, self.seed = folds, stratify, seed

    def splits(self, y: Any = None, groups: Any = None) -> Iterator[Split]:
        if groups is None:
            raise CubeError("folds of groups need groups", expected="groups=[...]", found=None)
        strata = _strata(y, self.stratify)
        fold_of = group_folds(np.asarray(groups), self.folds, strata=strata, seed=self.seed)
        for fold in range(self.get_n_splits(groups=groups)):
            yield site_split(fold_of, fold)


def splits_of(cv: Any, n: int, y: Any = None, groups: Any = None) -> Iterator[Split]:
    """The splits of any scikit-learn splitter over `n` samples, e.g. for `leakage`.

    Args:
      cv: `KFold(5)`, `GroupKFold(3)`, `LeaveOneGroupOut()`, one of ours, ...
    """
    for train, test in cv.split(np.zeros((n, 1)), y, groups):
        yield Split(np.asarray(train, np.int64), np.asarray(test, np.int64))


class _Places:
    """Places by longitude and latitude, as much of a grid as distances need."""

    geographic, transform = True, None

    def __init__(self, lon: np.ndarray, lat: np.ndarray):
        self.lon, self.lat, self.height, self.width = lon, lat, len(lon), 1

    def lonlat(self, row: Any, col: Any) -> tuple[np.ndarray, np.ndarray]:
        at = np.asarray(row, np.float64).astype(np.int64)
        return np.asarray(self.lon)[at], np.asarray(self.lat)[at]


def _dealt(cv: SpatialBlocks | SiteBlocks, block: np.ndarray, y: Any) -> np.ndarray:
    """The fold of every sample, its block dealt by us or by sklearn's splitter."""
    strata = _strata(y, cv.stratify)
    if cv.deal is None:
        return group_folds(block, cv.folds, strata=strata, seed=cv.seed)
    fold_of = np.full(len(block), -1, np.int32)
    label = strata if strata is not None else y
    for fold, (_, test) in enumerate(cv.deal.split(np.zeros((len(block), 1)), label, block)):
        fold_of[test] = fold
    cut = {int(b) for b in np.unique(block) if len(np.unique(fold_of[block == b])) > 1}
    if cut or (fold_of < 0).any():
        raise CubeError(
            "this splitter does not keep blocks whole",
            where=type(cv.deal).__name__,
            expected="a splitter of groups that tests each sample once, e.g. GroupKFold",
            found=f"{len(cut)} blocks cut, {int((fold_of < 0).sum())} samples never tested",
        )
    return fold_of


def _strata(y: Any, bins: int) -> np.ndarray | None:
    if not bins:
        return None
    if y is None:
        raise CubeError("strata need the target", expected="y", found=None)
    values = np.asarray(y)
    return strata_of(values, bins=bins, categorical=values.dtype.kind not in "f")


def _range_of(y: Any, grid: Any, row: np.ndarray, col: np.ndarray) -> float:
    """The variogram range of `y` in metres; CubeError where it has none."""
    if y is None:
        raise CubeError('buffer="range" needs the target', expected="y", found=None)
    found = variogram(np.asarray(y, np.float64), grid, row, col)
    if not np.isfinite(found.range_metres):
        raise CubeError(
            'buffer="range" without a range',
            expected="a semivariogram that levels off",
            found=f"{found.found} within {found.distance[-1]:.6g} m",
            remedy="state a buffer",
        )
    return found.range_metres
