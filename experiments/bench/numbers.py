"""Numbers from heads or from text: mixer, MLP, linear, xVal, digits, P10 at matched parameters.

The small synthetic world, optical, radar and terrain of few dates; both halves of its tiles of 32
pixels held out in turn; three seeds. All models have the parameters of the mixer's within 1 %: what
a smaller head, or none, leaves goes to the MLP of the vision tower. Steps, batches and rates are
the same. A window's loss is the mean over seeds; pairs are tested by tile
(`rsvlm_jax.metrics.paired`). Nothing was chosen on these folds: the settings are those of
`experiments/synthetic_biomass.py`, shortened.

Restartable: finished runs are read. `RSVLM_BENCH_SECONDS=300` stops after a run that ends later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.synthetic_biomass import experiment
from rsvlm_jax.config import Experiment, InputConfig, SplitConfig, ViTConfig, nano, to_dict, to_json
from rsvlm_jax.metrics import paired
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import load_run

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench"))
MODELS = ("mixer", "mlp", "linear", "xval", "digits", "p10")
SEEDS, FOLDS, BLOCK = 3, 2, 32
STEPS, BATCH = 300, 32
INPUTS = (
    InputConfig("s2_l2a", dates=4),
    InputConfig("s1_db", dates=3),
    InputConfig("dem", front="pixel"),
)


def of(model: str, fold: int = 0, seed: int = 0) -> Experiment:
    """A row of the comparison, at its parameters."""
    return _with_mlp(_plain(model, fold, seed), _mlp_dim(model))


def figures() -> Iterator[Figure]:
    found = _measured()
    if found is None:
        return
    mean = {m: float(np.sqrt(np.mean(e**2))) for m, e in found["error"].items()}
    for model, rmse in mean.items():
        yield Figure(f"numbers.rmse.{model}", rmse, "Mg/ha")
        yield Figure(f"numbers.parameters.{model}", found["parameters"][model], "")
    most, least = max(found["parameters"].values()), min(found["parameters"].values())
    yield Figure("numbers.parameters.most_over_least", most / least, "-", at_most=1.01)
    losses = {m: np.mean(e**2, axis=0) for m, e in found["error"].items()}
    rows = paired(losses, found["tile"], root=True)
    for row in rows:
        pair = f"{row['model']}_minus_{row['reference']}"
        goal = 0.0 if row["model"] == "mixer" else None
        yield Figure(f"numbers.rmse.{pair}", row["difference"], "Mg/ha", at_most=goal)
        yield Figure(f"numbers.p_holm.{pair}", row["p_holm"])
    result = {
        "rmse": mean,
        "rmse_of_seeds": {
            m: np.sqrt(np.mean(e**2, axis=1)).tolist() for m, e in found["error"].items()
        },
        "parameters": found["parameters"],
        "windows": len(found["tile"]),
        "tiles": len(np.unique(found["tile"])),
        "pairs": rows,
        "config": {m: to_dict(of(m)) for m in MODELS},
    }
    (RUNS / "numbers.json").write_text(json.dumps(result, indent=2) + "\n")


def _measured() -> dict[str, Any] | None:
    """Errors of all runs [seeds, windows]; None: time was up before the last."""
    limit, begun = float(os.environ.get("RSVLM_BENCH_SECONDS", "inf")), time.monotonic()
    error: dict[str, np.ndarray] = {}
    parameters, tile = {}, np.zeros(0)
    for model in MODELS:
        parts: list[list[np.ndarray]] = [[] for _ in range(SEEDS)]
        tiles = []
        for fold in range(FOLDS):
            for seed in range(SEEDS):
                made = of(model, fold, seed)
                key = hashlib.sha256(to_json(made).encode()).hexdigest()[:8]
                out = RUNS / "numbers" / f"{model}-f{fold}-s{seed}-{key}"
                if not (out / "error.npy").is_file():
                    if time.monotonic() - begun > limit:
                        print(f"stopped before {out.name}; run again to go on", flush=True)
                        return None
                    _run(made, out)
                parts[seed].append(np.load(out / "error.npy"))
            prepared = prepare(of(model, fold))
            rows, table = prepared.test.rows, prepared.eval_table
            tiles.append(table.y[rows] // BLOCK * 10_000 + table.x[rows] // BLOCK)
        error[model] = np.stack([np.concatenate(p) for p in parts])
        tile = np.concatenate(tiles)
        parameters[model] = prepare(of(model)).program.parameters
    return {"error": error, "parameters": parameters, "tile": tile}


def _run(made: Experiment, out: Path) -> None:
    """Predicted minus observed of the held-out windows, kept beside the run."""
    run = fit(made, out=out)
    test = prepare(made).test
    found = load_run(run.path).regress_source(test).mean
    np.save(out / "error.npy", found - test.target.astype(np.float64))


def _plain(model: str, fold: int = 0, seed: int = 0) -> Experiment:
    base = experiment("all")
    split = SplitConfig(block=BLOCK, folds=FOLDS, fold=fold)
    data = dataclasses.replace(base.data, cube="world:small", split=split)
    train = dataclasses.replace(
        base.train, steps=STEPS, batch_size=BATCH, save_every=STEPS, seed=seed
    )
    vlm = nano(INPUTS)
    assert vlm.head is not None
    if model in ("digits", "p10"):
        data = dataclasses.replace(data, number=model)
    else:
        vlm = dataclasses.replace(vlm, head=dataclasses.replace(vlm.head, kind=model))
    return dataclasses.replace(base, name=f"numbers_{model}", data=data, model=vlm, train=train)


def _with_mlp(made: Experiment, mlp_dim: int) -> Experiment:
    assert isinstance(made.model.vision, ViTConfig)
    vision = dataclasses.replace(made.model.vision, mlp_dim=mlp_dim)
    return dataclasses.replace(made, model=dataclasses.replace(made.model, vision=vision))


def _mlp_dim(model: str) -> int:
    """Of the vision tower, so that the model has as many parameters as the mixer's."""
    plain = _plain(model)
    assert isinstance(plain.model.vision, ViTConfig)
    own = plain.model.vision.mlp_dim
    if model == "mixer":
        return own
    here = prepare(plain).program.parameters
    each = prepare(_with_mlp(plain, own + 1)).program.parameters - here
    return own + round((prepare(_plain("mixer")).program.parameters - here) / each)
