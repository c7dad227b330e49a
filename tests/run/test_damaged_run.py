"""A finished run whose checkpoints were damaged: noticed, said once, gone on from what is whole."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray

from rsvlm_jax.cli.main import main
from rsvlm_jax.config import CheckpointError, Experiment
from rsvlm_jax.core import flat
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.trained import load_run as load
from rsvlm_jax.train import CheckpointWarning

CUBE = "sample:slovenia_s2"


def truncate(run: Path, steps: int) -> None:
    """Cut the biggest file of the newest `steps` steps."""
    found = sorted((p for p in (run / "checkpoints").iterdir() if p.name.isdigit()), key=number)
    for step in found[-steps:]:
        biggest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        biggest.write_bytes(biggest.read_bytes()[:-64])


def number(path: Path) -> int:
    return int(path.name)


@pytest.fixture
def damaged(finished: Path, tmp_path: Path) -> Path:
    """The finished run, its last step damaged; step 4 of 6 is whole."""
    run = shutil.copytree(finished, tmp_path / "run")
    truncate(run, 1)
    return run


@pytest.fixture
def page(experiment: Experiment, finished: Path, tmp_path: Path) -> str:
    """An experiment file of the finished run."""
    path = tmp_path / "page.py"
    path.write_text(
        "from pathlib import Path\n"
        "from rsvlm_jax.config import Experiment, from_json\n"
        f"def experiment():\n    return from_json(Experiment, Path({str(finished)!r}, "
        '"config.json").read_text())\n'
    )
    return str(path)


def last(capsys) -> tuple[dict, list[str]]:
    """The JSON object, and the warnings on stderr."""
    done = capsys.readouterr()
    assert "Warning" not in done.err, "a warning of Python's, with a place in the code"
    lines = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    return json.loads(done.out.splitlines()[-1]), lines


def test_fit_trains_a_damaged_last_step_again(
    damaged: Path, finished: Path, experiment: Experiment
):
    with pytest.warns(CheckpointWarning, match=r"restoring step 4: .*/6/.* is truncated") as said:
        fit(experiment, out=damaged)
    assert [w.category for w in said].count(CheckpointWarning) == 1  # libraries warn as well
    assert (damaged / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        again, before = load(damaged), load(finished)
    assert (again.step, before.step) == (6, 6)
    for path, x in flat(before.params).items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(flat(again.params)[path]), path)


@pytest.mark.parametrize("option", ["--block", "--batch-size"])
def test_predict_verb_refuses_an_impossible_size(
    finished: Path, option: str, tmp_path: Path, capsys
):
    out = str(tmp_path / "map")
    assert main(["predict", str(finished), "--cube", CUBE, "--out", out, option, "0"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "expected >= 1" in err


def test_predict_verb_on_an_unwritable_output(finished: Path, tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "map")
    assert main(["predict", str(finished), "--cube", CUBE, "--out", out]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write the output")


def test_fit_where_every_step_is_damaged(damaged: Path, experiment: Experiment):
    truncate(damaged, 2)
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        fit(experiment, out=damaged)


def test_train_verb_says_once_what_it_goes_on_from(damaged: Path, page: str, capsys):
    assert main(["train", page, "--out", str(damaged), "--json"]) == 0
    result, said = last(capsys)
    assert (result["step"], len(said)) == (6, 1)
    assert said[0].startswith("warning: restoring step 4: ")
    assert load(damaged).step == 6


def test_train_verb_where_every_step_is_damaged(damaged: Path, page: str, capsys):
    truncate(damaged, 2)
    assert main(["train", page, "--out", str(damaged), "--json"]) == 4
    result, _ = last(capsys)
    assert result["exit_code"] == 4
    assert "no checkpoint can be used" in result["error"]


def test_train_verb_from_nothing_says_so(finished: Path, page: str, tmp_path: Path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints" / "2").mkdir(parents=True)
    assert main(["train", page, "--out", str(run), "--json"]) == 0
    result, said = last(capsys)
    assert result["step"] == 6
    assert said == [
        f"warning: training starts from nothing: {run}/checkpoints/2 was never finished"
    ]


def test_the_step_that_answers_is_told(damaged: Path, tmp_path: Path, capsys):
    ask = ["generate", str(damaged), "--cube", CUBE, "--ask", "What is the tree cover?", "--json"]
    assert main(ask) == 0
    result, said = last(capsys)
    assert (result["step"], len(said)) == (4, 1)
    assert main(["evaluate", str(damaged), "--baselines", "mean", "--answers", "0", "--json"]) == 0
    result, said = last(capsys)
    assert (result["step"], len(said)) == (4, 1)
    out = tmp_path / "map"
    assert main(["predict", str(damaged), "--cube", CUBE, "--out", str(out), "--json"]) == 0
    result, said = last(capsys)
    assert (result["step"], len(said)) == (4, 1)
    assert xarray.open_zarr(out / "map.zarr", consolidated=False).attrs["model_step"] == 4
