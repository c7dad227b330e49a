"""Tree cover pixel by pixel: the dense head beside a U-Net, and what any answer by window reaches.

    python -m experiments.bench dense          dense:rsvlm, dense:unet: one of them

`experiments/demo_treecover.py` with `HeadConfig.dense`, and the U-Net of `rsvlm bench regression`,
trained on the same windows of the same five spatial folds (a guard of one window), one seed; R2
over the pixels of all held-out windows. `true_means` is each window's true mean, said of all its
pixels: what no model that answers by window can pass. Runs lie below `RSVLM_BENCH_RUNS`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.demo_treecover import experiment
from rsvlm_jax.config import Experiment
from rsvlm_jax.data.maps import target_maps
from rsvlm_jax.evaluate.benchmark.cells import Cell
from rsvlm_jax.evaluate.benchmark.deals import DealOptions, deal
from rsvlm_jax.evaluate.benchmark.learn import network_maps
from rsvlm_jax.evaluate.benchmark.task import Task, without_folds
from rsvlm_jax.metrics import regression_table
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import load_run

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench")) / "dense"
MODELS = ("rsvlm", "unet")


def dense() -> Experiment:
    """The demo's model, answering pixel by pixel."""
    base = experiment()
    head = dataclasses.replace(base.model.head, dense="visual")
    return dataclasses.replace(
        base, name="dense_treecover", model=dataclasses.replace(base.model, head=head)
    )


def figures(part: str = "") -> Iterator[Figure]:
    task = Task.of(experiment())
    dealt = deal(task, "spatial", DealOptions())
    maps = target_maps(task.cube, task.prepared.experiment.data.target)
    rows = np.concatenate([split.test for split in dealt.splits])
    y = maps.read(task.evaluation, rows, [0] * len(rows))[:, 0].astype(np.float64)
    cells = [Cell(task, dealt, f, 0, RUNS) for f in range(len(dealt.splits))]
    yield Figure("dense.treecover.windows", len(rows), "windows")
    yield Figure("dense.treecover.r2.true_means", _r2(y, _spread(np.nanmean(y, axis=(1, 2)), y)))
    for name in (part,) if part else MODELS:
        found = np.concatenate([_maps(name, cell) for cell in cells])
        yield Figure(f"dense.treecover.r2.{name}", _r2(y, found))
        yield Figure(f"dense.treecover.rmse.{name}", _table(y, found)["rmse"])
        means = _spread(found.mean(axis=(1, 2)), y)
        yield Figure(f"dense.treecover.r2.{name}_means", _r2(y, means))
        by_window = np.nanmean(y, axis=(1, 2)), found.mean(axis=(1, 2))
        yield Figure(f"dense.treecover.r2_of_windows.{name}", _r2(*by_window))


def _maps(name: str, cell: Cell) -> np.ndarray:
    """[m,s,s] of a fold's held-out windows; kept, so that an interrupted bench goes on."""
    file = RUNS / f"{name}-f{cell.fold}.npy"
    if not file.is_file():
        found = _ours(cell) if name == "rsvlm" else network_maps(name, cell)
        bounds = cell.task.target.bounds
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, found if bounds is None else np.clip(found, *bounds))
    return np.load(file)


def _ours(cell: Cell) -> np.ndarray:
    task = cell.task
    prepared = dataclasses.replace(
        prepare(without_folds(dense())),
        train_table=task.training,
        eval_table=task.evaluation,
        split=cell.deal.splits[cell.fold],
    )
    run = fit(prepared.experiment, out=RUNS / f"rsvlm-f{cell.fold}", work=prepared)
    loaded = load_run(run.path)
    source = prepared.source(task.evaluation, cell.test)
    source.error_budget = 0.0
    return loaded.regress_maps(source)[task.target.name].mean


def _spread(means: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.broadcast_to(means[:, None, None], y.shape)


def _table(y: np.ndarray, found: np.ndarray) -> dict[str, float]:
    ok = np.isfinite(y)
    return {k: float(v) for k, v in regression_table(y[ok], found[ok]).items()}


def _r2(y: np.ndarray, found: np.ndarray) -> float:
    return _table(y, found)["r2"]
