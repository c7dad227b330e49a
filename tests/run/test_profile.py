"""`fit(..., profile=True)`: the figures of a run, and its trace."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import pytest

from experiments.rsvqa_tiny import experiment
from rsvlm_jax.mesh.chips import CHIPS, chip_of
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.profile import WARM, table


def test_a_profile_has_every_figure_and_a_trace(tmp_path: Path):
    tiny = experiment().tiny()
    tiny = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, steps=WARM + 4))
    run = fit(tiny, out=tmp_path / "run", profile=True)
    found = json.loads((run.profile / "profile.json").read_text())
    assert found["steps"] == 4
    assert 0 < found["step_seconds_least"] <= found["step_seconds"] <= found["step_seconds_most"]
    assert found["tokens_per_second"] <= found["padded_per_second"]
    assert found["images_per_second"] >= found["samples_per_second"]
    assert found["flops_causal"] < found["flops_full"]
    assert found["mfu_causal"] == pytest.approx(
        found["flops_causal"] / found["step_seconds"] / found["peak_flops"]
    )
    assert 0 <= found["input_wait"] < 1
    # The state is donated, all of it.
    assert 0 < found["donated_bytes"] <= found["argument_bytes"]
    assert found["compile_seconds"] > 0
    assert any(path.is_file() for path in (run.profile / "trace").rglob("*"))
    lines = table(found)
    assert all(math.isfinite(v) for v in found.values() if isinstance(v, float))
    assert lines[0].split() == ["device", "1", "x", "cpu"]


def test_a_run_that_is_too_short_to_profile(tmp_path: Path):
    tiny = experiment().tiny()
    tiny = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, steps=WARM))
    with pytest.warns(UserWarning, match=rf"too few steps to profile .* more than {WARM}"):
        run = fit(tiny, out=tmp_path / "run", profile=True)
    assert run.unreadable.is_file(), "the run itself is whole"
    assert not (run.profile / "profile.json").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GH200 144G HBM3e", "GH200-144G"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_chips_by_the_names_that_jax_gives_them(kind: str, name: str):
    chip = chip_of(kind)
    assert chip is not None
    assert chip.name == name
    assert sum(c.name == name for c in CHIPS) == 1
    assert sum(re.search(c.kind, kind) is not None for c in CHIPS) == 1


def test_a_part_of_a_board_is_no_chip():
    assert chip_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


def test_a_cpu_is_no_chip():
    assert chip_of(jax.devices()[0].device_kind) is None
