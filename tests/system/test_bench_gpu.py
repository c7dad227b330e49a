"""The GPU benchmark as a program: its smallest run, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from experiments.bench import gpu, gpu_train, gpu_trend


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


def test_the_smallest_training_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gpu_train, "ROUNDS", 1)
    monkeypatch.setattr(gpu_train, "CHANGES", gpu_train.CHANGES[::3])
    assert gpu.main(["train", "--tiny", "--out", str(tmp_path / "r.json")]) == 0
    figures = {f["name"]: f for f in json.loads((tmp_path / "r.json").read_text())["figures"]}
    assert set(figures) == {
        f"train.{case}.{name}"
        for case in ("lora", "full")
        for name in ("mfu", *(f"{c}.{n}" for c in ("plain", "qkv_mlp") for n in _EACH))
    }
    assert all(f["value"] > 0 and f["goal"] == "none" for f in figures.values())
    assert len(capsys.readouterr().out.splitlines()) == len(figures)


def test_the_smallest_trend_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gpu_trend, "PIECES", 2)
    assert gpu.main(["trend", "--tiny", "--out", str(tmp_path / "r.json")]) == 0
    figures = {f["name"]: f for f in json.loads((tmp_path / "r.json").read_text())["figures"]}
    assert set(figures) == {"trend.t12.mann_kendall", "trend.t12.on_device"}
    assert all(f["value"] > 0 and f["goal"] == "none" for f in figures.values())
    assert len(capsys.readouterr().out.splitlines()) == len(figures)


_EACH = ("step", "tokens", "mfu")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["generate"], "error: not measured: no GPU (found cpu); --tiny runs anywhere"),
        (["train"], "error: not measured: no GPU (found cpu); --tiny runs anywhere"),
        (["trend"], "error: not measured: no GPU (found cpu); --tiny runs anywhere"),
        (["eat"], "error: unknown benchmark 'eat'; expected generate, train or trend"),
        (["generate", "--out"], "error: no file after --out"),
    ],
)
def test_what_it_refuses(words: list[str], line: str, capsys: pytest.CaptureFixture) -> None:
    assert gpu.main(words) == 2
    assert capsys.readouterr().err.splitlines() == [line]
