"""A search by formula, what is compiled of it, and the page of plans."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from plan_reports import report

from experiments import demo_treecover, llava15_lora, llava15_stage2
from rsvlm_jax.config import ConfigError, Experiment, MeshConfig, OptimizerConfig
from rsvlm_jax.run.plan import choose
from rsvlm_jax.run.plan_page import page, write_page
from rsvlm_jax.run.plan_report import table
from rsvlm_jax.run.plan_search import Candidate, ranked, search


@pytest.fixture(scope="module")
def choices() -> list[Candidate]:
    return ranked(llava15_stage2.experiment(), "v5e:16x16")


def test_seven_billion_on_a_slice(choices):
    """The recipe's 128 rows on 256 chips: two chips a row at least."""
    assert len(choices) > 10
    seconds = [c.seconds_a_sample for c in choices]
    assert seconds == sorted(seconds)
    for c in choices:
        assert c.batch_size == 128
        assert c.mesh["data"] * c.mesh["fsdp"] * c.mesh["tensor"] == 256
        assert c.mesh["tensor"] >= 2
        assert 128 % (c.mesh["data"] * c.mesh["fsdp"] * c.micro_batches) == 0
        assert 0 < c.needed_bytes <= 15.75 * 2**30
        assert 0 < c.mfu < 0.8


def test_less_memory_asks_for_more_cuts():
    """LoRA on four chips of 16 GB: nothing that keeps a batch whole."""
    found = ranked(llava15_lora.experiment(), "v5e:2x2")
    assert found
    assert min(c.micro_batches for c in found) > 1


def test_a_choice_is_an_experiment(choices):
    made = choices[0].of(llava15_stage2.experiment())
    assert made.train.remat == choices[0].remat
    assert made.mesh == MeshConfig(**choices[0].mesh)
    assert re.fullmatch(
        r"(--mesh\.(data|fsdp|tensor) \d+ ){3}--train\.batch-size 128 "
        r"--train\.micro-batches \d+ --train\.remat \w+",
        choices[0].options(),
    )


def test_a_cube_has_formulas_too():
    """Rows and dates of the data, weights alone on the links."""
    found = ranked(demo_treecover.experiment(), "v5e:2x2")
    assert all(32 % c.micro_batches == 0 for c in found)


def test_what_does_not_fit_by_formula():
    made = llava15_stage2.experiment()
    assert ranked(made, "v5e:2x2") == []
    with pytest.raises(ConfigError, match=r"no mesh, micro-batches and remat fit.*--base int8"):
        search(made, "v5e:2x2", compiled=report, ranked=list)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"optimizer": OptimizerConfig(kind="muon")}, "no formula for the state of this optimiser"),
        ({"mesh": MeshConfig(context=2)}, "no formula for positions that are split"),
    ],
)
def test_what_no_formula_covers_is_said_by_name(changed: dict, line: str):
    made = dataclasses.replace(llava15_stage2.experiment(), **changed)
    with pytest.raises(ConfigError, match=line):
        ranked(made, "v5e:4x4")


def test_a_length_is_searched_with():
    made = llava15_stage2.experiment()
    seconds = [ranked(made, "v5p:4x4x4", length=n)[0].step_seconds for n in (1024, 2048)]
    assert seconds[1] > 1.5 * seconds[0]


def test_no_memory_is_known_of_a_cpu():
    with pytest.raises(ConfigError, match="nothing says what fits and how fast"):
        ranked(llava15_stage2.experiment(), "cpu:8")


def fake(seconds: dict[str, float | None]):
    """Plans by remat: seconds of a step, None for one that does not fit."""

    def compiled(made: Experiment):
        step = seconds[made.train.remat]
        if step is None:
            return report(fits=False)
        estimate = dataclasses.replace(report(timed=True).estimate, step_seconds=step)
        return report(fits=True, estimate=estimate)

    return compiled


def candidate(remat, seconds: float) -> Candidate:
    return Candidate({"data": 1, "fsdp": 4, "tensor": 1}, 8, 1, remat, 1, seconds, 0.5)


def test_the_compiler_has_the_last_word():
    """The first is refused; of two that fit the faster by its own collectives is taken."""
    rows = [candidate("none", 1.0), candidate("save_qkv_mlp", 1.1), candidate("full", 1.2)]
    compiled = fake({"none": None, "save_qkv_mlp": 2.0, "full": 1.5})
    made = llava15_stage2.experiment()
    found = search(made, "v5e:2x2", compiled=compiled, ranked=lambda: rows)
    assert [fits for _, fits in found.tried] == [False, True, True]
    assert found.chosen is not None
    assert (found.chosen.remat, found.count) == ("full", 3)
    nothing = fake(dict.fromkeys(("none", "save_qkv_mlp", "full")))
    found = search(made, "v5e:2x2", compiled=nothing, ranked=lambda: rows)
    assert found.report is None
    assert len(found.tried) == 3


def test_a_search_in_two_processes(monkeypatch):
    """Formulas are asked of another one, and plans of `plan`."""
    asked = []

    def planned(made: Experiment, where: str, **more: object):
        asked.append((where, made.mesh))
        return report(fits=True)

    monkeypatch.setattr("rsvlm_jax.run.plan.plan", planned)
    found = choose(llava15_stage2.experiment(), "v5p:2x2x2", best=2)
    assert [where for where, _ in asked] == ["v5p:2x2x2"] * 2
    assert found.chosen is not None
    assert asked[0][1] == MeshConfig(**found.tried[0][0].mesh)


def test_side_by_side():
    lines = table([report(fits=True, timed=True), report(fits=False)])
    assert len(lines) == 3
    assert "yes" in lines[1]
    assert "no" in lines[2]


def test_a_page_that_needs_nothing(tmp_path):
    reports = [report(fits=True, timed=True), report(fits=False, topology="v5e:<2x2>")]
    file = write_page(reports, tmp_path / "plan")
    text = file.read_text()
    assert text == page(reports)
    assert text.count("<svg") == 2
    assert "v5e:&lt;2x2&gt;" in text
    assert "http" not in text.replace("jax-ml.github.io", "")
    found = json.loads((tmp_path / "plan" / "report.json").read_text())
    assert [p["fits"] for p in found["plans"]] == [True, False]
