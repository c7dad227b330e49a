"""kill -9 while training and while saving, run again: are the losses those of an unbroken run?
And bits that are flipped in its newest checkpoint, one at a time: is each noticed, and the step
before it taken?

Fifty runs and ten topologies, judged to the last bit: `python tests/faults/kill_matrix.py`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure

STEPS, SAVE_EVERY = 12, 2
FLIPS = 30
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
        steps, noticed, taken = _flipped(broken / "checkpoints")
    yield Figure("resume.kills", killed, "-", at_least=3)
    yield Figure("resume.steps", len(b), "-", at_least=STEPS, at_most=STEPS)
    different = sum(x != y for x, y in zip(a, b, strict=True))
    yield Figure("resume.rows_that_differ", different, "-", at_most=0)
    yield Figure("resume.flips_noticed", noticed, f"of_{FLIPS}", at_least=FLIPS)
    yield Figure(f"resume.flips_where_step_{steps[-2]}_was_taken", taken, f"of_{FLIPS}", FLIPS)


def _flipped(checkpoints: Path) -> tuple[list[int], int, int]:
    """Finished steps; how many flips were noticed, and after how many the step before was taken."""
    from rsvlm_jax.train import Checkpoints, CheckpointWarning

    rng = random.Random(0)
    noticed = taken = 0
    with Checkpoints(checkpoints) as opened:
        steps = opened.steps()
    newest = checkpoints / str(steps[-1])
    files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    sizes = [p.stat().st_size for p in files]
    for number in range(FLIPS):
        # Half of them where most bytes are, half in any file: the small ones matter as much.
        file = rng.choices(files, sizes if number % 2 else None)[0]
        before = file.read_bytes()
        after = bytearray(before)
        after[rng.randrange(len(after))] ^= 1 << rng.randrange(8)
        file.write_bytes(after)
        with warnings.catch_warnings(record=True) as said, Checkpoints(checkpoints) as opened:
            warnings.simplefilter("always")
            taken += opened.newest() == steps[-2]
        told = [str(w.message) for w in said if w.category is CheckpointWarning]
        noticed += any(str(file) in line for line in told)
        file.write_bytes(before)
    return steps, noticed, taken


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
