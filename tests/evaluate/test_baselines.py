"""Window features by brute force, tuning without leaks, and the table on the shipped cube."""

from __future__ import annotations

import numpy as np
import pytest

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.samples import sample_path
from data_zarr.sampling import WindowTable, target_means, window_table
from data_zarr.splits import Split, split, tile_folds
from rsvlm_jax.config import BandSetSpec, BandSpec, DataError, InputConfig
from rsvlm_jax.evaluate.baselines import (
    BASELINES,
    derived,
    features,
    fold_model,
    mean,
    mean_and_std,
    random_forest,
    ridge,
)
from rsvlm_jax.evaluate.regression import regression_benchmark


@pytest.fixture(scope="module")
def slovenia():
    return open_cube(sample_path("slovenia_s2"))


def problem(n: int = 120, f: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, f))
    y = x[:, 0] + 0.5 * x[:, 1] + rng.normal(0, 0.3, n)
    return x, y, np.arange(n) % 6


def test_mean_and_std_use_valid_pixels_only():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 2, 5, 4))
    valid = rng.random((3, 2, 5, 4)) > 0.3
    valid[1, 0] = False
    rubbish = np.where(valid, values, np.nan)
    found = mean_and_std(rubbish, valid).reshape(2, 3, 2)
    for t in range(3):
        for c in range(2):
            inside = values[t, c][valid[t, c]]
            if len(inside):
                assert found[:, t, c] == pytest.approx([inside.mean(), inside.std()])
            else:
                assert np.isnan(found[:, t, c]).all()


def test_features_of_the_shipped_cube_by_hand(slovenia):
    table = WindowTable(np.array([40, 0, 93]), np.array([12, 92, 0]), 8)
    inputs = [InputConfig("s2_l1c", bands=("red", "B08", "B12"))]
    found = features(slovenia, inputs, table).reshape(3, 2, 5, 4)
    data = slovenia.to_xarray("s2_l1c")
    pixels = data["pixels"].where(data["valid"]).values
    names = [b.name for b in slovenia.bandsets["s2_l1c"].bands]
    red, nir = (pixels[:, names.index(b)].astype(float) for b in ("B04", "B08"))
    layers = np.stack([red, nir, pixels[:, names.index("B12")], (nir - red) / (nir + red)], 1)
    for i, (y, x) in enumerate(zip(table.y, table.x, strict=True)):
        window = layers[:, :, y : y + 8, x : x + 8]
        clear = np.isfinite(window).any(axis=(1, 2, 3))
        np.testing.assert_allclose(found[i, 0, clear], window[clear].mean(axis=(2, 3)), rtol=1e-5)
        np.testing.assert_allclose(
            found[i, 1, clear], window[clear].std(axis=(2, 3)), rtol=1e-4, atol=1e-7
        )
        assert np.isnan(found[i][:, ~clear]).all()
    assert np.isnan(found).any(), "two dates of this cube are all cloud"


def test_radar_gets_the_difference_of_its_polarisations():
    spec = BandSetSpec("s1_db", "sar", (BandSpec("VV"), BandSpec("VH")))
    values = np.random.default_rng(0).normal(-12, 3, (2, 2, 4, 4))
    valid = np.ones((2, 2, 4, 4), bool)
    valid[0, 1, 0, 0] = False
    found, known = derived(values, valid, spec)
    np.testing.assert_array_equal(found[:, 2], values[:, 0] - values[:, 1])
    assert not known[0, 2, 0, 0]
    assert known[1, 2].all()


def test_landsat_has_an_ndvi_and_terrain_has_none():
    pair = (BandSpec("SR_B3", "red"), BandSpec("SR_B4", "nir08"))
    values = np.full((1, 2, 3, 3), 0.1)
    values[:, 1] = 0.3
    values[0, :, 0, 0] = 0.0  # no NDVI of nothing
    found, known = derived(values, np.ones((1, 1, 3, 3), bool), BandSetSpec("l8", "optical", pair))
    assert found[0, 2, 1, 1] == pytest.approx(0.5)
    assert known[0, 2].sum() == 8
    dem = BandSetSpec("dem", "covariate", (BandSpec("elevation"),), static=True)
    assert derived(values[:, :1], np.ones((1, 1, 3, 3), bool), dem)[0].shape == (1, 1, 3, 3)


def test_a_missing_band_is_named(slovenia):
    with pytest.raises(DataError, match="B99"):
        features(slovenia, [InputConfig("s2_l1c", bands=("B99",))], window_table(101, 100, 8, 8))


def test_a_window_outside_the_cube_is_refused(slovenia):
    table = WindowTable(np.array([95]), np.array([0]), 8)
    with pytest.raises(CubeError, match="window outside the cube"):
        features(slovenia, [InputConfig("s2_l1c")], table)


@pytest.mark.parametrize("fit_predict", [ridge, random_forest])
def test_learns_with_gaps_and_empty_columns(fit_predict):
    x, y, groups = problem()
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    x[:, 3] = np.nan
    found = fit_predict(x[:80], y[:80], groups[:80], x[80:])
    assert found.shape == (40,)
    assert 1 - np.mean((found - y[80:]) ** 2) / np.var(y[80:]) > 0.5


def test_mean_predicts_the_training_mean():
    np.testing.assert_array_equal(
        mean(np.zeros((4, 1)), np.arange(4.0), np.zeros(4), np.zeros((2, 1))), 1.5
    )


@pytest.mark.parametrize("fit_predict", [ridge, random_forest])
def test_the_same_call_gives_the_same_bits(fit_predict):
    x, y, groups = problem()
    first, second = (fit_predict(x[:80], y[:80], groups[:80], x[80:]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("fit_predict", [ridge, random_forest])
def test_one_test_row_cannot_move_another(fit_predict):
    """Medians and scalers come from training rows alone."""
    x, y, groups = problem()
    test = x[80:].copy()
    first = fit_predict(x[:80], y[:80], groups[:80], test)
    test[0] = 1e6
    second = fit_predict(x[:80], y[:80], groups[:80], test)
    np.testing.assert_array_equal(first[1:], second[1:])


def test_no_valid_pixel_at_all_is_refused():
    _, y, groups = problem(20)
    with pytest.raises(
        DataError, match=r"no feature has a value .* 20 windows, 3 features, all NaN"
    ):
        ridge(np.full((20, 3), np.nan), y, groups, np.zeros((1, 3)))


def test_one_group_cannot_be_tuned():
    x, y, _ = problem(20)
    with pytest.raises(DataError, match=r"at least 2 groups; found 1"):
        ridge(x, y, np.zeros(20, int), x)


def test_fold_model_leaves_out_unknown_targets_and_keeps_the_order_of_rows():
    x = np.arange(6.0)[:, None]
    y = np.array([0.0, np.nan, 2.0, 3.0, 4.0, 5.0])
    seen = {}

    def spy(x_train, y_train, groups, x_test):
        seen.update(x=x_train[:, 0], y=y_train, groups=groups)
        return x_test[:, 0]

    splits = [Split(np.array([0, 1, 2, 3]), np.array([5, 4]))]
    found, scale, seconds = fold_model(spy, x=x, y=y, groups=np.arange(6), splits=splits)(0)
    np.testing.assert_array_equal(found, [4.0, 5.0])
    np.testing.assert_array_equal(seen["x"], [0.0, 2.0, 3.0])
    np.testing.assert_array_equal(seen["groups"], [0, 2, 3])
    assert scale is None
    assert seconds >= 0


def test_baselines_on_the_shipped_cube_reach_their_known_scores(slovenia):
    """The bar that the model is measured against; see the demo's table."""
    height, width = slovenia.grid.height, slovenia.grid.width
    evaluation = window_table(height, width, 8, 8)
    target = slovenia.target("tree_cover")
    y, _ = target_means(target, evaluation, 0.5)
    x = features(slovenia, [InputConfig("s2_l1c")], evaluation)
    folds = tile_folds(height, width, block=25, folds=5)
    fold = folds[evaluation.centre]
    splits = [split(evaluation, evaluation, folds, f) for f in range(5)]
    models = {
        name: fold_model(BASELINES[name], x=x, y=y, groups=fold, splits=splits)
        for name in ("mean", "ridge")
    }
    bounds = slovenia.targets["tree_cover"].bounds
    rows = {r["model"]: r for r in regression_benchmark(y, fold, models, bounds=bounds).rows}
    assert rows["mean"]["r2"] < 0.05
    assert rows["ridge"]["r2"] > 0.7
    assert rows["ridge"]["picp90_lo"] < 0.9 < rows["ridge"]["picp90_hi"]


def test_the_order_of_bands_is_that_of_the_request(slovenia):
    table = window_table(101, 100, 8, 40)
    ab, ba = (
        features(slovenia, [InputConfig("s2_l1c", bands=bands)], table).reshape(-1, 2, 5, 2)
        for bands in (("B02", "B12"), ("B12", "B02"))
    )
    np.testing.assert_array_equal(ab, ba[..., ::-1])
