"""kill -9 while training and while saving, run again: are the losses those of an unbroken run?"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure

STEPS, SAVE_EVERY = 12, 2
KILL_AT = (3, 4, 7, 8, 9)
"""Steps after which the process is killed: beside a save, and just as one begins (even ones)."""


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        _start(whole).wait()
        killed = 0
        for step in KILL_AT:
            killed += _kill_after(_start(broken), broken, step)
        last = _start(broken)
        last.wait()
        a, b = (
            [(r["step"], r["loss"], r["grad_norm"]) for r in _rows(run)] for run in (whole, broken)
        )
    yield Figure("resume.kills", killed, "-", at_least=3)
    yield Figure("resume.steps", len(b), "-", at_least=STEPS, at_most=STEPS)
    different = sum(x != y for x, y in zip(a, b, strict=True))
    yield Figure("resume.rows_that_differ", different, "-", at_most=0)


def _start(run: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "rsvlm_jax.cli.main", "train", "forkme", "--out", str(run)]
    words = ["--train.steps", STEPS, "--train.batch-size", 8, "--train.save-every", SAVE_EVERY]
    return subprocess.Popen([*command, *map(str, words)], stderr=subprocess.DEVNULL)


def _kill_after(process: subprocess.Popen, run: Path, step: int) -> bool:
    """True if the process was still alive to be killed."""
    while process.poll() is None:
        rows = _rows(run)
        if rows and rows[-1]["step"] >= step:
            process.kill()
            process.wait()
            return True
        time.sleep(0.002)
    return False


def _rows(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")]
