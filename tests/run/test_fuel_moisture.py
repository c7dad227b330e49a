"""A run on the shipped fuel moisture: by the `pixel` front, whole sites held out."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    InputConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
)
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare


def test_leave_site_out(experiment: Experiment, tmp_path: Path) -> None:
    names = ("s2_l1c", "srtm")
    split = SplitConfig(folds=5, fold=0, group="site_name")
    wanted = dataclasses.replace(
        experiment,
        model=dataclasses.replace(
            experiment.model, inputs=tuple(InputConfig(n, front="pixel") for n in names)
        ),
        data=DataConfig(
            "sample:fuel_moisture", TargetConfig("fuel_moisture"), window=1, stride=1, split=split
        ),
        train=TrainConfig(steps=3, batch_size=8, save_every=3, log_every=1),
    )
    found = prepare(wanted)
    site = found.cube.labels["site_name"]
    held, used = set(site[found.split.test]), set(site[found.split.train])
    assert held.isdisjoint(used)
    assert len(held) > 20

    run = fit(wanted, out=tmp_path / "run")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert all(math.isfinite(r["loss"]) and r["skipped"] == 0 for r in rows)
