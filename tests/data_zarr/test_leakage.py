"""The report against brute force over pixels, on metres, degrees and places."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.sampling import WindowTable, window_table
from data_zarr.splits import Split, group_split, leakage, split, tile_folds, year_split
from data_zarr.splits.report import distances_of
from data_zarr.splits.splitters import _Places


def metric(height, width, dx=10.0, dy=10.0):
    return Grid.from_epsg(32633, (dx, 0.0, 5e5, 0.0, -dy, 5e6), height, width)


def table(rng, n, size, edge):
    return WindowTable(rng.integers(0, edge - size, n), rng.integers(0, edge - size, n), size)


def inside(t, i):
    y, x = np.mgrid[t.y[i] : t.y[i] + t.size, t.x[i] : t.x[i] + t.size]
    return np.stack([y.ravel(), x.ravel()], axis=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_distances_equal_brute_force_over_pixels(seed, a, b):
    rng = np.random.default_rng(seed)
    train, test = table(rng, rng.integers(1, 5), a, 40), table(rng, rng.integers(1, 4), b, 40)
    grid = metric(40, 40, dx=10.0, dy=25.0)
    apart, metres = [], []
    for i in range(len(test)):
        d = [inside(test, i)[:, None] - inside(train, j)[None] for j in range(len(train))]
        apart.append(min(np.abs(v).max(axis=-1).min() for v in d))
        metres.append(min(np.hypot(v[..., 0] * 25.0, v[..., 1] * 10.0).min() for v in d))
    np.testing.assert_allclose(distances_of(train, test, grid), metres, rtol=1e-12)
    both = Split(np.arange(len(train)), np.arange(len(test)))
    report = leakage(both, train, test, grid=grid, range_metres=60.0)
    assert report.min_distance == min(apart)
    assert report.min_distance_metres == pytest.approx(min(metres), rel=1e-12)
    assert report.nearer_than_range == np.mean(np.array(metres) < 60.0)
    assert report.ok == (min(apart) > 0)


def test_degrees_are_metres_on_the_ground():
    grid = Grid.from_epsg(4326, (0.001, 0.0, 15.0, 0.0, -0.001, 60.0), 50, 200)
    train, test = (WindowTable(np.array([10]), np.array([x]), 4) for x in (10, 110))
    lon, lat = grid.lonlat(np.array([12.0, 12.0]), np.array([13.5, 110.5]))
    truth = Geod(ellps="WGS84").inv(lon[0], lat[0], lon[1], lat[1])[2]
    found = leakage(Split(np.array([0]), np.array([0])), train, test, grid=grid)
    assert found.min_distance == 97
    # A tenth of a degree at 60 north is half as long as at the equator.
    assert found.min_distance_metres == pytest.approx(truth, rel=5e-3)
    assert found.min_distance_metres == pytest.approx(97 * 111.32 * 0.5, rel=1e-2)


def test_places_have_no_pixels_between_them():
    places = _Places(np.array([15.0, 15.0, 15.01]), np.array([46.0, 46.01, 46.0]))
    rows = window_table(3, 1, 1, 1)
    names = np.array(["a", "b", "b"])
    found = leakage(Split(np.array([0, 1]), np.array([2])), rows, rows, grid=places, places=names)
    truth = Geod(ellps="WGS84").inv(15.0, 46.0, 15.01, 46.0)[2]
    assert math.isnan(found.min_distance)
    assert found.min_distance_metres == pytest.approx(truth, rel=5e-3)
    assert (found.shared_pixels, found.shared_places, found.ok) == (0, 1, False)
    assert leakage(group_split(names, "a"), rows, rows, places=names).ok


def test_shared_dates_and_dates_kept_apart():
    dates = np.array(["2018-06-01", "2019-06-01", "2020-06-01"], "M8[s]")
    t = window_table(8, 8, 8, 8)
    same = Split(np.array([0]), np.array([0]))
    assert not leakage(same, t, t).ok
    apart = leakage(same, t, t, dates=year_split(dates, 2019))
    assert (apart.shared_dates, apart.shared_pixels, apart.ok) == (0, 64, True)
    by_hand = year_split(dates, 2019)
    by_hand.train[1] = True
    assert leakage(same, t, t, dates=by_hand).shared_dates == 1
    assert not leakage(same, t, t, dates=by_hand).ok


def test_labels_must_fit_and_a_range_needs_a_grid():
    t = window_table(8, 8, 4, 4)
    both = Split(np.array([0]), np.array([3]))
    with pytest.raises(CubeError, match="labels do not fit the tables"):
        leakage(both, t, t, places=np.array(["a"]))
    with pytest.raises(CubeError, match="a range in metres needs the grid"):
        leakage(both, t, t, range_metres=10.0)
    pair = (np.array(list("aabb")), np.array(list("bbba")))
    assert leakage(both, t, t, places=pair).shared_places == 1


def test_a_hundred_thousand_windows_take_seconds():
    """Quadratic search would take 10^9 comparisons: minutes. The bound is loose for a busy CI."""
    fold_map = tile_folds(2048, 2048, block=128, folds=5)
    train, test = window_table(2048, 2048, 32, 6), window_table(2048, 2048, 32, 16)
    assert len(train) > 100_000
    start = time.monotonic()
    found = split(train, test, fold_map, 0, buffer=0.25)
    report = leakage(found, train, test, grid=metric(2048, 2048), range_metres=500.0)
    assert time.monotonic() - start < 30
    assert (report.ok, report.min_distance, report.min_distance_metres) == (True, 9, 90.0)
