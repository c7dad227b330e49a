"""Our reading of REO-VLM on the small synthetic world: held-out R2 after each of its stages.

Fold 0 is held out. `no_warmup` starts from stage 1 as the warm-up does and trains as stage 2 for
the steps of both: what the warm-up is worth. The oracle knows the law and sees the same pixels. One
seed, 52 windows: differences of a few hundredths say nothing.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.sampling import target_means
from data_zarr.world import oracle
from experiments import reo_vlm_nano
from rsvlm_jax.config import Experiment
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.evaluate.spoken import count_answers
from rsvlm_jax.metrics import regression_table
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import Prepared, prepare
from rsvlm_jax.run.trained import load_run

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench")) / "reo_vlm_nano"


def stages() -> dict[str, Experiment]:
    """The chain below `RUNS`, and the one without a warm-up."""
    made: dict[str, Any] = {}
    for stage in ("stage1", "warmup", "stage2"):
        one = reo_vlm_nano.experiment(stage)
        begin = str(one.init_from).replace(reo_vlm_nano.RUNS, str(RUNS))
        made[stage] = dataclasses.replace(one, init_from=begin)
    steps = made["warmup"].train.steps + made["stage2"].train.steps
    made["no_warmup"] = dataclasses.replace(
        made["stage2"],
        name="reo_vlm_nano_no_warmup",
        train=dataclasses.replace(made["stage2"].train, steps=steps),
        init_from=made["warmup"].init_from,
    )
    return made


def figures() -> Iterator[Figure]:
    scores = {}
    for stage, experiment in stages().items():
        loaded = load_run(fit(experiment, out=RUNS / stage).path)
        prepared = prepare(experiment)
        scores[stage] = _r2(prepared, loaded.regress_source(prepared.test).mean)
        yield Figure(f"reo.r2.{stage}", scores[stage])
        if stage == "stage2":
            few = prepared.source(prepared.eval_table, prepared.test.rows[:4])
            with eval_batches(few, loaded.processor, batch_size=4, threads=0) as batches:
                yield from _answers(count_answers(loaded, next(batches)))
    table = prepared.eval_table.take(prepared.test.rows)
    yield Figure("reo.r2.oracle", _r2(prepared, target_means(oracle(prepared.cube), table, 0.0)[0]))
    gain = scores["stage2"] - scores["stage1"]
    yield Figure("reo.gain.stage2_over_stage1", gain, "-", at_least=0.0)
    yield Figure("reo.gain.stage2_over_warmup", scores["stage2"] - scores["warmup"])
    yield Figure("reo.gain.warmup_over_none", scores["stage2"] - scores["no_warmup"])


def _answers(found: dict[str, Any]) -> Iterator[Figure]:
    target, beyond = found["target"], found["unanswerable"]
    yield Figure("reo.answers.with_number", target["numbers"] / target["asked"], "-", 0.9)
    yield Figure("reo.answers.refused", beyond["refused"] / beyond["asked"], "-", 0.9)
    agreeing = found["agreeing"] / max(target["numbers"], 1)
    yield Figure("reo.answers.agreeing", agreeing, "-", 1.0)


def _r2(prepared: Prepared, found: np.ndarray) -> float:
    return float(regression_table(prepared.test.target.astype(np.float64), found)["r2"])
