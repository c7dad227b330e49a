"""`rsvlm plan`: what it refuses, in one line and with the right code."""

from __future__ import annotations

import json

import pytest

from rsvlm_jax.cli.main import main

PAGE = """from rsvlm_jax.config import Experiment
{more}
def experiment() -> Experiment:
    return Experiment(name="x")
"""


def refused(capsys, *words: str) -> str:
    code = main(["plan", *words, "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    line = [row for row in err.splitlines() if row.startswith("error: ")]
    assert json.loads(out.splitlines()[-1]) == {"error": line[0][7:], "exit_code": 2}
    return line[0]


def test_an_unknown_topology(capsys):
    line = refused(capsys, "llava15_stage2", "--topology", "v5e:15x16")
    assert "no such topology" in line
    assert "v5e:16x16" in line


def test_no_topology_and_no_experiment(capsys):
    assert "no topology given" in refused(capsys, "llava15_stage2")
    assert "no experiment given" in refused(capsys, "--topology", "cpu:2")


@pytest.mark.parametrize("word", ["import jax", "from rsvlm_jax.run.fit import fit"])
def test_an_experiment_that_imports_what_it_may_not(capsys, tmp_path, word):
    file = tmp_path / "mine.py"
    file.write_text(PAGE.format(more=word))
    line = refused(capsys, str(file), "--topology", "cpu:2")
    assert "imports what it may not" in line
    assert "line 2" in line
    assert word.split()[1] in line


def test_the_standard_library_is_allowed(capsys, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PAGE.format(more="import math, dataclasses"))
    assert "no such topology" in refused(capsys, str(file), "--topology", "cpu:x")
