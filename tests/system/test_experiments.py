"""Every experiment on its page: it loads, is hashable, survives JSON, trains with --tiny."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest

from data_zarr.samples import QUESTIONS, sample_questions
from experiments.bench.front_ablations import experiments
from rsvlm_jax.cli.main import main
from rsvlm_jax.cli.options import experiments_folder, load_experiment
from rsvlm_jax.config import Experiment, from_json, to_json
from rsvlm_jax.data import conversations

FILES = sorted(p for p in experiments_folder().glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_loads_and_round_trips(file: Path):
    experiment = load_experiment(str(file))
    assert from_json(Experiment, to_json(experiment)) == experiment
    hash(experiment)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_is_a_page_that_imports_the_configuration_only(file: Path):
    text = file.read_text()
    assert len(text.splitlines()) <= 80
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("rsvlm_jax.config", "typing", "__future__")
        if isinstance(node, ast.Import):
            assert {n.name for n in node.names} <= {"dataclasses"}


@pytest.mark.parametrize("story", ["gpp", "fuel"])
def test_front_ablations_differ_from_their_base(story: str):
    made = experiments(story)
    base = made.pop("base")
    assert len({*made.values()}) == len(made) >= 4
    for name, one in made.items():
        assert one.name == name
        assert one.data == base.data
        changed = (one.model, one.optimizer, one.init_from)
        assert changed != (base.model, base.optimizer, base.init_from)


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in 24 of the shipped ones: all are tokenised before the first step."""
    few = {name: sample_questions(name)[::24] for name in QUESTIONS}
    monkeypatch.setattr(conversations, "sample_questions", few.__getitem__)


ELSEWHERE = {"reo_vlm_nano", "reo_ablations"}
"""Trained, or all but, in `test_reo_chain`; one model."""


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.stem not in ELSEWHERE], ids=lambda p: p.stem
)
def test_trains_with_tiny(file: Path, tmp_path: Path, few_questions: None):
    run = tmp_path / "run"
    assert main(["train", str(file), "--tiny", "--out", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, len(rows) + 1))
    assert all(math.isfinite(r["loss"]) for r in rows)
    assert {p.name for p in run.iterdir()} >= {
        "config.json",
        "environment.json",
        "processor",
        "metrics.jsonl",
        "checkpoints",
    }


@pytest.mark.usefixtures("few_questions")
def test_a_second_stage_over_four_bits_trains_with_tiny(tmp_path: Path):
    """The base is nf4, which the shipped decoder's MLP of 172 inputs could not be."""
    run, page = tmp_path / "run", experiments_folder() / "geochat_lora.py"
    args = ["train", f"{page}:2", "--tiny", "--base", "nf4", "--out", str(run)]
    assert main(args) == 0
    made = from_json(Experiment, (run / "config.json").read_text())
    assert (made.name, made.base) == ("geochat_lora_2", "nf4")
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(map(math.isfinite, losses))
