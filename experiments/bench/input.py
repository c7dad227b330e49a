"""The share of wall time in which training waits for its next batch, from `timing.jsonl`, warm.

    demo        every fold of `rsvlm demo`, which train side by side
    synthetic   `rsvlm train synthetic_biomass`

The first steps, which compile and fill the buffers, are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure

COLD = 10
"""Rows of every run that are left out."""

COMMANDS = {
    "demo": ("demo", "--steps", "30"),
    "synthetic": ("train", "synthetic_biomass", "--train.steps", "60"),
}


def figures() -> Iterator[Figure]:
    for name, words in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "rsvlm_jax.cli.main", *words, "--out", f"{folder}/out"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            runs = sorted(Path(folder).rglob("timing.jsonl"))
            rows = [row for run in runs for row in _rows(run)[COLD:]]
        seconds = sum(row["seconds"] for row in rows)
        waited = sum(row["seconds"] * row["input_wait"] for row in rows)
        yield Figure(f"input.{name}.steps", len(rows), "-", at_least=40)
        yield Figure(f"input.{name}.wait", waited / seconds, "of_wall", at_most=0.05)


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    for figure in figures():
        print(figure)
