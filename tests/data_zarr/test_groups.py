"""Groups, years, strata and places: what is held out is held out whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_zarr.errors import CubeError
from data_zarr.ground import RADIUS
from data_zarr.splits import (
    deal,
    group_folds,
    sample_years,
    site_blocks,
    site_split,
    strata_of,
    tile_folds,
    year_split,
)

DATES = np.array(["2018-06-01", "2018-12-20", "2019-01-05", "2019-07-01", "2020-01-01"], "M8[s]")


def test_dates_of_a_year_are_read_by_test_samples_alone():
    found = year_split(DATES, 2019)
    assert found.train.tolist() == [True, True, False, False, True]
    assert found.test.tolist() == [False, False, True, True, False]


def test_dates_near_a_held_out_one_are_read_by_nobody():
    found = year_split(DATES, {2019}, gap_days=30)
    assert found.train.tolist() == [True, False, False, False, True]
    assert not (found.train & found.test).any()


def test_own_dates_of_places_and_gaps():
    own = np.stack([DATES, np.roll(DATES, 1)], axis=1)
    own[0, 1] = np.datetime64("NaT")
    found = year_split(own, [2018, 2020])
    assert found.train.shape == own.shape
    assert not found.train[0, 1]
    assert not found.test[0, 1]
    years = own.astype("M8[Y]").astype(int) + 1970
    np.testing.assert_array_equal(found.train, years == 2019)


def test_year_lines():
    with pytest.raises(CubeError, match=r"a year has no date; expected one of \[2018, 2019, 2020"):
        year_split(DATES, 2021)
    with pytest.raises(CubeError, match=r"a split is empty in years held out: \[2018, 2019, 2020"):
        year_split(DATES, [2018, 2019, 2020])
    with pytest.raises(CubeError, match="found months in a nominal year; split by a label"):
        year_split(DATES, 2019, year_known=False)


def test_the_year_of_a_place():
    own = np.array([["2018-01-01", "2019-05-01"], ["2018-02-01", "NaT"]], "M8[s]")
    assert sample_years(own).tolist() == [2018, 2019]
    own[1, 1] = np.datetime64("2020-01-01")
    with pytest.raises(CubeError, match=r"not of one year in place 1; .*found 2019\.\.2020"):
        sample_years(own)
    own[:, 0] = np.datetime64("NaT")
    with pytest.raises(CubeError, match=r"not of one year in place 0; .*found no date"):
        sample_years(own)


def test_strata_are_quantiles_or_classes():
    x = np.array([1.0, 2.0, np.nan, 3.0, 4.0, 100.0, 200.0])
    assert strata_of(x, bins=3).tolist() == [0, 0, -1, 1, 1, 2, 2]
    assert strata_of(np.array([7.0, 7.0, np.nan, 2.0]), categorical=True).tolist() == [1, 1, -1, 0]
    assert strata_of(np.array(["oak", "fir", "oak"])).tolist() == [1, 0, 1]
    assert strata_of(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(CubeError, match="no strata"):
        strata_of(np.full(3, np.nan))


def test_hand_worked_dealing():
    # Two groups of stratum 0 and two of stratum 1: each fold must get one of each.
    counts = np.array([[4, 4, 0], [4, 4, 0], [4, 0, 4], [4, 0, 4]])
    for seed in range(5):
        fold = deal(counts, 2, seed)
        assert fold[0] != fold[1]
        assert fold[2] != fold[3]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.booleans())
def test_groups_are_dealt_whole_and_no_fold_is_empty(seed, folds, stratified):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, folds + rng.integers(0, 20), 200)
    if len(np.unique(groups)) < folds:
        return
    strata = strata_of(rng.standard_normal(200)) if stratified else None
    found = group_folds(groups, folds, strata=strata, seed=seed)
    assert set(found.tolist()) == set(range(folds))
    for g in np.unique(groups):
        assert len(np.unique(found[groups == g])) == 1


def test_strata_balance_where_chance_does_not():
    """Regions of a steep gradient: every fold gets its share of every fifth of the target."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 20)
    target = groups / 60 + rng.normal(0, 0.05, len(groups))
    strata = strata_of(target)

    def uneven(fold):
        table = np.zeros((5, 5))
        np.add.at(table, (fold, strata), 1)
        return (table / table.sum(axis=0)).std()

    plain = np.mean([uneven(group_folds(groups, 5, seed=s)) for s in range(5)])
    dealt = max(uneven(group_folds(groups, 5, strata=strata, seed=s)) for s in range(5))
    assert dealt < 0.03
    assert dealt < plain / 3


def test_stratified_tiles():
    target = np.add.outer(np.arange(120), np.zeros(120))
    strata = strata_of(target, bins=4)
    fold = tile_folds(120, 120, block=20, folds=3, strata=strata)
    table = np.zeros((3, 4))
    np.add.at(table, (fold.ravel(), strata.ravel()), 1)
    assert table.std(axis=0).max() <= 400 * 0.82
    with pytest.raises(CubeError, match="strata of another shape"):
        tile_folds(120, 100, block=20, folds=3, strata=strata)


def test_leave_one_group_out_and_too_few():
    groups = np.array(list("bbaac"))
    assert group_folds(groups).tolist() == [1, 1, 0, 0, 2]
    with pytest.raises(CubeError, match="fewer groups than folds; expected at least 4 groups"):
        group_folds(groups, 4)
    with pytest.raises(CubeError, match="fewer groups than folds"):
        group_folds(np.array(["a", "a"]))


def test_blocks_of_places_are_as_wide_in_the_north():
    step = 1000 / RADIUS
    for lat in (0.1, 60.1, -45.1):
        lon = np.degrees(np.arange(400) * step / np.cos(np.radians(lat)))
        found = site_blocks(lon, np.full(400, lat), 20_000)
        sizes = np.bincount(found)
        # 400 km in places a kilometre apart; the first and the last block may be cut.
        assert 19 <= len(sizes) <= 22
        assert np.median(sizes) == pytest.approx(20, abs=1)
    assert len(set(site_blocks(np.array([-179.99, 180.01]), np.zeros(2), 20_000).tolist())) == 1
    with pytest.raises(CubeError, match="a place has no position in row 1"):
        site_blocks(np.array([0.0, np.nan]), np.zeros(2), 20_000)


def test_a_buffer_in_metres_drops_near_places():
    lat = np.array([0.0, 0.001, 0.02, 0.05])  # 0, 111, 2211, 5529 metres
    lon, fold = np.zeros(4), np.array([0, 1, 1, 1], np.int32)
    assert site_split(fold, 0).train.tolist() == [1, 2, 3]
    assert site_split(fold, 0, lon, lat, buffer_metres=500).train.tolist() == [2, 3]
    assert site_split(fold, 0, lon, lat, buffer_metres=2300).train.tolist() == [3]
    with pytest.raises(CubeError, match="a split is empty in fold 0"):
        site_split(fold, 0, lon, lat, buffer_metres=9000)
    with pytest.raises(CubeError, match="impossible buffer"):
        site_split(fold, 0, buffer_metres=10)
