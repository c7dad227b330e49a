"""The oracle of a synthetic world as a row of `rsvlm bench regression`."""

from __future__ import annotations

from pathlib import Path

import pytest
from plots_of_land import land

from data_zarr.errors import CubeError
from data_zarr.sampling import target_means
from data_zarr.world import make_world, oracle
from rsvlm_jax.config import ConfigError
from rsvlm_jax.evaluate.benchmark.bench import BenchRequest, bench_regression
from rsvlm_jax.evaluate.benchmark.deals import DealOptions
from rsvlm_jax.evaluate.benchmark.experiments import default_experiment
from rsvlm_jax.evaluate.benchmark.models import models_of
from rsvlm_jax.evaluate.benchmark.task import Task
from rsvlm_jax.metrics import regression_table

pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples")  # a tiny cube


class Quiet:
    def update(self, name: str, done: int, total: int, metrics: object = None) -> None: ...
    def say(self, what: object) -> None: ...


def test_the_oracle_stands_in_the_table(tmp_path: Path):
    cube = make_world(tmp_path / "world.zarr", seed=0, size=64)
    made = default_experiment(cube, str(cube.path), target="agb")
    options = DealOptions(block=16, folds=2, buffer=0.0)
    request = BenchRequest((made,), ("mean", "oracle"), options=options)
    found = bench_regression(request, tmp_path / "out", reporter=Quiet())
    mean, best = found["table"]
    task = Task.of(made)
    expected = target_means(oracle(cube), task.evaluation, 0.0)[0]
    assert best["r2"] == pytest.approx(regression_table(task.y, expected)["r2"], abs=1e-9)
    assert best["r2"] > 0.7 > mean["r2"]
    other = default_experiment(cube, str(cube.path), target="agb_trend")
    with pytest.raises(ConfigError, match=r"one target in --models oracle; .* found agb_trend"):
        models_of(Task.of(other), ("oracle",), (other,))


def test_a_cube_that_is_no_world_has_no_oracle(tmp_path: Path):
    cube = land(tmp_path / "land.zarr")
    made = default_experiment(cube, str(cube.path), window=8, stride=8)
    with pytest.raises(CubeError, match="the oracle knows synthetic worlds only"):
        models_of(Task.of(made), ("oracle",), (made,))
