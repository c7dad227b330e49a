"""A run on several cubes, with blocks, workers and padded series; what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from data_zarr.samples import sample_path
from data_zarr.write import seal
from rsvlm_jax.config import ConfigError, DataError, Experiment
from rsvlm_jax.data.stream import Mixture
from rsvlm_jax.run.fit import describe, fit
from rsvlm_jax.run.prepare import prepare


def with_data(experiment: Experiment, **changes) -> Experiment:
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes))


def losses(experiment: Experiment, out: Path) -> list[float]:
    rows = fit(experiment, out=out).metrics.read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped cube once more, with half its tree cover."""
    path = tmp_path_factory.mktemp("other") / "other.zarr"
    shutil.copytree(sample_path("slovenia_s2"), path)
    layer = zarr.open_array(path / "targets" / "tree_cover", mode="r+")
    layer[...] = np.asarray(layer[...]) / 2
    seal(path)
    return path


def test_a_run_on_two_cubes_resumes_exactly(experiment: Experiment, other: Path, tmp_path: Path):
    mixed = with_data(experiment, mixture=((str(other), 2.0),))
    prepared = prepare(mixed)
    assert isinstance(prepared.training, Mixture)
    assert prepared.training.sources[0] is prepared.train
    mine, theirs = (source.target.mean() for source in prepared.training.sources)
    assert theirs == pytest.approx(mine / 2, rel=1e-5)
    calls = iter(range(100))
    whole = losses(mixed, tmp_path / "whole")
    with pytest.raises(Exception, match="stopped after step 3"):
        fit(mixed, out=tmp_path / "broken", stop=lambda: next(calls) == 3)
    assert losses(mixed, tmp_path / "broken") == whole
    assert len(whole) == 6


def test_how_it_is_read_does_not_change_a_run(
    experiment: Experiment, finished: Path, tmp_path: Path
):
    rows = (finished / "metrics.jsonl").read_text().splitlines()
    known = [json.loads(row)["loss"] for row in rows]
    # The directory keeps its experiment, so each way of reading has its own.
    for name, changes in {
        "plain": {"threads": 0, "prefetch": 0},
        "workers": {"workers": 1},
    }.items():
        assert losses(with_data(experiment, **changes), tmp_path / name) == known


def test_what_will_be_held_is_said_beforehand(experiment: Experiment):
    said = describe(with_data(experiment, threads=3, prefetch=1))["buffers"]
    assert str(said).startswith("buffers: 3 threads x 2 batches x ")
    assert " + 1 on the device, at most " in str(said)


def test_series_of_several_lengths_need_a_budget(experiment: Experiment):
    temporal = dataclasses.replace(experiment.model.temporal, budget=None)
    model = dataclasses.replace(experiment.model, temporal=temporal)
    wrong = dataclasses.replace(with_data(experiment, buckets=(1, 2)), model=model)
    with pytest.raises(ConfigError, match=r"visual tokens in TemporalConfig.budget"):
        prepare(wrong)


def test_a_cube_of_the_mixture_without_the_inputs(experiment: Experiment):
    mixed = with_data(experiment, mixture=(("sample:spain_s1s2", 1.0),))
    with pytest.raises(DataError, match=r"spain_s1s2"):
        _ = prepare(mixed).training


def test_a_cube_of_the_mixture_with_another_target(
    experiment: Experiment, other: Path, tmp_path: Path
):
    path = tmp_path / "unit.zarr"
    shutil.copytree(other, path)
    document = path / "targets" / "tree_cover" / "zarr.json"
    about = json.loads(document.read_text())
    about["attributes"]["units"] = "%"
    document.write_text(json.dumps(about))
    seal(path)
    with pytest.raises(DataError, match=r"another target than that of the first cube.*unit='%'"):
        _ = prepare(with_data(experiment, mixture=((str(path), 1.0),))).training
