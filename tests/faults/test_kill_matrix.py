"""The kill matrix, short and whole: see `kill_matrix.py`, which is also a command of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kill_matrix.py")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("runs", "other"),
    [(5, 0), pytest.param(50, 10, marks=pytest.mark.slow)],
    ids=["short", "whole"],
)
def test_killed_runs_of_the_program_are_those_that_nothing_happened_to(runs: int, other: int):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--runs", str(runs), "--other", str(other), "--json"],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts == {"same_topology": [runs, runs], "other_topology": [other, other]}
