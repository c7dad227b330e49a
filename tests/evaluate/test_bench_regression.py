"""`rsvlm bench regression` end to end: one table, restartable, honest splits, one page."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from places import places
from plots_of_land import land

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import (
    ConfigError,
    DataError,
    Experiment,
    InputConfig,
    MeshConfig,
    Preempted,
)
from rsvlm_jax.evaluate.benchmark.bench import BenchRequest, bench_regression
from rsvlm_jax.evaluate.benchmark.deals import DealOptions, deal
from rsvlm_jax.evaluate.benchmark.experiments import (
    default_experiment,
    on_cube,
    row_name,
    variant,
)
from rsvlm_jax.evaluate.benchmark.task import Task
from rsvlm_jax.evaluate.regression import COLUMNS
from rsvlm_jax.metrics import regression_sums
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.trained import load_run

pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples")  # tiny cubes

FOLDS = DealOptions(block=16, folds=2, buffer=0.0)


class Quiet:
    def update(self, name: str, done: int, total: int, metrics: object = None) -> None: ...
    def say(self, what: object) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def base(folder: Path) -> Experiment:
    cube = land(folder / "land.zarr")
    return default_experiment(cube, str(cube.path), window=8, stride=8, steps=2)


@pytest.fixture(scope="module")
def points(folder: Path) -> Experiment:
    cube = places(folder / "places.zarr")
    return default_experiment(cube, str(cube.path), inputs=("s2_l2a",), steps=2)


def request(experiment: Experiment, *models: str, **more) -> BenchRequest:
    return BenchRequest((experiment,), models, **{"options": FOLDS, "command": "x", **more})


@pytest.fixture(scope="module")
def made(base: Experiment, folder: Path) -> dict:
    """Stopped half-way, then run again."""
    asked = request(base, "mean", "ridge", "quantile_forest", "rsvlm", seeds=1)
    left = iter([False] * 5)
    with pytest.raises(Preempted, match="after 5 of 8 cells"):
        bench_regression(asked, folder / "out", reporter=Quiet(), stop=lambda: next(left, True))
    return bench_regression(asked, folder / "out", reporter=Quiet())


def test_a_stopped_benchmark_goes_on_and_a_finished_one_is_read(
    made: dict, base: Experiment, folder: Path
):
    assert made["cells"] == {"made": 3, "found": 5}
    asked = request(base, "mean", "ridge", "quantile_forest", "rsvlm")
    again = bench_regression(asked, folder / "out", reporter=Quiet())
    assert again["cells"] == {"made": 0, "found": 8}
    assert json.dumps(again["table"]) == json.dumps(made["table"])
    once = dataclasses.replace(asked, seeds=2, once=asked.models)
    assert bench_regression(once, folder / "out", reporter=Quiet())["cells"] == again["cells"]


def test_rows_have_the_stable_columns_and_honest_names(made: dict):
    rows = {r["model"]: r for r in made["table"]}
    assert list(rows) == ["mean", "ridge", "quantile_forest", "rsvlm"]
    for row in rows.values():
        assert list(row)[: len(COLUMNS)] == list(COLUMNS)
        assert row["n"] == 36
        assert row["rmse_lo"] <= row["rmse"] <= row["rmse_hi"]
    assert rows["ridge"]["r2"] > 0.9 > rows["mean"]["r2"]
    assert 0 < rows["quantile_forest"]["own_crps"] < rows["mean"]["crps"]
    assert np.isnan(rows["ridge"]["own_picp90"])
    assert rows["rsvlm"]["own_crps"] > 0
    assert np.isnan(rows["ridge"]["own_crps"])


def test_only_rows_that_pass_through_a_decoder_begin_with_rsvlm(base: Experiment):
    bare = variant("no_lm", base, find_cube(base.data.cube))
    assert bare.model.decoder is None
    assert row_name("rsvlm", base) == "rsvlm"
    assert row_name("rsvlm_wide", base) == "rsvlm_wide"
    assert row_name("rsvlm", bare) == row_name("no_lm", bare) == "no_lm"
    assert row_name("rsvlm_wide", bare) == "no_lm_wide"
    vit = variant("vit_linear", base, find_cube(base.data.cube))
    assert vit.model.decoder is None
    assert vit.model.head == dataclasses.replace(base.model.head, kind="linear")
    assert row_name("vit_linear", vit) == "vit_linear"
    assert row_name("vit_linear", base) == "rsvlm_vit_linear", "not with a decoder"


def test_the_report_is_whole(made: dict):
    page = Path(made["report"])
    names = {p.name for p in page.parent.iterdir()}
    for name in ("table", "paired", "bins", "groups", "calibration", "cost", "splits"):
        assert f"{name}.csv" in names
    for name in ("scores", "scatter", "bins", "calibration", "residuals", "sites"):
        assert (page.parent / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 6
    assert not re.search(r"(src|href)=\"(?!data:)", text), "nothing comes from elsewhere"
    assert "<caption>What models say of themselves, before calibration</caption>" in text
    assert "<caption>RMSE by tile</caption>" in text
    assert "No map of residuals" not in text
    table = list(csv.DictReader((page.parent / "table.csv").open()))
    assert float(table[1]["rmse_hi"]) == made["table"][1]["rmse_hi"]
    pairs = list(csv.DictReader((page.parent / "paired.csv").open()))
    assert len(pairs) == 6 + 10, "by CRPS the forest's own quantiles are a fifth"
    assert made["pairs"][-1]["reference"] == "quantile_forest, own"
    ridge = next(p for p in pairs if (p["model"], p["reference"]) == ("mean", "ridge"))
    assert float(ridge["difference"]) > 0
    assert float(ridge["lo"]) > 0


def test_the_figures_do_not_depend_on_the_number_of_devices(made: dict, folder: Path):
    """A public evaluator adds the batch means of all ranks and divides by the batches of one."""
    run = next(p for p in (folder / "out" / "runs").iterdir() if "-f0-" in p.name)
    task = Task.of(load_run(run).experiment)
    rows = np.arange(len(task.y))[:35]  # eight devices do not divide it
    found = []
    for mesh in (MeshConfig(), MeshConfig(data=8)):
        loaded = load_run(run, mesh=mesh)
        source = task.prepared.source_for(loaded.processor, task.evaluation, rows)
        mean = loaded.regress_source(source, batch_size=16).mean
        parts = np.array_split(np.arange(35), mesh.data)
        sums = [regression_sums(task.y[p], mean[p]) for p in parts]
        found.append(float(sum(sums[1:], sums[0]).metrics()["rmse"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_given_split_scores_its_test_rows_and_calibrates_on_training_sites(points: Experiment):
    task = Task.of(points)
    labels = dict(task.cube.labels)
    labels["set"] = np.where(labels["region"] == "region 1", "test", "train")
    object.__setattr__(task.cube.grid, "labels", labels)
    dealt = deal(task, "given:set", dataclasses.replace(FOLDS, site="region", calibration_folds=4))
    assert dealt.scored.sum() == 10
    assert len(dealt.splits) == 5
    test = np.flatnonzero(dealt.scored)
    for split in dealt.splits:
        assert not np.intersect1d(split.train, test).size, "no model sees a test row"
        sides = (set(dealt.site[rows].tolist()) for rows in (split.train, split.test))
        assert not set.intersection(*sides), "a site is never cut"
    assert (dealt.fold >= 0).all()
    with pytest.raises(ConfigError, match="no fold to calibrate on in --calibration-folds"):
        deal(task, "given:set", dataclasses.replace(FOLDS, calibration_folds=1))


def test_bad_input_a_random_split_is_refused_and_named_when_forced(base, points):
    for experiment in (base, points):
        task = Task.of(experiment)
        with pytest.raises(ConfigError, match=r"a split that leaks in --splits random.*--force"):
            deal(task, "random", FOLDS)
        forced = deal(task, "random", dataclasses.replace(FOLDS, force=True))
        assert forced.leaks


def test_bad_input_a_given_split_that_cuts_a_site(points: Experiment):
    task = Task.of(points)
    labels = {**task.cube.labels, "is_test": np.arange(60) // 6 % 2}
    object.__setattr__(task.cube.grid, "labels", labels)
    options = dataclasses.replace(FOLDS, site="region")
    with pytest.raises(ConfigError, match=r"a split that leaks .* found 6 sites on both sides"):
        deal(task, "given:is_test", options)


@pytest.mark.parametrize(
    ("values", "test"),
    [([1.0, 0.0], "given:set"), ([True, False], "given:set"), ([7, 3], "given:set=7")],
)
def test_a_given_split_knows_its_test_places_by_their_value(points, values, test: str):
    task = Task.of(points)
    region = task.cube.labels["region"]
    labels = {**task.cube.labels, "set": np.where(region == "region 1", *values)}
    object.__setattr__(task.cube.grid, "labels", labels)
    dealt = deal(task, test, dataclasses.replace(FOLDS, site="region"))
    assert dealt.scored.tolist() == (region[task.evaluation.y] == "region 1").tolist()


def test_bad_input_a_given_label_of_folds_or_years(points: Experiment):
    with pytest.raises(DataError, match=r"does not say which .* --splits given:year=VALUE"):
        deal(Task.of(points), "given:year", FOLDS)


def test_bad_input_patches_of_an_atlas_that_are_cut(base: Experiment):
    task = Task.of(base)
    task.cube.attrs["patches"] = {"size": 12}
    with pytest.raises(ConfigError, match=r"lie across two patches of 12 .*--block a multiple of"):
        deal(task, "spatial", FOLDS)
    task.cube.attrs["patches"] = {"size": 16}
    assert not deal(task, "spatial", FOLDS).leaks


def test_bad_input_one_site(points: Experiment):
    task = Task.of(points)
    labels = {**task.cube.labels, "one": np.zeros(60, np.int64)}
    object.__setattr__(task.cube.grid, "labels", labels)
    with pytest.raises(Exception, match=r"fewer groups than folds; expected at least 2 groups"):
        deal(task, "group:one", FOLDS)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("group:nation", r"no such label .* expected one of region, year; found nation"),
        ("given:nation", r"no such label .* expected one of region, year; found nation"),
        ("fair", r"no such split in --splits; expected spatial \| group:LABEL"),
        ("group", r"no such split"),
    ],
)
def test_bad_input_no_such_split(points: Experiment, name: str, error: str):
    with pytest.raises((ConfigError, DataError), match=error):
        deal(Task.of(points), name, FOLDS)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.nan, r"a target without a finite value .*'agb'.* found 2304 NaN"),
        (7.0, r"a target that does not vary .* found 36 windows, all 7"),
    ],
)
def test_bad_input_a_target_of_nothing_or_of_one_value(tmp_path: Path, value: float, error: str):
    cube = land(tmp_path / "land.zarr", np.full((48, 48), value))
    with pytest.raises(DataError, match=error):
        Task.of(default_experiment(cube, str(cube.path), stride=8))


def test_bad_input_cubes_whose_units_differ(base: Experiment, tmp_path: Path):
    other = land(tmp_path / "other.zarr", unit="kg/m2")
    data = dataclasses.replace(base.data, mixture=((str(other.path), 1.0),))
    asked = request(dataclasses.replace(base, data=data), "rsvlm")
    with pytest.raises(DataError, match=r"another target than .*'Mg/ha'.* found .*'kg/m2'"):
        bench_regression(asked, tmp_path / "out", reporter=Quiet())


def test_bad_input_an_experiment_of_other_bands(base: Experiment, tmp_path: Path):
    model = dataclasses.replace(base.model, inputs=(InputConfig("s2_l2a", bands=("red", "B11")),))
    other = dataclasses.replace(base, name="swir", model=model)
    asked = dataclasses.replace(request(base, "mean"), experiments=(base, other))
    with pytest.raises(DataError, match=r"no such band .* 's2_l2a'; .* found 'B11'"):
        bench_regression(asked, tmp_path / "out", reporter=Quiet())


def test_bad_input_an_experiment_of_other_windows(base: Experiment, tmp_path: Path):
    other = dataclasses.replace(base, name="wide", data=dataclasses.replace(base.data, window=16))
    asked = dataclasses.replace(request(base, "mean"), experiments=(base, other))
    with pytest.raises(ConfigError, match=r"other windows .* expected 8; found 16"):
        bench_regression(asked, tmp_path / "out", reporter=Quiet())


@pytest.mark.parametrize(
    ("models", "more", "error"),
    [
        (("ridg",), {}, r"no such model in --models; .* did you mean 'ridge'\?"),
        (("rsvlm_sar",), {}, r"reads no sar in --models rsvlm_sar; .* found s2_l2a"),
        ((), {}, r"no such model in --models; .* found no name"),
        (("mean",), {"seeds": 0}, r"no seed in --seeds"),
        (("mean",), {"options": DealOptions(seed=-1)}, r"no seed in --seed; .* found -1"),
        (
            ("mean",),
            {"splits": ("random",), "options": DealOptions(folds=0, force=True)},
            r"impossible folds in --folds; expected 2 \.\. 36",
        ),
        (("mean",), {"edges": (3.0, 1.0)}, r"no bins in --bins; .* found 3, 1"),
    ],
)
def test_bad_input_a_request_that_cannot_be(base, tmp_path: Path, models, more, error: str):
    with pytest.raises(ConfigError, match=error):
        bench_regression(request(base, *models, **more), tmp_path, reporter=Quiet())


def test_the_command(base: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["bench", "regression", base.data.cube, "--stride", "8", "--folds", "3"]
    words += ["--models", "mean", "ridge_indices", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["model"] for r in result["table"]] == ["mean", "ridge_indices"]
    assert "rsvlm bench regression" in Path(result["report"]).with_name("report.md").read_text()
    assert main([*words, "--window", "0"]) == 2
    assert "no size in --window; expected >= 1; found 0" in capsys.readouterr().err
    assert main(["bench", "regresion", "x"]) == 2
    assert "did you mean 'bench regression'?" in capsys.readouterr().err


def test_an_experiment_takes_cube_target_and_steps_of_the_command(base: Experiment):
    made = on_cube(base, "sample:slovenia_s2", "tree_cover", 7)
    assert (made.data.cube, made.data.target.name, made.train.steps) == (
        *("sample:slovenia_s2", "tree_cover", 7),
    )
    assert on_cube(base, base.data.cube, None, None) == base
