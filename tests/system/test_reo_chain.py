"""REO-VLM's stages, one after the other, a few steps each: what each trains, and takes from the one
before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.reo_ablations import AXES, WORDS
from rsvlm_jax.cli.main import main
from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import Experiment, Preempted, from_json
from rsvlm_jax.core import flat
from rsvlm_jax.run.fit import describe, fit
from rsvlm_jax.run.trained import load_run

STAGES = ("stage1", "warmup", "stage2")


def start(stage: str, folder: Path) -> list[str]:
    """The `init_from` of the page, with runs elsewhere."""
    found = load_experiment(f"reo_vlm_nano:{stage}").init_from
    return ["--init-from", found.replace("runs/reo_vlm_nano", str(folder))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reo")
    for stage in STAGES:
        args = ["train", f"reo_vlm_nano:{stage}", "--tiny", "--out", str(folder / stage)]
        assert main([*args, *start(stage, folder)]) == 0
    return folder


def test_each_stage_trains_its_parts_and_keeps_the_others(folder: Path):
    stage1, warmup, stage2 = (flat(load_run(folder / s).params) for s in STAGES)
    towers = {"vision", "selection", "temporal", "connector", "decoder", "head"}
    assert {p.partition("/")[0] for p in stage2} == towers

    def moved(tower: str, a: dict, b: dict) -> bool:
        found = [p for p in b if p.startswith(f"{tower}/")]
        return any(not np.array_equal(a[p], b[p]) for p in found)

    assert not moved("vision", stage1, warmup), "frozen, and taken over to the bit"
    assert not moved("decoder", stage1, warmup)
    assert moved("connector", stage1, warmup)
    assert stage1["temporal/group/embedding"].shape != warmup["temporal/group/embedding"].shape
    assert not moved("vision", warmup, stage2)
    assert all(moved(t, warmup, stage2) for t in towers - {"vision"})


def test_a_stage_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path):
    """Three of its six steps, then the rest: the losses of one go."""
    made = from_json(Experiment, (folder / "stage2/config.json").read_text())
    assert made.name == "reo_vlm_nano_stage2"
    asked = iter(range(9))
    with pytest.raises(Preempted):
        fit(made, out=tmp_path / "run", stop=lambda: next(asked) == 3)
    again, whole = fit(made, out=tmp_path / "run").metrics, folder / "stage2/metrics.jsonl"
    losses = [[json.loads(x)["loss"] for x in p.read_text().splitlines()] for p in (again, whole)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


@pytest.mark.parametrize("stage", STAGES)
def test_the_large_page_has_the_same_stages(stage: str):
    small, large = (load_experiment(f"reo_vlm_{size}:{stage}") for size in ("nano", "7b"))
    assert [i.bandset for i in large.model.inputs] == [i.bandset for i in small.model.inputs]
    assert len(large.model.vision.feature_layers) == len(small.model.vision.feature_layers) == 3
    assert (large.loss, large.data.templates) == (small.loss, small.data.templates)
    frozen = {g.pattern for g in small.optimizer.groups if not g.scale}
    assert ("^decoder/" in frozen) == (large.lora is None)
    assert large.tiny().model.selection is not None


def test_every_ablation_can_be_trained():
    """All that is known before a step compiles: data, parameters, tokens."""
    made = {word: load_experiment(f"reo_ablations:{word}") for word in WORDS}
    assert len(set(made.values())) == len(WORDS) == 1 + sum(map(len, AXES.values()))
    tokens = {word: describe(experiment)["visual_tokens"] for word, experiment in made.items()}
    assert {n for word, n in tokens.items() if not word.startswith("budget")} == {8}
    assert (tokens["budget_2"], tokens["budget_32"]) == (2, 32)
