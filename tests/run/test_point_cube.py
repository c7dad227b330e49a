"""An experiment on a point cube and one on two resolutions, from the store to a finished run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.sites import Sites
from data_zarr.splits import group_folds
from data_zarr.write import BandSetData, create_cube
from rsvlm_jax.config import (
    ConfigError,
    DataConfig,
    DataError,
    Experiment,
    InputConfig,
    SpectralConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
)
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.evaluate.cubeframes import show
from rsvlm_jax.evaluate.cubeinfo import cube_facts
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.predict import predict
from rsvlm_jax.run.prepare import GIVEN, prepare
from rsvlm_jax.run.trained import load_run

S, T = 40, 3
REGIONS = ["alps"] * 16 + ["karst"] * 12 + ["coast"] * 8 + ["plain"] * 4


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 sites, one to three dates each in a nominal year; the target is one band, scaled."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("points") / "points.zarr"
    dates = np.datetime64("2001-05-15", "s") + np.arange(T)[:, None] * np.timedelta64(30, "D")
    dates = np.repeat(dates, S, axis=1)
    dates[np.arange(T)[:, None] >= 1 + np.arange(S) % 3] = np.datetime64("NaT")
    optical, dem = BANDSETS["s2_l2a"], BANDSETS["dem"]
    sets = [
        BandSetData("s2_l2a", "optical", optical.bands, dates, scale=1e-4, year_known=False),
        BandSetData("dem", dem.kind, dem.bands, static=True),
    ]
    sites = Sites(
        [f"plot-{i}" for i in range(S)],
        rng.uniform(13, 16, S),
        rng.uniform(45, 47, S),
        labels={"region": REGIONS},
    )
    pixels = rng.integers(200, 4000, (T, len(optical.bands), S, 1)).astype(np.int16)
    with create_cube(
        path, grid=sites, bandsets=sets, targets=[TargetInfo("moisture", unit="%")],
        title="points", license="CC0-1.0", provenance="tests",
    ) as writer:  # fmt: skip
        writer.write("s2_l2a", 0, 0, pixels)
        writer.write("dem", 0, 0, rng.integers(100, 900, (1, 1, S, 1)).astype(np.int16))
        writer.write_target("moisture", 0, 0, pixels[0, 3, :, 0] / 40.0)
    return path


def on(
    experiment: Experiment, cube: Path, target: str, inputs: tuple[str, ...], **data
) -> Experiment:
    model = dataclasses.replace(
        experiment.model, inputs=tuple(InputConfig(name, front="pixel") for name in inputs)
    )
    settings = {"window": 1, "stride": 1, **data}
    return dataclasses.replace(
        experiment,
        model=model,
        data=DataConfig(str(cube), TargetConfig(target), **settings),
        train=TrainConfig(steps=3, batch_size=4, save_every=3, log_every=1),
    )


def test_a_run_on_a_point_cube(experiment: Experiment, points: Path, tmp_path: Path):
    split = SplitConfig(folds=4, fold=1, group="region")
    wanted = on(experiment, points, "moisture", ("s2_l2a", "dem"), split=split)
    found = prepare(wanted)
    held = {REGIONS[i] for i in found.split.test}
    assert held == {REGIONS[i] for i in np.flatnonzero(group_folds(np.array(REGIONS), 4) == 1)}
    assert held.isdisjoint(REGIONS[i] for i in found.split.train)
    assert not held & {REGIONS[i] for i in found.split.train}
    with eval_batches(found.test, found.processor, batch_size=4, threads=0) as batches:
        obs = next(batches).obs
    site = int(found.split.test[0])
    assert not obs["s2_l2a"].year_known.any()
    assert obs["dem"].year_known.all()
    fewer = 1 + site % 3
    assert np.isfinite(obs["s2_l2a"].date[0]).tolist() == [t < fewer for t in range(T)]
    assert obs["s2_l2a"].valid[0, :, 0, 0, 0].tolist() == [t < fewer for t in range(T)]
    assert obs["s2_l2a"].lonlat[0].tolist() == pytest.approx(
        [found.cube.grid.lon[site], found.cube.grid.lat[site]], rel=1e-6
    )

    run = fit(wanted, out=tmp_path / "run")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert all(math.isfinite(r["loss"]) and r["skipped"] == 0 for r in rows)

    made = predict(load_run(run.path), found.cube, out=tmp_path / "map")
    assert made.tif is None
    data = xr.open_zarr(made.zarr, consolidated=False, chunks=None)
    assert data["moisture"].dims == ("site",)
    assert np.isfinite(data["moisture"].values).all()
    assert data["site"].values.tolist() == found.cube.grid.ids.tolist()


def test_without_a_label_single_sites_are_dealt(experiment: Experiment, points: Path):
    wanted = on(experiment, points, "moisture", ("dem",), split=SplitConfig(folds=5, fold=0))
    assert len(prepare(wanted).split.test) == S // 5


def test_given_places_are_in_no_fold(experiment: Experiment, points: Path):
    def splits(**given):
        split = SplitConfig(folds=3, **given)
        found = prepare(on(experiment, points, "moisture", ("dem",), split=split))
        return found.split, found

    given = {i for i in range(S) if REGIONS[i] == "coast"}
    made, _ = splits(fold=None, given=("region", "coast"))
    assert set(made.test) == given
    assert set(made.train) == set(range(S)) - given
    inner, found = splits(fold=1, given=("region", "coast"))
    assert not given & (set(inner.test) | set(inner.train))
    assert set(inner.test) | set(inner.train) == set(made.train)
    assert (found.fold_map[sorted(given), 0] == GIVEN).all()


@pytest.mark.parametrize(
    ("given", "match"),
    [(("region", "cost"), "no such part of the places"), (("regio", "coast"), "no such label")],
)
def test_given_places_that_are_not_there(
    experiment: Experiment, points: Path, given: tuple[str, str], match: str
):
    wanted = on(experiment, points, "moisture", ("dem",), split=SplitConfig(given=given))
    with pytest.raises(DataError, match=match):
        prepare(wanted)


def test_a_raster_has_no_given_places(experiment: Experiment):
    split = dataclasses.replace(experiment.data.split, given=("region", "coast"))
    data = dataclasses.replace(experiment.data, split=split)
    with pytest.raises(ConfigError, match=r"SplitConfig.given"):
        prepare(dataclasses.replace(experiment, data=data))


def test_a_label_that_is_not_there(experiment: Experiment, points: Path):
    wanted = on(experiment, points, "moisture", ("dem",), split=SplitConfig(group="regio"))
    with pytest.raises(DataError, match=r"no such label .*did you mean 'region'\?"):
        prepare(wanted)


def test_fewer_groups_than_folds(experiment: Experiment, points: Path):
    wanted = on(
        experiment, points, "moisture", ("dem",), split=SplitConfig(group="region", folds=5)
    )
    with pytest.raises(DataError, match=r"fewer groups than folds .*at least 5 groups; found 4"):
        prepare(wanted)


def test_a_group_on_a_raster(experiment: Experiment):
    data = dataclasses.replace(experiment.data, split=SplitConfig(group="region"))
    with pytest.raises(ConfigError, match="a raster has no labels to split by"):
        prepare(dataclasses.replace(experiment, data=data))


def test_a_window_of_several_sites(experiment: Experiment, points: Path):
    wanted = on(experiment, points, "moisture", ("dem",), window=2, split=SplitConfig(folds=2))
    with pytest.raises(CubeError, match="a window is larger than the cube"):
        prepare(wanted)


def test_sites_make_no_picture(points: Path, tmp_path: Path):
    with pytest.raises(DataError, match="sites make no picture"):
        show(
            open_cube(points),
            tmp_path / "p.png",
            bandset=None,
            spectral=SpectralConfig(),
            dates=2,
            size=8,
        )


def test_facts_of_a_point_cube(points: Path):
    facts = cube_facts(open_cube(points))
    assert facts["gsd_metres"] is None
    assert facts["bandsets"]["s2_l2a"]["dates"] == ["2001-05", "2001-06", "2001-07"]
    assert facts["bandsets"]["s2_l2a"]["valid_percent"] == [100.0, 100.0, 100.0]


# ---- two resolutions -----------------------------------------------------------------------------

EDGE = 48


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 m and 20 m: each 20 m pixel is 1000 more than its upper left 10 m pixel."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.zarr"
    rng = np.random.default_rng(1)
    fine = rng.integers(200, 4000, (1, 1, EDGE, EDGE)).astype(np.int16)
    row = BANDSETS["s2_l2a"]
    sets = [
        BandSetData(n, row.kind, row.bands[i : i + 1], ["2020-06-01"], scale=1e-4, factor=f)
        for n, i, f in (("ten", 3, 1), ("twenty", 10, 2))
    ]
    grid = Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5.08e6), EDGE, EDGE)
    with create_cube(
        path, grid=grid, bandsets=sets, targets=[TargetInfo("cover")],
        title="mixed", license="CC0-1.0", provenance="tests",
    ) as writer:  # fmt: skip
        writer.write("ten", 0, 0, fine)
        writer.write("twenty", 0, 0, np.ascontiguousarray(fine[..., ::2, ::2]) + np.int16(1000))
        writer.write_target("cover", 0, 0, fine[0, 0] / 4000.0)
    return path


def test_windows_of_two_resolutions_cover_the_same_ground(
    experiment: Experiment, mixed: Path, tmp_path: Path
):
    split = SplitConfig(block=12, folds=2)
    wanted = on(experiment, mixed, "cover", ("ten", "twenty"), window=8, stride=4, split=split)
    found = prepare(wanted)
    reads = found.train.read(np.arange(len(found.train)))["obs"]
    ten, twenty = reads["ten"]["pixels"], reads["twenty"]["pixels"]
    assert ten.shape[-2:] == (8, 8)
    assert twenty.shape[-2:] == (4, 4)
    np.testing.assert_array_equal(ten[..., ::2, ::2] + 1000, twenty)
    assert set(reads["ten"]["gsd"]) == {10.0}
    assert set(reads["twenty"]["gsd"]) == {20.0}
    assert [s.gsd for s in found.specs] == [10.0, 20.0]
    run = fit(wanted, out=tmp_path / "run")
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_stride_that_cuts_coarse_pixels(experiment: Experiment, mixed: Path):
    split = SplitConfig(block=12, folds=2)
    wanted = on(experiment, mixed, "cover", ("ten", "twenty"), window=8, stride=3, split=split)
    with pytest.raises(DataError, match=r"a window cuts the pixels of a coarser .* multiples of 2"):
        _ = prepare(wanted).train
