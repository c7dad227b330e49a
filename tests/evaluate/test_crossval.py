"""Cross-validation without training: which predictions calibrate which model, and the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import Experiment
from rsvlm_jax.evaluate import crossval
from rsvlm_jax.evaluate.crossval import Folds, cross_validate, map_windows
from rsvlm_jax.evaluate.demo import command_line, single_scores
from rsvlm_jax.run.trained import Loaded, Numbers


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment("demo_treecover")


@pytest.fixture(scope="module")
def folds(experiment: Experiment) -> Folds:
    return Folds.of(experiment)


class Guess(Loaded):
    """A model that errs by its seed: seed 1 is far off."""

    def __init__(self, path: Path) -> None:
        object.__setattr__(self, "seed", int(path.name[-1]))

    def regress_source(self, source, **_) -> Numbers:
        value = source.target.astype(np.float64)
        mean = np.clip(value + (0.02 if vars(self)["seed"] == 0 else 0.3), 0, 1)
        scale = np.full(len(value), 0.1)
        return Numbers(mean, scale, mean - scale, mean + scale, scale)


@pytest.mark.parametrize("members", [1, 2])
def test_a_single_model_is_calibrated_by_single_models(
    experiment, folds, members: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crossval, "fit", lambda experiment, **_: None)
    monkeypatch.setattr(crossval, "load_run", Guess)
    made = cross_validate(experiment, folds, tmp_path, name="x", members=members)
    expected = np.abs(folds.y - np.clip(folds.y + 0.02, 0, 1)) / 0.1
    np.testing.assert_allclose(single_scores(folds, made), expected, atol=1e-5)
    same = np.allclose(made.mean, made.one.mean) and np.allclose(made.scale, made.one.scale)
    assert same == (members == 1)


def test_the_map_of_the_shipped_story_needs_no_other_windows(folds: Folds):
    made = map_windows(folds)
    assert len(made.table) == 600
    np.testing.assert_array_equal(made.fold, folds.prepared.fold_map[made.table.centre])


def test_the_report_names_the_whole_command(experiment: Experiment):
    plain = command_line("treecover", experiment, 0.0, 1)
    assert plain.startswith("rsvlm demo --story treecover")
    assert plain.endswith(f"--steps {experiment.train.steps}")
    few = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=3))
    every = command_line("treecover", few, 1.0, 2)
    assert every.endswith("--steps 3 --buffer 1 --members 2")
