"""`fit`: what a run leaves, exact resume, refusals before anything compiles."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from data_zarr.errors import CubeError
from rsvlm_jax.config import (
    ConfigError,
    DataError,
    Experiment,
    InputConfig,
    Preempted,
    RsvlmError,
    SplitConfig,
    TargetConfig,
    TemporalConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.fit import describe, fit
from rsvlm_jax.run.trained import load_run


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_the_design_says(finished: Path, experiment: Experiment):
    assert {p.name for p in finished.iterdir()} >= {
        "config.json",
        "environment.json",
        "processor",
        "metrics.jsonl",
        "checkpoints",
    }
    found = rows(finished)
    assert [r["step"] for r in found] == list(range(1, experiment.train.steps + 1))
    assert all(math.isfinite(r["loss"]) and r["skipped"] == 0 for r in found)
    assert json.loads((finished / "environment.json").read_text())["packages"]["jax"]


def test_a_finished_run_is_returned_as_it_is(finished: Path, experiment: Experiment):
    before = (finished / "metrics.jsonl").read_bytes()
    fit(experiment, out=finished)
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_resume_is_bitwise_that_of_an_unbroken_run(
    finished: Path, experiment: Experiment, tmp_path: Path
):
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 4  # before the fourth step

    with pytest.raises(Preempted) as e:
        fit(experiment, out=tmp_path, stop=stop)
    assert e.value.exit_code == 75
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3]
    fit(experiment, out=tmp_path)
    assert rows(tmp_path) == rows(finished)
    a, b = flat(load_run(finished).params), flat(load_run(tmp_path).params)
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def test_progress_reports_loss_and_rate(finished: Path, experiment: Experiment, tmp_path: Path):
    said = []
    fit(experiment, out=tmp_path, progress=lambda step, steps, m: said.append((step, steps, m)))
    assert [s[0] for s in said] == [1, 2, 3, 4, 5, 6]
    assert {s[1] for s in said} == {6}
    assert all(s[2]["samples_per_second"] > 0 for s in said)


def test_describe_compiles_and_writes_nothing(experiment: Experiment):
    facts = describe(experiment)
    assert facts["inputs"]["dem"] == ["elevation"]
    assert facts["training_windows"] > facts["held_out_windows"] > 0
    assert facts["parameters"] > 100_000


def replaced_data(experiment: Experiment, **changes) -> Experiment:
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes))


BAD = {
    "no such sample": (
        lambda e: replaced_data(e, cube="sample:slovenia"),
        ConfigError,
        "slovenia_s2",
    ),
    "no such cube": (lambda e: replaced_data(e, cube="nowhere.zarr"), CubeError, "nowhere.zarr"),
    "a missing band set": (
        lambda e: dataclasses.replace(
            e, model=dataclasses.replace(e.model, inputs=(InputConfig("s2_l2a"),))
        ),
        DataError,
        "s2_l2a",
    ),
    "a missing band": (
        lambda e: dataclasses.replace(
            e, model=dataclasses.replace(e.model, inputs=(InputConfig("s2_l1c", bands=("B13",)),))
        ),
        DataError,
        "B13",
    ),
    "a platform beyond the embedding": (
        lambda e: dataclasses.replace(
            e, model=dataclasses.replace(e.model, temporal=TemporalConfig(platforms=1))
        ),
        ConfigError,
        "too few rows .*sentinel-2a",
    ),
    "no such target": (
        lambda e: replaced_data(e, target=TargetConfig("tree_covr")),
        DataError,
        "tree_cover",
    ),
    "a window larger than the cube": (
        lambda e: replaced_data(e, window=128),
        CubeError,
        "larger than the cube",
    ),
    "an empty split": (
        lambda e: replaced_data(e, split=SplitConfig(block=25, folds=5, fold=0, buffer=50.0)),
        CubeError,
        "a split is empty",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_in_one_line_before_anything_is_written(
    name: str, experiment: Experiment, tmp_path: Path
):
    change, error, words = BAD[name]
    out = tmp_path / "run"
    with pytest.raises(error, match=words) as e:
        fit(change(experiment), out=out)
    assert "\n" not in str(e.value)
    assert not out.exists()


def test_a_world_by_name_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RSVLM_CACHE", str(tmp_path))
    first = find_cube("world:small:3")
    assert find_cube("world:small:3").digest() == first.digest()
    with pytest.raises(ConfigError, match="not a seed"):
        find_cube("world:small:x")


def test_every_error_of_the_house_has_an_exit_code():
    errors = [c for c in RsvlmError.__subclasses__() if c.__module__ == "rsvlm_jax.config.errors"]
    codes = {c.__name__: c.exit_code for c in errors}
    assert codes == {
        "ConfigError": 2,
        "DataError": 3,
        "CheckpointError": 4,
        "NonFiniteError": 5,
        "Preempted": 75,
        "PeerLost": 76,
    }
