"""The ridge penalty of `experiments/hls_gpp.py`, by folds within the training folds.

    python -m experiments.bench readout

The readout alone, on frozen Galileo-nano: towers of each outer fold's training part are dealt to
four inner folds. R2 over all inner predictions; no outer test fold is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_zarr.splits import group_folds
from experiments.hls_gpp import experiment
from rsvlm_jax.evaluate.benchmark.deals import DealOptions, deal
from rsvlm_jax.evaluate.benchmark.features import features_of
from rsvlm_jax.evaluate.benchmark.task import Task

from .figure import Figure

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
INNER = 4


def figures() -> Iterator[Figure]:
    task = Task.of(experiment())
    x, y = features_of(task, "galileo", task.training), task.y_training
    dealt = deal(task, "group:site_name", DealOptions())
    for transform in ("zscore", "asinh"):
        u = y if transform == "zscore" else np.arcsinh(y)
        for penalty in PENALTIES:
            found, known = [], []
            for split in dealt.splits:
                rows = split.train
                fold = group_folds(dealt.site_training[rows], INNER)
                for f in range(INNER):
                    train, test = rows[fold != f], rows[fold == f]
                    made = _ridge(x[train], u[train], x[test], penalty)
                    found.append(made if transform == "zscore" else np.sinh(made))
                    known.append(y[test])
            target = np.concatenate(known)
            error = np.concatenate(found) - target
            yield Figure(
                f"readout.{transform}.{penalty:g}.r2", 1 - (error**2).mean() / target.var()
            )


def _ridge(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, penalty: float) -> np.ndarray:
    """As `Head.set_readout`."""
    at, mean = x.mean(axis=0), y.mean()
    some = x - at
    gram = some.T @ some + penalty * x.var(axis=0).mean() * len(x) * np.eye(x.shape[1])
    return mean + (x_test - at) @ np.linalg.solve(gram, some.T @ (y - mean))
