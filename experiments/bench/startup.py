"""Seconds until Python has imported the package, and until help is on the screen."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from .figure import Figure


def figures() -> Iterator[Figure]:
    imported = [sys.executable, "-c", "import rsvlm_jax"]
    helped = [sys.executable, "-m", "rsvlm_jax.cli.main", "--help"]
    for name, command in (("startup.import", imported), ("startup.help", helped)):
        yield Figure(name, statistics.median(_time(command) for _ in range(5)), "s", at_most=1.0)


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
