"""Ridge penalties of `hls_gpp.py` and `spain_radar.py`, by folds within the training folds.

    python -m experiments.bench readout          # or readout:gpp, readout:radar

The readout alone, on frozen Galileo-nano. Towers of each outer fold's training part are dealt to
four inner folds; of the outer spatial folds of the radar cube one at a time is left out, and
another of them is the inner one, with the guards of both. R2 over all inner predictions; no outer
test fold is predicted from a model that has seen it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_zarr.splits import group_folds
from experiments import hls_gpp, spain_radar
from rsvlm_jax.config import DataError
from rsvlm_jax.evaluate.benchmark.deals import Deal, DealOptions, deal
from rsvlm_jax.evaluate.benchmark.features import features_of
from rsvlm_jax.evaluate.benchmark.task import Task

from .figure import Figure

PENALTIES = {
    "gpp": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "radar": (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0),
}
TRANSFORMS = {"gpp": ("zscore", "asinh"), "radar": ("zscore",)}
INNER = 4

Inner = tuple[np.ndarray, np.ndarray]
"""Rows of `Task.training`, and of `Task.evaluation`."""


def figures(story: str | None = None) -> Iterator[Figure]:
    """Of one story, or of both."""
    if story is not None and story not in PENALTIES:
        raise DataError("no such story", expected=", ".join(PENALTIES), found=story)
    for name in (story,) if story else PENALTIES:
        yield from _figures(name)


def _figures(story: str) -> Iterator[Figure]:
    made = hls_gpp.experiment() if story == "gpp" else spain_radar.experiment()
    task = Task.of(made)
    x, x_test = (features_of(task, "galileo", t) for t in (task.training, task.evaluation))
    y = task.y_training
    split = "group:site_name" if story == "gpp" else "spatial"
    inner = list(_inner(deal(task, split, DealOptions()), towers=story == "gpp"))
    for transform in TRANSFORMS[story]:
        u = y if transform == "zscore" else np.arcsinh(y)
        for penalty in PENALTIES[story]:
            found, known = [], []
            for train, test in inner:
                one = _ridge(x[train], u[train], x_test[test], penalty)
                found.append(one if transform == "zscore" else np.sinh(one))
                known.append(task.y[test])
            target = np.concatenate(known)
            error = np.concatenate(found) - target
            r2 = 1 - (error**2).mean() / target.var()
            word = "" if story == "gpp" else f"{story}."
            yield Figure(f"readout.{word}{transform}.{penalty:g}.r2", r2)


def _inner(dealt: Deal, *, towers: bool) -> Iterator[Inner]:
    for k, split in enumerate(dealt.splits):
        if towers:  # of places both tables are one
            fold = group_folds(dealt.site_training[split.train], INNER)
            for f in range(INNER):
                yield split.train[fold != f], split.train[fold == f]
        else:
            other = dealt.splits[(k + 1) % len(dealt.splits)]
            yield np.intersect1d(split.train, other.train), other.test


def _ridge(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, penalty: float) -> np.ndarray:
    """As `Head.set_readout`."""
    at, mean = x.mean(axis=0), y.mean()
    some = x - at
    gram = some.T @ some + penalty * x.var(axis=0).mean() * len(x) * np.eye(x.shape[1])
    return mean + (x_test - at) @ np.linalg.solve(gram, some.T @ (y - mean))
