"""SIGTERM to the demo while it trains in threads, and while it sets up: saved, 75, resumable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import rsvlm_jax
from rsvlm_jax.config import DataError, Experiment, Preempted
from rsvlm_jax.evaluate import crossval
from rsvlm_jax.evaluate.crossval import cross_validate
from rsvlm_jax.train import Checkpoints

CODE = """
import dataclasses, sys
from rsvlm_jax.cli import demo, train
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import Experiment, InputConfig, TrainConfig, nano

colours = InputConfig("s2_l1c", bands=("red", "green", "blue"), dates=1)
model = dataclasses.replace(nano((colours,)), decoder=None)
small = Experiment("small", model=model, train=TrainConfig(batch_size=4, log_every=1))
demo.load_experiment = train.load_experiment = lambda name: small
sys.exit(main())
"""
"""The command on an experiment that compiles in a moment."""

STEPS = 100


def launch(*args: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(Path(rsvlm_jax.__file__).parents[1]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *args], env=environment, stderr=subprocess.PIPE, text=True
    )


def rows(run: Path) -> list[str]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def terminate(process: subprocess.Popen, when: Callable[[], bool]) -> str:
    """SIGTERM as soon as `when`; the last line on stderr of a process that ends with 75."""
    limit = time.monotonic() + 400
    while not when():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_sigterm_while_threads_train_saves_them_and_the_next_demo_goes_on(tmp_path: Path):
    demo = "demo", "--steps", str(STEPS), "--out", str(tmp_path)
    threads = [tmp_path / "folds" / f"fold{f}_seed0" for f in (1, 2)]
    line = terminate(launch(*demo), lambda: all(len(rows(run)) >= 2 for run in threads))
    assert line.startswith("error: stopped after step ")
    assert line.endswith("run the same command again to go on")
    saved = {}
    for run in threads:
        with Checkpoints(run / "checkpoints") as checkpoints:
            saved[run] = checkpoints.newest()
        assert saved[run] == len(rows(run)), "the step that was taken last"
        assert 2 <= saved[run] < STEPS
    before = {run: rows(run) for run in threads}

    again = launch(*demo)
    terminate(again, lambda: all(len(rows(run)) > len(before[run]) for run in threads))
    for run in threads:
        assert rows(run)[: saved[run]] == before[run], "steps were taken again"
        assert len(rows(run)) > saved[run]


@pytest.mark.parametrize("verb", ["train", "demo"])
def test_sigterm_while_setting_up(tmp_path: Path, verb: str):
    """As soon as the directory stands, long before the first step."""
    out = tmp_path / "out"
    args = {
        "train": ("train", "small", "--out", str(out)),
        "demo": ("demo", "--out", str(out)),
    }
    assert "run the same command again" in terminate(launch(*args[verb]), out.exists)
    assert not rows(out)


# ---- the runs of a cross-validation, without training any ----------------------------------------


class Folds:
    """What `cross_validate` asks of its folds before it scores them."""

    count = 5


def standins(monkeypatch: pytest.MonkeyPatch, fit: Callable[[Path, Callable[[], bool]], None]):
    """Replaces `fit`; returns what `cross_validate` does with five folds."""

    def instead(experiment: Experiment, *, out: Path, progress: object, stop) -> None:
        fit(out, stop)

    monkeypatch.setattr(crossval, "fit", instead)
    validate = getattr(cross_validate, "__wrapped__", cross_validate)
    return lambda out, **more: validate(
        Experiment("standin"), Folds(), out, name="standin", members=1, **more
    )


def wait_to_be_stopped(stop: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not stop():
        assert time.monotonic() < limit, "nobody said stop"
        time.sleep(0.005)
    raise Preempted("stopped after step 3 of 9")


def test_stop_reaches_every_run_and_starts_no_other(tmp_path: Path, monkeypatch):
    begun, asked = [], threading.Event()

    def fit(out: Path, stop: Callable[[], bool]) -> None:
        begun.append(out.name)
        if out.name == "fold0_seed0":
            return
        if len(begun) == 3:
            asked.set()
        wait_to_be_stopped(stop)

    with pytest.raises(Preempted, match="stopped after step 3"):
        standins(monkeypatch, fit)(tmp_path, stop=asked.is_set)
    assert sorted(begun) == ["fold0_seed0", "fold1_seed0", "fold2_seed0"]


def test_a_run_that_fails_stops_the_others_and_is_the_one_that_is_told(tmp_path: Path, monkeypatch):
    ended = []

    def fit(out: Path, stop: Callable[[], bool]) -> None:
        if out.name == "fold2_seed0":
            raise DataError("no such thing")
        if out.name == "fold1_seed0":
            try:
                wait_to_be_stopped(stop)
            finally:
                ended.append(out.name)

    with pytest.raises(DataError, match="no such thing"):
        standins(monkeypatch, fit)(tmp_path)
    assert ended == ["fold1_seed0"]
