"""Sweeps: the combinations, their directories, and what is left of one that was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsvlm_jax.cli.sweep import Run, combinations, sweep
from rsvlm_jax.config import ConfigError, Preempted


def test_every_combination_has_its_options_and_its_directory():
    made = combinations(["train.seed=0,1", "--optimizer.learning_rate=1e-3,3e-4"])
    assert [run.name for run in made] == [
        "seed=0,learning-rate=1e-3", "seed=0,learning-rate=3e-4",
        "seed=1,learning-rate=1e-3", "seed=1,learning-rate=3e-4",
    ]  # fmt: skip
    assert made[1].options == ["--train.seed", "0", "--optimizer.learning-rate", "3e-4"]


def test_a_switch_is_swept_too():
    made = combinations(["data.augment=True,False"])
    assert [run.options for run in made] == [["--data.augment"], ["--data.no-augment"]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train.seed"], "not a field and its values"),
        (["train.seed="], "not a field and its values"),
        (["train.seed=1,1"], "not a field and its values"),
        (["train.seed=1", "train.seed=2"], "a field is swept twice"),
        (["data.cube=a/b,a:b"], "two runs of a sweep would have one directory"),
    ],
)
def test_words_that_are_no_sweep(words: list[str], line: str):
    with pytest.raises(ConfigError, match=line):
        combinations(words)


def test_a_row_for_each_finished_run_also_after_an_interruption(tmp_path: Path):
    def train(which: Run, run: Path) -> dict[str, object]:
        if run.name == "seed=2":
            raise Preempted("stopped after step 1 of 2")
        run.mkdir(exist_ok=True, parents=True)
        loss = 1.0 + int(which.fields["train.seed"])
        rows = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": loss}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        if loss > 1:
            (run / "held_out.jsonl").write_text('{"step": 2, "loss": 0.5}\n')
        return {}

    with pytest.raises(Preempted):
        sweep(combinations(["train.seed=0,1,2"]), tmp_path, train)
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert [(r["train.seed"], r["loss"], r.get("held_out")) for r in rows] == [
        ("0", 1.0, None), ("1", 2.0, 0.5),
    ]  # fmt: skip
    assert rows[0]["run"] == str(tmp_path / "seed=0")
