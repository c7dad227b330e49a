"""The kept plans, made again by the real compilers: `python -m experiments.plans [NAME ...]`.

Each is one program on one topology, a file NAME.json beside this one (`PlanReport.to_dict`). A
plan takes one to three minutes on two cores, and nothing is kept of one that does not fit.
Needs libtpu: `make plans`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import Experiment
from rsvlm_jax.run.plan import plan, require

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Kept:
    """One plan.

    Attributes:
      experiment: a file of `experiments/`, and behind a colon its stage or size.
      topology: where.
      mesh, train: fields that differ from the experiment's.
      base: `Experiment.base`.
      dates: of a series that says none.
    """

    experiment: str
    topology: str
    mesh: dict[str, int] = dataclasses.field(default_factory=dict)
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    base: str | None = None
    dates: int | None = None

    def made(self) -> Experiment:
        made = load_experiment(self.experiment)
        return dataclasses.replace(
            made,
            mesh=dataclasses.replace(made.mesh, **self.mesh),
            train=dataclasses.replace(made.train, **self.train),
            base=self.base or made.base,
        )


PLANS = {
    # A batch on 16 chips of 16 GB, in parts: only the connector trains.
    "llava15_stage1_7b": Kept(
        "llava15_stage1", "v5e:4x4", train={"micro_batches": 4, "remat": "save_context"}
    ),
    "llava15_stage1_13b": Kept(
        "llava15_stage1:13b", "v5e:4x4", train={"micro_batches": 8, "remat": "full"}
    ),
    # "fsdp" over a part of the chips: over all of v5e:4x4 and of v5p:4x4x4 libtpu makes no
    # reduce-scatter of any shape tried; it sums large gradients whole (`PlanReport.summed_whole`).
    "llava15_stage2_7b": Kept("llava15_stage2", "v5p:4x4x4", {"data": 4, "fsdp": 16}),
    "llava15_stage2_7b_v5e": Kept(
        "llava15_stage2",
        "v5e:16x16",
        {"data": 16, "fsdp": 16},
        {"batch_size": 256, "remat": "save_context"},
    ),
    # Bound by its links: the recipe's 128 rows are 4,096 tokens a chip where these need 10,300.
    "llava15_stage2_13b": Kept(
        "llava15_stage2:13b", "v6e:8x8", {"data": 2, "fsdp": 32}, {"remat": "save_qkv_mlp"}
    ),
    "llava15_stage2_7b_cpu": Kept(
        "llava15_stage2",
        "cpu:256",
        {"data": 4, "fsdp": 64},
        {"batch_size": 256, "remat": "save_context"},
    ),
    "llava15_lora_7b": Kept(
        "llava15_lora", "v5e:2x2", train={"micro_batches": 32, "remat": "full"}
    ),
    "llava15_lora_13b": Kept(
        "llava15_lora:13b", "v5e:4x4", train={"micro_batches": 8, "remat": "full"}
    ),
    "geochat_lora": Kept("geochat_lora:1", "v5e:4x4", train={"micro_batches": 9, "remat": "full"}),
    "qwen2_05b_rs": Kept(
        "qwen2_05b_rs",
        "v5e:4x4",
        {"data": 2, "fsdp": 8},
        {"micro_batches": 4, "remat": "save_context"},
    ),
    "multispectral_7b": Kept("multispectral_7b", "v5p:4x4x4", {"data": 4, "fsdp": 16}),
    "landsat_series_7b": Kept("landsat_series_7b", "v5p:4x4x4", {"data": 4, "fsdp": 16}),
    "reo_vlm_7b": Kept("reo_vlm_7b:stage2", "v5p:4x4x4", {"data": 4, "fsdp": 16}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the kept plans again.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLANS)}")
    names = parser.parse_args(arguments).names or list(PLANS)
    if unknown := [name for name in names if name not in PLANS]:
        print(f"error: no such plan: {unknown[0]}; expected {', '.join(PLANS)}", file=sys.stderr)
        return 2
    for name in names:
        kept = PLANS[name]
        report = require(plan(kept.made(), kept.topology, dates=kept.dates))
        (FOLDER / f"{name}.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        print("\n".join([f"== {name}", *report.lines()]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
