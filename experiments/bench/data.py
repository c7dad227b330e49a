"""From a cube on disk to a batch on the device, beside what a researcher would otherwise use.

Readers and their rivals: `data_readers`; the pipeline: `data_pipeline`; the cubes: `data_cube`
(1.2 GB as it is in memory, 3.9 GB of files in a temporary folder). All is measured in one process
with the heap settings of `rsvlm train`, which help the rivals most: they allocate more.

`--short` (or RSVLM_BENCH_SHORT=1) takes a quarter of the cube and three rounds: half a minute.
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

    env = {**os.environ, "GLIBC_TUNABLES": HEAP, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        worker = subprocess.Popen(
            [sys.executable, "-m", __name__, folder], stdout=subprocess.PIPE, text=True, env=env
        )
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("{"):
                yield Figure(**json.loads(line))
        if worker.wait():
            raise RuntimeError(f"the measuring process ended with {worker.returncode}")


def _measure(folder: Path) -> Iterator[Figure]:
    from . import data_pipeline, data_readers
    from .data_cube import make

    short = os.environ.get("RSVLM_BENCH_SHORT") == "1"
    stores = make(folder, 1024 if short else 2048)
    rounds = 3 if short else 7
    yield from data_pipeline.figures(stores, rounds)
    yield from data_readers.figures(stores, rounds)


def main(folder: str) -> None:
    for figure in _measure(Path(folder)):
        fields = ("name", "value", "unit", "at_least", "at_most")
        print(json.dumps({f: getattr(figure, f) for f in fields}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
