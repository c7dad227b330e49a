"""One device against eight simulated ones (2 data x 2 fsdp x 2 tensor), five steps.

Batches and starting parameters are the same; what differs is the order of sums.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from .figure import Figure

CHILD = """
import dataclasses, json, sys, tempfile
from pathlib import Path
import numpy as np
from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import MeshConfig, TrainConfig
from rsvlm_jax.core import flat
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.trained import load_run

base = load_experiment("forkme")
train = TrainConfig(steps=5, batch_size=8, save_every=5)
found = {}
for kind in ("sgd", "adamw"):
    losses, params = [], []
    for shape in ((1, 1, 1), (2, 2, 2)):
        with tempfile.TemporaryDirectory() as out:
            experiment = dataclasses.replace(
                base, train=train, mesh=MeshConfig(*shape),
                optimizer=dataclasses.replace(base.optimizer, kind=kind, ema=None),
            )
            run = fit(experiment, out=f"{out}/run")
            rows = run.metrics.read_text().splitlines()
            losses.append(np.array([json.loads(r)["loss"] for r in rows]))
            params.append({k: np.asarray(v) for k, v in flat(load_run(run.path).params).items()})
    found[kind] = {
        "loss": float(np.max(np.abs(losses[0] - losses[1]) / np.abs(losses[0]))),
        "params": max(float(np.abs(params[0][k] - params[1][k]).max()) for k in params[0]),
    }
print(json.dumps(found))
"""


def figures() -> Iterator[Figure]:
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for kind, params in (("sgd", 1e-5), ("adamw", 1e-4)):
        yield Figure(f"devices.{kind}.loss", found[kind]["loss"], "relative", at_most=1e-5)
        yield Figure(f"devices.{kind}.params", found[kind]["params"], "absolute", at_most=params)
