"""A run that starts from a pretrained encoder: frozen but for its LoRA, on shipped real series."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import (
    LORA_ONLY,
    ConfigError,
    DataConfig,
    EncodersConfig,
    Experiment,
    GroupConfig,
    InputConfig,
    LoraConfig,
    PrestoConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.interop import encoders
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.start import start_from
from rsvlm_jax.run.trained import load_run

NAMES = ("s2_l1c", "s1_db", "era5", "srtm")
ENCODERS = EncodersConfig(presto=PrestoConfig(steps=3, by="date"))


def wanted(experiment: Experiment) -> Experiment:
    model = dataclasses.replace(
        experiment.model,
        inputs=tuple(InputConfig(n, front="presto") for n in NAMES),
        encoders=ENCODERS,
        head=dataclasses.replace(experiment.model.head, readout=0.1),
    )
    return dataclasses.replace(
        experiment,
        model=model,
        data=DataConfig(
            "sample:fuel_moisture", TargetConfig("fuel_moisture"), window=1, stride=1,
            split=SplitConfig(folds=5, fold=0, group="site_name"),
        ),
        train=TrainConfig(steps=3, batch_size=8, save_every=3, log_every=1),
        optimizer=dataclasses.replace(
            experiment.optimizer, groups=(GroupConfig("/project/|^head/"), *LORA_ONLY)
        ),
        lora=LoraConfig(rank=2, alpha=4.0, targets=r"^encoders/.+/layers/.+/kernel$"),
        init_from="encoders/presto=asset:presto,decoder=asset:stories260k",
    )  # fmt: skip


def test_lora_trains_beside_frozen_pretrained_weights(experiment: Experiment, tmp_path: Path):
    run = fit(wanted(experiment), out=tmp_path / "run")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert all(math.isfinite(r["loss"]) and r["skipped"] == 0 for r in rows)
    loaded = load_run(run.path)
    assert loaded.experiment.model.encoders == ENCODERS
    readout = np.asarray(loaded.stats["head"]["readout"])  # fitted to what Presto made at first
    assert np.isfinite(readout).all()
    assert np.abs(readout).max() > 0
    shipped = flat(nnx.state(encoders.presto(ENCODERS.presto)))
    made = flat(loaded.params["encoders"]["presto"]["encoder"])
    assert made.keys() == shipped.keys()
    changed = {path for path in shipped if not np.array_equal(made[path], shipped[path])}
    assert changed == {p for p in shipped if p.startswith("layers/") and p.endswith("kernel")}
    for path in changed:  # by the product of two small factors
        assert np.abs(np.asarray(made[path]) - np.asarray(shipped[path])).max() < 0.1


def test_assets_of_other_parts_are_refused(experiment: Experiment):
    bad = dataclasses.replace(wanted(experiment), init_from="encoders/galileo=asset:presto")
    with pytest.raises(ConfigError, match=r"no such asset in Experiment.init_from; .*asset:presto"):
        start_from({}, bad)
