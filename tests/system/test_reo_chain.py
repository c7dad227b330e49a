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
from rsvlm_jax.cli.train import _parsed
from rsvlm_jax.config import Experiment, Preempted, from_json, to_json
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


PAGE = "reo_vlm_7b"


def started(page: str) -> str | None:
    return _parsed([page, "--tiny", "--out", "unused"]).config.init_from


def configured(name: str, run: Path) -> None:
    """What says that a run of an experiment is there."""
    run.mkdir(parents=True)
    (run / "config.json").write_text(to_json(load_experiment(name).tiny()))


def test_a_tiny_stage_of_a_large_page_starts_from_a_tiny_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = "decoder=asset:stories260k"
    assert [started(f"{PAGE}:{stage}") for stage in STAGES] == [alone] * 3
    assert started("llava15_stage2") == alone
    for stage in STAGES[:2]:
        configured(f"{PAGE}:{stage}", Path("runs", PAGE, stage))
    configured("llava15_stage1", Path("runs/llava15_stage1"))
    before = f"runs/{PAGE}/stage1"
    assert [started(f"{PAGE}:{stage}") for stage in STAGES] == [
        alone,
        f"vision={before},connector={before},decoder={before}",
        f"runs/{PAGE}/warmup",
    ]
    before = "runs/llava15_stage1"
    assert started("llava15_stage2") == f"vision={before},connector={before},decoder={before}"
    whole = to_json(load_experiment(f"{PAGE}:warmup"))
    Path("runs", PAGE, "warmup/config.json").write_text(whole)
    assert started(f"{PAGE}:stage2") == alone, "a run of the real size"


@pytest.mark.slow
def test_the_large_page_in_its_stages(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stage in STAGES:
        out = f"runs/{PAGE}/{stage}"
        assert main(["train", f"{PAGE}:{stage}", "--tiny", "--out", out]) == 0
    stage1, warmup, stage2 = (flat(load_run(f"runs/{PAGE}/{s}").params) for s in STAGES)
    for tower in ("vision", "decoder"):
        kept = [p for p in stage1 if p.startswith(f"{tower}/")]
        assert kept
        assert all(np.array_equal(stage1[p], warmup[p]) for p in kept)
    kept = [p for p in warmup if p.startswith("vision/")]
    assert all(np.array_equal(warmup[p], stage2[p]) for p in kept)
    assert any(not np.array_equal(warmup[p], stage2[p]) for p in warmup if p.startswith("decoder/"))


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
