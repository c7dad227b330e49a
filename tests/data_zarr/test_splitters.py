"""scikit-learn's protocol, tested with scikit-learn itself."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    StratifiedGroupKFold,
    cross_val_predict,
    cross_val_score,
)

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.sampling import window_table
from data_zarr.splits import (
    GroupFolds,
    SiteBlocks,
    SpatialBlocks,
    group_folds,
    leakage,
    site_blocks,
    split,
    splits_of,
    strata_of,
)
from data_zarr.splits.tiles import NarrowBufferWarning

GRID = Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5e6), 200, 200)
TABLE = window_table(200, 200, 8, 8)


def data(n):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3))
    return X, X @ np.array([1.0, 2.0, -1.0]) + rng.normal(0, 0.1, n)


def test_cross_val_score_takes_spatial_blocks():
    X, y = data(len(TABLE))
    cv = SpatialBlocks(TABLE, GRID, block=50, folds=4)
    scores = cross_val_score(Ridge(), X, y, cv=cv)
    assert scores.shape == (4,)
    assert (scores > 0.9).all()
    by_hand = [
        Ridge().fit(X[a], y[a]).score(X[b], y[b])
        for a, b in ((s.train, s.test) for s in cv.splits())
    ]
    np.testing.assert_allclose(scores, by_hand, rtol=1e-12)
    # Test rows are a partition, so predictions of all rows can be had.
    assert cross_val_predict(Ridge(), X, y, cv=cv).shape == y.shape
    assert GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=cv).fit(X, y).n_splits_ == 4


def test_every_fold_is_clear_by_the_report():
    for found in SpatialBlocks(TABLE, GRID, block=50, folds=4).splits():
        report = leakage(found, TABLE, TABLE, grid=GRID)
        assert report.ok
        assert report.min_distance > 8
        assert report.min_distance_metres > 80


def test_a_narrow_buffer_is_said_refused_or_accepted():
    def blocks(**options):
        return SpatialBlocks(TABLE, GRID, block=50, folds=4, **options)

    with pytest.warns(NarrowBufferWarning, match="narrower than a window: 4 of 8 pixels"):
        next(blocks(buffer=0.5).splits())
    with pytest.raises(CubeError, match=r"narrower than a window: 0 of 8 .*expected buffer >= 1"):
        next(blocks(buffer=0, narrow="refuse").splits())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(blocks(buffer=0, narrow="accept").splits())
        fold_map = blocks().fold_map()
        split(TABLE, TABLE, fold_map, 0)  # as the experiments of before
    with pytest.raises(CubeError, match="narrower than a window"):
        split(TABLE, TABLE, fold_map, 0, narrow="refuse")


def test_the_range_as_a_buffer():
    centre = np.stack(TABLE.centre)
    y = np.sin(centre[0] / 12.0) + np.cos(centre[1] / 12.0)
    cv = SpatialBlocks(TABLE, GRID, block=40, folds=5, buffer="range")
    reports = [leakage(s, TABLE, TABLE, grid=GRID) for s in cv.splits(y)]
    assert min(r.min_distance for r in reports) > 16
    with pytest.raises(CubeError, match='buffer="range" needs the target'):
        next(cv.splits())
    with pytest.raises(CubeError, match='buffer="range" without a range'):
        next(cv.splits(centre[0] + 0.0))


def test_strata_of_windows_balance():
    y = TABLE.centre[0] + 0.0
    strata = strata_of(y)
    spread = []
    for bins in (0, 5):
        cv = SpatialBlocks(TABLE, GRID, block=25, folds=4, stratify=bins, buffer=0, narrow="accept")
        shares = [np.bincount(strata[s.test], minlength=5) for s in cv.splits(y)]
        spread.append(np.std(shares, axis=0).mean())
    assert spread[1] < spread[0] / 2


@pytest.mark.parametrize("deal", [GroupKFold(4), StratifiedGroupKFold(4)])
def test_sklearn_deals_our_blocks(deal):
    y = (TABLE.centre[0] > 80).astype(int)
    cv = SpatialBlocks(TABLE, GRID, block=25, deal=deal, stratify=2)
    assert cv.get_n_splits() == 4
    rows = [s.test for s in cv.splits(y)]
    assert sorted(np.concatenate(rows)) == list(range(len(TABLE)))
    assert all(leakage(s, TABLE, TABLE).min_distance > 8 for s in cv.splits(y))


def test_a_splitter_that_cuts_blocks_is_refused():
    cv = SpatialBlocks(TABLE, GRID, block=25, deal=KFold(4, shuffle=True, random_state=0))
    with (
        pytest.warns(UserWarning, match="groups parameter is ignored"),  # sklearn's own
        pytest.raises(CubeError, match="this splitter does not keep blocks whole in KFold"),
    ):
        next(cv.splits())


def test_the_report_reads_any_splitter():
    """Random folds of overlapping windows leak; the report says how much."""
    table = window_table(200, 200, 8, 4)
    for found in splits_of(KFold(5, shuffle=True, random_state=0), len(table)):
        report = leakage(found, table, table, grid=GRID, range_metres=1.0)
        assert not report.ok
        assert report.min_distance_metres == 0.0
        assert report.nearer_than_range > 0.99


def test_groups_as_sklearn_leaves_them_out():
    X, y = data(120)
    region = np.random.default_rng(1).choice(["alps", "coast", "plain"], 120)
    ours = cross_val_score(Ridge(), X, y, groups=region, cv=GroupFolds())
    theirs = cross_val_score(Ridge(), X, y, groups=region, cv=LeaveOneGroupOut())
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    site = np.repeat(np.arange(30), 4)
    found = list(GroupFolds(5, stratify=4).splits(y, site))
    assert len(found) == 5
    for s in found:
        assert not set(site[s.train]) & set(site[s.test])
    with pytest.raises(CubeError, match="folds of groups need groups"):
        next(GroupFolds(5).splits(y))


def test_places_in_blocks():
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(10, 12, 300), rng.uniform(45, 46, 300)
    X, y = data(300)
    cv = SiteBlocks(lon, lat, metres=20_000, folds=5, buffer_metres=2000, stratify=5)
    assert (cross_val_score(Ridge(), X, y, cv=cv) > 0.9).all()
    assert sorted(np.concatenate([s.test for s in cv.splits(y)])) == list(range(300))
    by_range = SiteBlocks(lon, lat, metres=50_000, folds=3, buffer_metres="range")
    near = rng.standard_normal(300)[site_blocks(lon, lat, 10_000)]
    strict = [len(s.train) for s in by_range.splits(near)]
    free = [len(s.train) for s in SiteBlocks(lon, lat, metres=50_000, folds=3).splits()]
    assert sum(strict) < sum(free)


def test_group_folds_are_what_the_splitter_uses():
    groups = np.repeat(np.arange(10), 3)
    fold_of = group_folds(groups, 3)
    for fold, s in enumerate(GroupFolds(3).splits(groups=groups)):
        np.testing.assert_array_equal(s.test, np.flatnonzero(fold_of == fold))
