"""Metrics sinks: TensorBoard's files, and what the two trackers are told."""

from __future__ import annotations

import hashlib
import struct
import sys
import types
from pathlib import Path

import pytest

from rsvlm_jax.config import ConfigError, Experiment
from rsvlm_jax.run.rundir import RunDir
from rsvlm_jax.run.sinks import check_sinks, open_sink


def test_a_sink_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sinks; expected the package wandb; found wandb"):
        check_sinks(("wandb",))


def test_tensorboard_gets_rows_and_scores(tmp_path: Path):
    sink = open_sink("tensorboard", RunDir(tmp_path), Experiment(name="x"))
    sink.start(0)
    sink.on_row(1, {"step": 1.0, "loss": 0.5, "bad": None}, {"seconds": 2.0})
    sink.on_score(1, {"text": 0.25})
    sink.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    data = file.read_bytes()
    assert b"train/loss" in data
    assert b"time/seconds" in data
    assert b"held_out/text" in data
    assert b"train/bad" not in data
    assert b"train/step" not in data
    assert struct.pack("<f", 0.5) in data
    assert struct.pack("<f", 0.25) in data


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_go_on_in_the_same_record(name: str, tmp_path: Path, monkeypatch):
    told: list[tuple] = []
    module = types.ModuleType(name)
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    record = types.SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append(("end",))
    )
    module.init = lambda **about: told.append(("init", about)) or record  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    for step in (1, 2):
        sink = open_sink(name, RunDir(tmp_path / "run"), Experiment(name="x"))
        sink.start(step)
        sink.on_score(step, {"loss": 9.0}, again=True)
        sink.on_row(step, {"loss": 0.5}, {})
        sink.close()
    first, second = (about for word, *rest in told if word == "init" for about in rest)
    assert first == second
    place = hashlib.sha256(str((tmp_path / "run").resolve()).encode()).hexdigest()
    assert first["name"] == ("run" if name == "wandb" else f"run-{place[:8]}")
    assert first["resume"] == "allow"
    assert first["config"]["name"] == "x"
    assert told[1] == (1, {"train/loss": 0.5})
    assert told[2] == ("end",)
