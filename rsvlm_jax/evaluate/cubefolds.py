"""Folds of a cube, looked at before anything is trained: counts, leakage, range of the target.

    raster   tiles dealt to folds; test windows side by side, training windows half as far apart
    places   blocks on the ground, or a label (region, site, year), dealt to folds

The folds of a raster are those of an experiment with the same `SplitConfig`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from data_zarr.cube import Cube
from data_zarr.ground import pixel_metres
from data_zarr.sampling import WindowTable, target_means, window_table
from data_zarr.sensors import Number
from data_zarr.splits import (
    Leakage,
    Split,
    group_folds,
    guard,
    leakage,
    site_blocks,
    site_split,
    split,
    strata_of,
    tile_folds,
)
from data_zarr.splits.tiles import Narrow, check_narrow
from data_zarr.variogram import Variogram, variogram
from rsvlm_jax.config import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class FoldsRequest:
    """What to deal.

    Attributes:
      block: edge of a tile in pixels (None: an eighth of the shorter side, at least 4 windows); of
        a cube of places in kilometres (None: a sixth of its extent).
      folds: how many; 0 makes each value of `group` a fold.
      buffer: free ground in windows (of places: in kilometres), or "range" of the target.
      group: a label of the places, dealt whole instead of blocks.
      stratify: quantile bins of the target (classes of a category) shared evenly; 0: none.
      window, stride: of a raster, in pixels; stride of the training windows, None: half a window.
      target: for histograms, strata and range; None: the first of the cube.
      narrow: a buffer below one window is accepted, warned of or refused.
    """

    block: Number | None = None
    folds: int = 5
    buffer: Number | Literal["range"] = 1.0
    group: str | None = None
    stratify: int = 0
    window: int = 8
    stride: int | None = None
    target: str | None = None
    narrow: Narrow = "warn"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class CubeFolds:
    """The folds of a cube and what they share.

    Attributes:
      train_table, eval_table: windows; rows of places, twice the same.
      fold_of: fold of every pixel [H,W], or of every place [S].
      splits, reports: of each fold.
      values: target of every evaluation window (mean; of a category, the centre pixel's) or place,
        NaN where unknown; None without target.
      buffer: in pixels, or metres for places.
      names: of the folds: numbers, or the group that each leaves out.
    """

    cube: Cube
    request: FoldsRequest
    places: bool
    block: Number
    train_table: WindowTable
    eval_table: WindowTable
    fold_of: np.ndarray
    splits: tuple[Split, ...]
    reports: tuple[Leakage, ...]
    target: str | None
    values: np.ndarray | None
    variogram: Variogram | None
    buffer: Number
    names: tuple[str, ...]

    @property
    def folds(self) -> int:
        return len(self.splits)


def cube_folds(cube: Cube, request: FoldsRequest) -> CubeFolds:
    """Deal and measure.

    Raises:
      CubeError, ConfigError, DataError: no such target or label, impossible folds, an option that
        this kind of cube does not have, `buffer="range"` without a range.
    """
    if cube.points:
        return _of_places(cube, request)
    return _of_raster(cube, request)


def _of_raster(cube: Cube, request: FoldsRequest) -> CubeFolds:
    if request.group is not None:
        raise ConfigError("labels belong to cubes of places", where="--group", found=request.group)
    height, width, size = cube.grid.height, cube.grid.width, request.window
    block = int(request.block or max(4 * size, min(height, width) // 8))
    name, layer = _layer(cube, request)
    found = _variogram(cube, name, layer, request)
    strata = None
    if request.stratify:
        strata = strata_of(
            _needed(layer), bins=request.stratify, categorical=is_category(cube, name)
        )
    fold_of = tile_folds(
        height, width, block=block, folds=request.folds, seed=request.seed, strata=strata
    )
    if request.buffer == "range":
        buffer = max(_reach(found) / min(pixel_metres(cube.grid)) / size, 1.0)
    else:
        buffer = request.buffer
    pixels = guard(buffer, size)
    check_narrow(pixels, size, request.narrow)
    train = window_table(height, width, size, request.stride or max(size // 2, 1))
    test = window_table(height, width, size, size)
    splits = tuple(split(train, test, fold_of, f, buffer=buffer) for f in range(request.folds))
    reach = finite_range(found)
    reports = tuple(leakage(s, train, test, grid=cube.grid, range_metres=reach) for s in splits)
    values = None
    if layer is not None:
        classes = is_category(cube, name)
        values = layer[test.centre] if classes else target_means(layer, test, 0.5)[0]
    return CubeFolds(
        *(cube, request, False, block, train, test, fold_of, splits, reports, name, values, found),
        buffer=pixels,
        names=tuple(map(str, range(request.folds))),
    )


def _of_places(cube: Cube, request: FoldsRequest) -> CubeFolds:
    sites: Any = cube.grid
    labels = cube.labels
    name, layer = _layer(cube, request)
    values = None if layer is None else layer.reshape(-1)
    found = _variogram(cube, name, layer, request)
    strata = None
    if request.stratify:
        strata = strata_of(
            _needed(values), bins=request.stratify, categorical=is_category(cube, name)
        )
    block = 0.0
    if request.group is None:
        box = np.ptp(sites.lat), np.ptp(sites.lon) * np.cos(np.radians(np.mean(sites.lat)))
        block = float(request.block or max(math.hypot(*box) * 111.2 / 6, 1e-3))
        group = site_blocks(sites.lon, sites.lat, 1000 * block)
    elif request.group in labels:
        group = labels[request.group]
    else:
        raise DataError(
            "no such label",
            where=cube.path,
            expected="one of " + (", ".join(labels) or "none"),
            found=request.group,
        )
    alone = not request.folds  # each group is a fold, in sorted order
    fold_of = group_folds(group, request.folds or None, strata=strata, seed=request.seed)
    if request.buffer == "range":
        metres = _reach(found)
    else:
        # A group by itself is the gap: kilometres between regions or years mean nothing.
        metres = 0.0 if request.group is not None else 1000 * request.buffer
    table = window_table(sites.height, 1, 1, 1)
    placed = _placed(cube)
    splits = tuple(
        site_split(fold_of, f, sites.lon, sites.lat, buffer_metres=metres)
        for f in range(int(fold_of.max()) + 1)
    )
    reports = tuple(
        leakage(
            *(s, table, table),
            grid=sites if placed else None,
            places=group,
            range_metres=finite_range(found),
        )
        for s in splits
    )
    return CubeFolds(
        *(cube, request, True, block, table, table, fold_of, splits, reports, name, values, found),
        buffer=metres,
        names=tuple(str(n) for n in (np.unique(group) if alone else range(len(splits)))),
    )


def _layer(cube: Cube, request: FoldsRequest) -> tuple[str | None, np.ndarray | None]:
    name = request.target or next(iter(cube.targets), None)
    if name is None:
        return None, None
    return name, np.asarray(cube.target(name), np.float32)


def is_category(cube: Cube, name: str | None) -> bool:
    return name is not None and cube.targets[name].kind == "category"


def _needed(layer: np.ndarray | None) -> np.ndarray:
    if layer is None:
        raise DataError("the cube has no target", where="--stratify", expected="a target")
    return layer


def _variogram(
    cube: Cube, name: str | None, layer: np.ndarray | None, request: FoldsRequest
) -> Variogram | None:
    """Of the layer, or of the places; None without positions or with fewer than three values."""
    if layer is None or np.isfinite(layer).sum() < 3 or not _placed(cube):
        return None
    kwargs: dict[str, Any] = {"categorical": is_category(cube, name), "seed": request.seed}
    if cube.points:
        row = np.arange(layer.size) + 0.5
        return variogram(layer.reshape(-1), cube.grid, row, np.full(layer.size, 0.5), **kwargs)
    return variogram(layer, cube.grid, **kwargs)


def _placed(cube: Cube) -> bool:
    """Whether every place has a position; labels alone can be dealt without."""
    sites: Any = cube.grid
    return not cube.points or bool(np.isfinite(sites.lon).all() and np.isfinite(sites.lat).all())


def finite_range(found: Variogram | None) -> float | None:
    return found.range_metres if found and math.isfinite(found.range_metres) else None


def _reach(found: Variogram | None) -> float:
    reach = finite_range(found)
    if reach is None:
        raise DataError(
            "the target has no range",
            where="--buffer range",
            expected="a semivariogram that levels off",
            found="no target" if found is None else found.found,
            remedy="state a buffer",
        )
    return reach
