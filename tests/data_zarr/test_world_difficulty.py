"""How hard the synthetic world is, measured on preset "small"; "full" in the slow test."""

from typing import NamedTuple

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_zarr.sampling import box_sums, integral, target_means, window_table
from data_zarr.splits import split, tile_folds
from data_zarr.world import make_world, oracle

SEEDS = (0, 1)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    return {s: make_world(root / f"{s}.zarr", seed=s, preset="small") for s in SEEDS}


def r2(observed, predicted):
    return 1 - ((observed - predicted) ** 2).sum() / ((observed - observed.mean()) ** 2).sum()


class Input(NamedTuple):
    """What a model may see: some channels and dates of a band set."""

    bandset: str
    channels: slice = slice(None)
    dates: slice = slice(None)


ALL_OPTICAL = (Input("s2_l2a"), Input("landsat_sr6"))
RGB = tuple(i._replace(channels=slice(0, 3)) for i in ALL_OPTICAL)
SAR = (Input("s1_db"),)
ALL = (*ALL_OPTICAL, *SAR, Input("dem"))


def features(cube, inputs, table, spread=True):
    """Mean (and standard deviation) over valid pixels of a window; NaN where a date is hidden."""
    size, columns = table.size, []
    for name, channels, dates in inputs:
        pixels, valid = cube.reader(name).read(0, 0, cube.grid.height, cube.grid.width)
        for date, mask in zip(pixels[dates, channels], valid[dates, 0], strict=True):
            n = box_sums(integral(mask), table.y, table.x, size, size)
            for band in date:
                x = np.where(mask, band, 0).astype(np.float64)
                mean, square = (
                    box_sums(integral(v), table.y, table.x, size, size) / np.maximum(n, 1)
                    for v in (x, x * x)
                )
                std = np.sqrt(np.maximum(square - mean**2, 0))
                columns += [
                    np.where(n >= 8, v, np.nan) for v in ((mean, std) if spread else (mean,))
                ]
    return np.stack(columns, 1)


def ridge():
    return make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), RidgeCV(np.logspace(-1, 4, 11))
    )


def forest():
    return make_pipeline(
        SimpleImputer(strategy="median"),
        RandomForestRegressor(40, min_samples_leaf=3, max_features=0.3, random_state=0, n_jobs=2),
    )


class Bench:
    """Scores on spatial folds of a world, as shares of the oracle's R2."""

    def __init__(self, cube):
        size = cube.grid.height
        self.cube = cube
        self.train, self.test = window_table(size, size, 8, 4), window_table(size, size, 8, 8)
        folds = tile_folds(size, size, block=32, folds=4)
        self.splits = [split(self.train, self.test, folds, k) for k in range(4)]
        truth = cube.target("agb")
        self.y, self.y_test = (target_means(truth, t, 0.5)[0] for t in (self.train, self.test))
        self.oracle = r2(self.y_test, target_means(oracle(cube), self.test, 0.5)[0])

    def score(self, make, inputs, spread=True):
        x, x_test = (features(self.cube, inputs, t, spread) for t in (self.train, self.test))
        predicted = np.full(len(self.test), np.nan)
        for s in self.splits:
            seen = np.isfinite(x[s.train]).any(0)
            model = make().fit(x[s.train][:, seen], self.y[s.train])
            predicted[s.test] = model.predict(x_test[s.test][:, seen])
        return r2(self.y_test, predicted) / self.oracle


@pytest.fixture(scope="session")
def benches(worlds):
    return {s: Bench(w) for s, w in worlds.items()}


def test_the_first_three_optical_bands_are_rgb(worlds):
    for bandset in ("s2_l2a", "landsat_sr6"):
        names = [b.common_name for b in worlds[0].bandsets[bandset].bands[:3]]
        assert names == ["blue", "green", "red"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_oracle_knows_most_but_not_all(benches, seed):
    assert 0.85 <= benches[seed].oracle <= 0.97


@pytest.mark.parametrize("seed", SEEDS)
def test_one_optical_date_is_not_enough(benches, seed):
    bench = benches[seed]
    scores = [
        bench.score(ridge, [one._replace(dates=slice(i, i + 1))])
        for one in ALL_OPTICAL
        for i in range(bench.cube.bandsets[one.bandset].shape[0])
    ]
    assert max(scores) <= 0.75
    assert max(scores) > 0.3  # hard, not hopeless


@pytest.mark.parametrize("seed", SEEDS)
def test_sensors_pay_and_rgb_alone_does_not(benches, seed):
    bench = benches[seed]
    # Means only: the noise of as many standard deviations drowns a forest of 700 windows.
    rgb, optical, sar, everything = (
        bench.score(forest, i, spread=False) for i in (RGB, ALL_OPTICAL, SAR, ALL)
    )
    assert max(rgb, bench.score(forest, RGB), bench.score(ridge, RGB)) <= 0.5
    assert rgb < min(optical, sar)
    assert max(optical, sar) < everything


@pytest.mark.slow
def test_the_full_world_is_learnable(tmp_path):
    """A small network on window features of some 3000 windows comes close to the oracle."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPRegressor

    cube = make_world(tmp_path / "full.zarr", seed=0, preset="full")
    table = window_table(512, 512, 8, 8)
    held = split(table, table, tile_folds(512, 512, block=64, folds=4), 0)
    y = target_means(cube.target("agb"), table, 0.5)[0]
    reference = r2(y[held.test], target_means(oracle(cube), table, 0.5)[0][held.test])
    assert 0.85 <= reference <= 0.97
    x = features(cube, ALL, table)
    x = x[:, np.isfinite(x[held.train]).any(0)]
    network = MLPRegressor(
        hidden_layer_sizes=(64, 32), alpha=3.0, max_iter=150, early_stopping=True, random_state=0
    )
    model = TransformedTargetRegressor(
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), network),
        transformer=StandardScaler(),
    ).fit(x[held.train], y[held.train])
    assert len(held.train) < 3500
    assert r2(y[held.test], model.predict(x[held.test])) >= 0.85 * reference
