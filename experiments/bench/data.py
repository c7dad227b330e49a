"""From a cube on disk to a batch on the device, beside what a researcher would otherwise use.

Readers and their rivals: `data_readers`; the pipeline: `data_pipeline`; the cubes: `data_cube`
(1.2 GB as it is in memory, 3.9 GB of files in a temporary folder). Speeds are measured in one
process with the heap settings of `rsvlm train`, which help the rivals most: they allocate more.

`--short` (or RSVLM_BENCH_SHORT=1) takes a quarter of the cube and three rounds: a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure


def figures() -> Iterator[Figure]:
    from rsvlm_jax.cli.main import HEAP

    from .data_cube import make

    with tempfile.TemporaryDirectory() as folder:
        size = 1024 if os.environ.get("RSVLM_BENCH_SHORT") == "1" else 2048
        make(Path(folder), size)
        for what, heap in (("memory", {}), ("speed", {"GLIBC_TUNABLES": HEAP})):
            yield from _in_a_process(what, folder, size, heap)


def _in_a_process(what: str, folder: str, size: int, heap: dict[str, str]) -> Iterator[Figure]:
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    worker = subprocess.Popen(
        [sys.executable, "-m", __name__, what, folder, str(size)],
        stdout=subprocess.PIPE, text=True, env={**env, "JAX_PLATFORMS": "cpu", **heap},
    )  # fmt: skip
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("{"):
            yield Figure(**json.loads(line))
    if worker.wait():
        raise RuntimeError(f"the measuring process ended with {worker.returncode}")


def _measured(what: str, folder: str, size: str) -> Iterator[Figure]:
    from . import data_pipeline, data_readers
    from .data_cube import Stores

    stores = Stores(Path(folder), int(size))
    rounds = 3 if os.environ.get("RSVLM_BENCH_SHORT") == "1" else 7
    if what == "memory":
        yield from data_pipeline.memory(stores)
        return
    yield from data_readers.figures(stores, rounds)
    yield from data_pipeline.figures(stores, rounds)


def main(what: str, folder: str, size: str) -> None:
    for figure in _measured(what, folder, size):
        fields = ("name", "value", "unit", "at_least", "at_most")
        print(json.dumps({f: getattr(figure, f) for f in fields}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
