"""What each silent choice of REO-VLM is worth: held-out R2 of the base and of what was changed.

    python -m experiments.bench.reo_ablations [AXIS ...]        axes of experiments/reo_ablations.py

Fold 0 of the small world is held out, one seed, 52 windows: differences of a few hundredths say
nothing. What is trained already is taken up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.reo_ablations import AXES, experiment
from rsvlm_jax.metrics import regression_table
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import load_run

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench")) / "reo_ablations"


def figures(axes: Sequence[str] = tuple(AXES)) -> Iterator[Figure]:
    base = _r2("base")
    yield Figure("reo_ablations.r2.base", base)
    for axis in axes:
        for value in AXES[axis]:
            score = _r2(f"{axis}_{value}")
            yield Figure(f"reo_ablations.r2.{axis}.{value}", score)
            yield Figure(f"reo_ablations.gain.{axis}.base_over_{value}", base - score)


def _r2(what: str) -> float:
    made = experiment(what)
    run = load_run(fit(made, out=RUNS / what).path)
    test = prepare(made).test
    y = test.target.astype(np.float64)
    return float(regression_table(y, run.regress_source(test).mean)["r2"])


def main() -> int:
    axes = sys.argv[1:] or list(AXES)
    if unknown := [a for a in axes if a not in AXES]:
        print(f"error: no such axis: {unknown[0]}; expected {', '.join(AXES)}", file=sys.stderr)
        return 2
    for figure in figures(axes):
        print(figure, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
