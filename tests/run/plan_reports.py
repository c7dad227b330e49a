"""Made-up reports of plans."""

from __future__ import annotations

import dataclasses
from typing import Any

from rsvlm_jax.run.plan_report import PlanReport
from rsvlm_jax.run.roofline import Estimate

ESTIMATE = Estimate(2.0, 1.0, 0.5, 1.5, 1.4, 0.4, 10.0, 5.0, ("a figure",))

REPORT = PlanReport(
    experiment="x",
    topology="v5e:2x2",
    program="train",
    compiler="c",
    chips=4,
    devices=4,
    mesh={"fsdp": 4},
    settings={},
    fits=False,
    refused=True,
    hbm_bytes=100,
    peak_bytes=130,
    argument_bytes=60,
    formula_bytes=60,
    temporary_bytes=None,
    donated_bytes=None,
    largest=({"bytes": 50, "shape": "f32[9]", "kind": "argument", "what": "a"},),
    remedies=("--do this",),
    collectives=(),
    collective_bytes=None,
    gathered_by_sums=(),
    summed_whole=(),
    replicated=(),
    parameters=1,
    trained_parameters=1,
    flops=1.0,
    tokens=1,
    kernels=None,
    lower_seconds=0.0,
    compile_seconds=0.0,
    estimate=None,
    dollars=None,
    assumed=(),
    unproven=(),
)


def report(*_: Any, timed: bool = False, **changes: Any) -> PlanReport:
    """One that does not fit by 30 bytes, with other fields."""
    made = dataclasses.replace(REPORT, estimate=ESTIMATE if timed else None)
    return dataclasses.replace(made, **changes)
