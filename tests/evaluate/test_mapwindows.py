"""The windows of a held-out map: no pixel shared with the training windows of their models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_zarr.errors import CubeError
from data_zarr.sampling import WindowTable, window_table
from data_zarr.splits import Split, cover, leakage, split, tile_folds
from rsvlm_jax.config import DataError
from rsvlm_jax.evaluate.mapwindows import held_out_windows
from rsvlm_jax.run.tiles import tiles, window_starts


def raster(height: int, width: int, size: int) -> WindowTable:
    starts = (window_starts(n, size, size - size // 2) for n in (height, width))
    y, x = (a.ravel() for a in np.meshgrid(*starts, indexing="ij"))
    return WindowTable(y, x, size)


def training(height: int, width: int, size: int, stride: int, fold_map: np.ndarray) -> dict:
    train, evaluation = (window_table(height, width, size, s) for s in (stride, size))
    folds = range(int(fold_map.max()) + 1)
    return {f: train.take(split(train, evaluation, fold_map, f).train) for f in folds}


def positions(table: WindowTable) -> set[tuple[int, int]]:
    return set(zip(table.y.tolist(), table.x.tolist(), strict=True))


def check(windows, trained: dict) -> None:
    """By the leakage report, which knows nothing of how the windows were found."""
    for f, train in trained.items():
        mine = np.flatnonzero(windows.fold == f)
        both = Split(np.arange(len(train)), mine)
        assert leakage(both, train, windows.table).shared_pixels == 0


def test_held_out_map_windows_share_no_pixel_with_training_where_strides_are_misaligned():
    height, width, size = 90, 85, 9
    fold_map = tile_folds(height, width, block=22, folds=4)
    trained = training(height, width, size, 1, fold_map)
    wanted = raster(height, width, size)
    by_centre = fold_map[wanted.centre]
    leaks = [
        leakage(Split(np.arange(len(t)), np.flatnonzero(by_centre == f)), t, wanted).shared_pixels
        for f, t in trained.items()
    ]
    assert sum(leaks) > 0, "the case is one where the fold of the centre is not enough"
    made = held_out_windows(wanted, trained, fold_map)
    check(made, trained)
    assert cover(made.table, height, width).all(), "every pixel still gets a value"
    added = positions(made.table) - positions(wanted)
    assert 0 < len(added) < len(wanted) / 2


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(30, 60),
    width=st.integers(30, 60),
    block=st.integers(10, 20),
    size=st.integers(2, 9),
    stride=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_every_pixel_that_can_be_held_out_has_a_window(height, width, block, size, stride, seed):
    fold_map = tile_folds(height, width, block=block, folds=3, seed=seed)
    try:
        trained = training(height, width, size, stride, fold_map)
        made = held_out_windows(raster(height, width, size), trained, fold_map)
    except (CubeError, DataError):
        return  # nothing to train on, or nowhere to predict
    check(made, trained)
    everywhere = window_table(height, width, size, 1)
    possible = np.zeros((height, width), bool)
    for train in trained.values():
        seen = cover(train, height, width)
        clear = [not seen[y : y + size, x : x + size].any()
                 for y, x in zip(everywhere.y, everywhere.x, strict=True)]  # fmt: skip
        possible |= cover(everywhere.take(np.array(clear)), height, width)
    np.testing.assert_array_equal(cover(made.table, height, width), possible)


def test_a_raster_aligned_with_the_tiles_needs_no_other_windows():
    fold_map = tile_folds(96, 96, block=24, folds=4)
    wanted = raster(96, 96, 8)
    made = held_out_windows(wanted, training(96, 96, 8, 4, fold_map), fold_map)
    assert cover(made.table, 96, 96).all()
    assert positions(made.table) <= positions(wanted)
    np.testing.assert_array_equal(made.fold, fold_map[made.table.centre])


def test_tiles_smaller_than_the_window_leave_nothing_to_hold_out():
    fold_map = np.arange(400).reshape(20, 20) % 2
    whole = window_table(20, 20, 8, 1)
    with pytest.raises(DataError, match="clear of all training windows"):
        held_out_windows(raster(20, 20, 8), {0: whole, 1: whole}, fold_map)


def test_pixels_without_a_window_stay_nan(tmp_path):
    y, x = np.array([0, 0]), np.array([0, 4])
    made, report = tiles(
        (16, 16), lambda y, x: {"v": np.ones(len(y))}, tmp_path,
        key="k", tile=8, overlap=4, windows=(y, x), block=8,
    )  # fmt: skip
    assert np.isfinite(made["v"]).sum() == 8 * 12
    assert (made["v"][:8, :12] == 1).all()
    assert report.blocks == 4
