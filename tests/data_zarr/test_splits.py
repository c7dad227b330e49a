import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_zarr.errors import CubeError
from data_zarr.sampling import WindowTable, window_table
from data_zarr.splits import Split, group_split, leakage, split, tile_folds


def pixels(table, rows, shape):
    cover = np.zeros(shape, bool)
    for y, x in zip(table.y[rows], table.x[rows], strict=True):
        cover[y : y + table.size, x : x + table.size] = True
    return cover


def test_slovenian_folds():
    folds = tile_folds(101, 100, block=25, folds=5)
    # The remainder of one row belongs to the last row of tiles.
    np.testing.assert_array_equal(folds[100], folds[99])
    for y in range(0, 100, 25):
        for x in range(0, 100, 25):
            assert len(np.unique(folds[y : y + 25, x : x + 25])) == 1
    table = window_table(101, 100, 8, 8)
    counts = np.bincount(folds[table.centre], minlength=5)
    assert sorted(counts) == [27, 27, 27, 27, 36]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(10, 90),
    st.integers(10, 90),
    st.integers(3, 30),
    st.integers(2, 6),
    st.integers(0, 9),
)
def test_tiles_are_squares_dealt_evenly(height, width, block, folds, seed):
    def edges(length):
        full, rest = divmod(length, block)
        starts = [i * block for i in range(full + (2 * rest >= block))] or [0]
        return [*starts, length]

    rows, columns = edges(height), edges(width)
    tiles = (len(rows) - 1) * (len(columns) - 1)
    if tiles < folds:
        with pytest.raises(CubeError, match="fewer tiles than folds"):
            tile_folds(height, width, block=block, folds=folds, seed=seed)
        return
    found = tile_folds(height, width, block=block, folds=folds, seed=seed)
    assert found.shape == (height, width)
    assert found.dtype == np.int32
    largest = 0
    for y0, y1 in itertools.pairwise(rows):
        for x0, x1 in itertools.pairwise(columns):
            assert len(np.unique(found[y0:y1, x0:x1])) == 1
            largest = max(largest, (y1 - y0) * (x1 - x0))
    area = np.bincount(found.ravel(), minlength=folds)
    assert area.min() > 0
    assert area.max() - area.min() <= largest


def test_seeds_deal_differently_and_repeat():
    a, b = (tile_folds(100, 100, block=10, folds=5, seed=s) for s in (0, 1))
    assert (a != b).any()
    np.testing.assert_array_equal(a, tile_folds(100, 100, block=10, folds=5, seed=0))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(30, 70),
    width=st.integers(30, 70),
    block=st.integers(8, 20),
    size=st.integers(2, 9),
    stride=st.integers(1, 5),
    buffer=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 5),
)
def test_training_windows_are_clear_of_everything_held_out(
    height, width, block, size, stride, buffer, seed
):
    fold_map = tile_folds(height, width, block=block, folds=3, seed=seed)
    train, evaluation = (window_table(height, width, size, s) for s in (stride, size))
    in_folds = []
    for fold in range(3):
        try:
            found = split(train, evaluation, fold_map, fold, buffer=buffer)
        except CubeError:
            # Small cubes may leave nothing to train on, or a fold without a window's centre.
            continue
        in_folds.append(found.test)
        held = (fold_map == fold) | pixels(evaluation, found.test, fold_map.shape)
        r = int(np.ceil(buffer * size))
        y, x = np.nonzero(held)
        for row in found.train:
            top, left = train.y[row] - r, train.x[row] - r
            edge = size + 2 * r
            assert not ((y >= top) & (y < top + edge) & (x >= left) & (x < left + edge)).any()
        # Nothing that is clear is thrown away.
        for row in np.setdiff1d(np.arange(len(train)), found.train):
            top, left = train.y[row] - r, train.x[row] - r
            edge = size + 2 * r
            assert ((y >= top) & (y < top + edge) & (x >= left) & (x < left + edge)).any()
        report = leakage(found, train, evaluation)
        assert report.ok
        assert report.shared_pixels == 0
        assert report.min_distance > r
    if len(in_folds) == 3:
        assert sorted(np.concatenate(in_folds)) == list(range(len(evaluation)))


def test_overhanging_evaluation_windows_are_held_out_too():
    fold_map = np.zeros((8, 20), np.int32)
    fold_map[:, 10:] = 1
    evaluation = WindowTable(np.array([0, 0]), np.array([6, 0]), 8)
    train = window_table(8, 20, 2, 1)
    found = split(train, evaluation, fold_map, 1)
    assert found.test.tolist() == [0]
    assert (train.x[found.train] + 2 <= 6).all()


def test_a_buffer_widens_the_gap():
    fold_map = tile_folds(100, 100, block=25, folds=4)
    table = window_table(100, 100, 8, 4)
    gaps, sizes = [], []
    for buffer in (0.0, 0.5, 1.0):
        found = split(table, table, fold_map, 0, buffer=buffer)
        gaps.append(leakage(found, table, table).min_distance)
        sizes.append(len(found.train))
    assert gaps[0] >= 1
    assert gaps[1] >= 5
    assert gaps[2] >= 9
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_report_finds_a_leak():
    table = window_table(16, 16, 8, 4)
    report = leakage(Split(np.array([0, 1]), np.array([2])), table, table)
    assert not report.ok
    assert report.shared_pixels == 32
    assert report.min_distance == 0
    assert (report.train_windows, report.test_windows) == (2, 1)
    assert (report.train_pixels, report.test_pixels) == (96, 64)


def test_touching_windows_are_at_distance_one():
    table = window_table(8, 16, 8, 8)
    report = leakage(Split(np.array([0]), np.array([1])), table, table)
    assert (report.shared_pixels, report.min_distance) == (0, 1)


def test_no_fold_trains_on_everything():
    table = window_table(50, 50, 5, 5)
    found = split(table, table, tile_folds(50, 50, block=10, folds=5), None)
    assert len(found.train) == len(table)
    assert len(found.test) == 0
    assert leakage(found, table, table).min_distance == np.inf


def test_empty_split_line():
    fold_map = tile_folds(40, 40, block=20, folds=4)
    table = window_table(40, 40, 8, 8)
    with pytest.raises(CubeError) as e:
        split(table, table, fold_map, 2, buffer=10.0)
    assert str(e.value) == (
        "a split is empty in fold 2; expected training and test windows; "
        "found 0 training, 6 test; "
        "choose smaller tiles or windows, fewer folds, or a smaller buffer"
    )


def test_unknown_fold_and_windows_outside():
    fold_map = tile_folds(40, 40, block=20, folds=4)
    inside, outside = window_table(40, 40, 8, 8), window_table(48, 48, 8, 8)
    with pytest.raises(CubeError, match=r"no such fold; expected one of \[0, 1, 2, 3\]; found 4"):
        split(inside, inside, fold_map, 4)
    with pytest.raises(CubeError, match=r"outside the map of folds in the eval table"):
        split(inside, outside, fold_map, 0)
    with pytest.raises(CubeError, match="a buffer cannot be negative"):
        split(inside, inside, fold_map, 0, buffer=-1.0)


@pytest.mark.parametrize("bad", [{"block": 0}, {"folds": 1}])
def test_impossible_folds(bad):
    with pytest.raises(CubeError, match="impossible folds"):
        tile_folds(40, 40, **{"block": 10, "folds": 4, **bad})


@pytest.mark.parametrize("held", ["b", ["b"], {"b"}, ("b", "c")])
def test_groups_are_left_out_whole(held):
    groups = np.array(list("aabbccab"))
    found = group_split(groups, held)
    names = {held} if isinstance(held, str) else set(held)
    assert set(groups[found.test]) == names
    assert set(groups[found.train]) == set("abc") - names
    assert sorted([*found.train, *found.test]) == list(range(8))


def test_years_are_groups():
    found = group_split(np.array([2019, 2020, 2020]), 2020)
    assert (found.train.tolist(), found.test.tolist()) == ([0], [1, 2])


def test_group_lines():
    groups = np.array([2019, 2020])
    with pytest.raises(CubeError, match=r"a group does not occur; expected one of \[2019, 2020\]"):
        group_split(groups, 2021)
    with pytest.raises(CubeError, match="a split is empty in groups held out"):
        group_split(groups, [2019, 2020])
