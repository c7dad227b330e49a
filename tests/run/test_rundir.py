"""Run directories: round trip, ownership, lock."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from rsvlm_jax.config import CheckpointError, ConfigError, Experiment, nano
from rsvlm_jax.run.rundir import RunDir

EXPERIMENT = Experiment("e", model=nano())


def test_config_round_trip(tmp_path):
    assert RunDir.create(tmp_path / "run", EXPERIMENT).experiment() == EXPERIMENT


def test_reopening_with_the_same_experiment(tmp_path):
    RunDir.create(tmp_path, EXPERIMENT)
    RunDir.create(tmp_path, EXPERIMENT)


def test_another_experiment_is_refused_by_field(tmp_path):
    RunDir.create(tmp_path, EXPERIMENT)
    other = dataclasses.replace(EXPERIMENT, train=dataclasses.replace(EXPERIMENT.train, steps=7))
    with pytest.raises(ConfigError, match=r"train.steps.*expected 7; found 200"):
        RunDir.create(tmp_path, other)


def test_the_best_step_is_that_of_the_lowest_loss_that_was_kept(tmp_path):
    run = RunDir(tmp_path)
    scores = [(0, 0.1), (2, 0.5), (4, None), (6, 0.3), (8, 0.4)]
    rows = [{"step": s, "loss": loss} for s, loss in scores]
    run.held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (run.step_of(None), run.step_of(8)) == (None, 8)
    with pytest.raises(CheckpointError, match=r"no best step .* train with --train.keep-best 1"):
        run.step_of("best")
    for step in (2, 6, 8):
        (run.checkpoints / str(step)).mkdir(parents=True)
        (run.checkpoints / str(step) / "manifest.json").touch()
    assert run.step_of("best") == 6


def test_no_run_directory(tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        RunDir(tmp_path).experiment()


def test_unwritable_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the directory"):
        RunDir.create(tmp_path / "file" / "run", EXPERIMENT)


def test_second_process_is_refused_and_the_owner_named(tmp_path):
    run = RunDir.create(tmp_path, EXPERIMENT)
    code = (
        "import sys; from pathlib import Path; from rsvlm_jax.run.rundir import RunDir\n"
        "run = RunDir(Path(sys.argv[1]))\n"
        "with run.held(run.experiment()): print('held', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        other = dataclasses.replace(EXPERIMENT, name="other")
        with pytest.raises(ConfigError, match=f"pid {owner.pid}"), run.held(other):
            pass
    finally:
        owner.communicate("")
    assert run.experiment() == EXPERIMENT, "who is refused changes nothing"
    with run.held(EXPERIMENT):
        pass


def test_how_it_is_computed_may_change_on_the_way(tmp_path):
    RunDir.create(tmp_path, EXPERIMENT)
    train = dataclasses.replace(EXPERIMENT.train, micro_batches=2, log_every=1, remat="full")
    mesh = dataclasses.replace(EXPERIMENT.mesh, fsdp=4)
    data = dataclasses.replace(EXPERIMENT.data, workers=1)
    other = dataclasses.replace(EXPERIMENT, train=train, mesh=mesh, data=data)
    run = RunDir(tmp_path)
    with run.held(other) as changed:
        assert changed == (
            "data.workers", "mesh.fsdp", "train.log_every", "train.micro_batches", "train.remat"
        )  # fmt: skip
    assert run.experiment() == other
    with run.held(other) as changed:
        assert changed == ()
