"""The kept plans: of the experiments as they are, all of them fit, arguments to the byte."""

from __future__ import annotations

import json

import pytest

from experiments.plans.__main__ import FOLDER, PLANS, main
from rsvlm_jax.mesh.topology import topology
from rsvlm_jax.run.plan import plan

WHOLE = {
    # The head of words: 5120 over 16 or 32 chips (320, 160) is no multiple of a TPU's 128 lanes.
    "llava15_stage2_13b": ["f32[5120,32064]"],
}
"""Gradients that the compiler sums whole."""


def kept(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", PLANS)
def test_a_kept_plan(name: str):
    found, made, where = kept(name), PLANS[name].made(), topology(PLANS[name].topology)
    assert (found["experiment"], found["topology"]) == (made.name, where.name)
    assert (found["devices"], found["hbm_bytes"]) == (where.devices, where.hbm)
    for field in ("micro_batches", "remat"):
        assert found["settings"][field] == getattr(made.train, field)
    assert found["settings"]["rows"] == made.train.batch_size
    assert (found["settings"]["plan"], found["settings"]["base"]) == (made.mesh.plan, made.base)
    for axis in ("data", "fsdp"):
        size = getattr(made.mesh, axis)
        assert size in (-1, found["mesh"].get(axis, 1))
    assert found["argument_bytes"] == found["formula_bytes"]
    assert found["gathered_by_sums"] == []
    assert [x.partition(" of ")[0] for x in found["summed_whole"]] == WHOLE.get(name, [])
    assert "TFLOP/s" not in found["assumed"][0], "what the shapes rest on comes first"
    assert sum(x["bytes"] for x in found["replicated"]) < 2**23
    if where.kind == "tpu":
        assert found["fits"] is True
        assert found["compiler"].startswith("libtpu")
        assert found["kernels"] >= 3  # splash attention
        assert 0.2 < found["mfu_estimate"] < 0.8


def test_every_file_is_of_a_plan():
    assert {p.stem for p in FOLDER.glob("*.json")} == set(PLANS)


def test_an_unknown_plan(capsys: pytest.CaptureFixture[str]):
    assert main(["llava15_stage3"]) == 2
    assert capsys.readouterr().err.startswith("error: no such plan: llava15_stage3; expected llav")


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PLANS if PLANS[n].topology[:3] != "cpu"])
def test_a_plan_made_again(name: str):
    """By the compiler that is installed: what does not depend on its version, to the byte."""
    again, before = plan(PLANS[name].made(), PLANS[name].topology), kept(name)
    assert again.fits
    assert again.argument_bytes == again.formula_bytes
    assert again.gathered_by_sums == ()
    assert again.kernels is not None
    assert again.kernels >= 3
    assert again.flops == before["flops"]
    assert again.parameters == before["parameters"]


@pytest.mark.slow
def test_seven_billion_on_256_simulated_devices():
    """Nothing of the parameters is whole on all of them that the plan does not leave so."""
    name = "llava15_stage2_7b_cpu"
    again = plan(PLANS[name].made(), PLANS[name].topology)
    assert again.argument_bytes == again.formula_bytes
    assert [x["path"] for x in again.replicated] == ["vision/position/embedding"]
    assert again.gathered_by_sums == ()
