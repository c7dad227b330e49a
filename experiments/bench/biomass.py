"""The synthetic world: how much of what can be known does the model find, and from which sensors?

Fold 0 of the full world is held out. The oracle knows the law and sees the same noisy pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_zarr.sampling import target_means
from data_zarr.world import oracle
from experiments.synthetic_biomass import ABLATIONS, experiment
from rsvlm_jax.config import to_dict
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import load_run

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench"))


def figures() -> Iterator[Figure]:
    scores = {}
    for name in ABLATIONS:
        made = experiment(name)
        run = fit(made, out=RUNS / made.name)
        prepared = prepare(made)
        y = prepared.test.target.astype(np.float64)
        if "oracle" not in scores:
            known = oracle(prepared.cube)
            table = prepared.eval_table.take(prepared.test.rows)
            scores["oracle"] = _r2(y, target_means(known, table, 0.0)[0])
        scores[name] = _r2(y, load_run(run.path).regress_source(prepared.test).mean)
    (RUNS / "biomass.json").write_text(
        json.dumps({"scores": scores, "config": to_dict(experiment())}, indent=2) + "\n"
    )
    yield Figure("biomass.r2.oracle", scores["oracle"])
    yield Figure("biomass.r2.all_over_oracle", scores["all"] / scores["oracle"], "-", 0.9)
    for name in ABLATIONS:
        yield Figure(f"biomass.r2.{name}", scores[name])
    yield Figure("biomass.rgb_over_oracle", scores["rgb"] / scores["oracle"], "-", at_most=0.5)
    for less, more in (("rgb", "optical"), ("optical", "all"), ("sar", "all")):
        gain = scores[more] - scores[less]
        yield Figure(f"biomass.gain.{more}_over_{less}", gain, "-", at_least=0.0)


def _r2(y: np.ndarray, found: np.ndarray) -> float:
    return float(1 - ((y - found) ** 2).sum() / ((y - y.mean()) ** 2).sum())
