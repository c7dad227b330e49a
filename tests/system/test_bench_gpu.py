"""The GPU benchmark as a program: its smallest run, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from experiments.bench import gpu


def test_the_smallest_run_keeps_its_figures_with_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    assert gpu.main(["generate", "--tiny", "--out", str(tmp_path / "r.json")]) == 0
    kept = json.loads((tmp_path / "r.json").read_text())
    assert kept["device"] == "cpu"
    assert kept["tiny"]
    figures = {f["name"]: f for f in kept["figures"]}
    assert set(figures) == {
        *("generate.bandwidth", "generate.images"),
        *(f"generate.{n}_{rows}" for n in ("step", "tokens", "share") for rows in (1, 4)),
    }
    assert all(math.isfinite(f["value"]) and f["goal"] == "none" for f in kept["figures"])
    assert figures["generate.bandwidth"]["value"] > 0
    assert figures["generate.images"]["value"] > 0
    assert len(capsys.readouterr().out.splitlines()) == len(figures)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["generate"], "error: not measured: no GPU (found cpu); --tiny runs anywhere"),
        (["train"], "error: unknown benchmark 'train'; expected generate"),
        (["generate", "--out"], "error: no file after --out"),
    ],
)
def test_what_it_refuses(words: list[str], line: str, capsys: pytest.CaptureFixture) -> None:
    assert gpu.main(words) == 2
    assert capsys.readouterr().err.splitlines() == [line]
