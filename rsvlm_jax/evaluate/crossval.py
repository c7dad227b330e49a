"""Spatial cross-validation of an experiment: every window is predicted by models that never saw it.

    fold f: train on what is clear of fold f (members: several seeds) -> predict fold f
    all folds -> mean, scale [n] out of fold; a map whose windows come from models that trained on
                 none of their pixels

Members are averaged: mean of means; variance of the mixture. Every member is an ordinary run
directory, so an interrupted cross-validation goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.sampling import WindowTable, target_means
from data_zarr.splits import split
from rsvlm_jax.config import Experiment, Preempted
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import GIVEN, Prepared, prepare
from rsvlm_jax.run.rundir import write_atomic
from rsvlm_jax.run.tiles import tiles, window_starts
from rsvlm_jax.run.trained import Loaded, Numbers, load_run

from .mapwindows import MapWindows, held_out_windows

Progress = Callable[[str, int, int, Any], None]
"""(name, done, total, metrics)"""

AGAIN = "run the same command again to go on"


@dataclasses.dataclass(frozen=True)
class Folds:
    """The evaluation windows of an experiment that have a target and a fold, and which.

    Attributes:
      prepared: of fold 0; its tables and its map of folds are those of all folds.
      rows: i64 [n], of `prepared.eval_table`.
      y: f64 [n]; fold: i32 [n].
    """

    prepared: Prepared
    rows: np.ndarray
    y: np.ndarray
    fold: np.ndarray

    @classmethod
    def of(cls, experiment: Experiment) -> Folds:
        prepared = prepare(_fold(experiment, 0))
        table = prepared.eval_table
        target = experiment.data.target
        y, _ = target_means(prepared.cube.target(target.name), table, target.min_valid)
        centre = prepared.fold_map[table.centre]
        rows = np.flatnonzero(np.isfinite(y) & (centre != GIVEN))
        return cls(prepared, rows, y[rows], centre[rows])

    @property
    def count(self) -> int:
        return self.prepared.experiment.data.split.folds


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Out-of-fold predictions [n], in the order of `Folds.rows`; `runs[fold]` made them.

    Attributes:
      mean, scale: of all members of a fold together.
      one: the same of its first member alone: what a single model errs like.
    """

    mean: np.ndarray
    scale: np.ndarray
    one: Numbers
    seconds: float
    runs: dict[int, list[Path]]

    @functools.cached_property
    def models(self) -> dict[int, list[Loaded]]:
        return {f: [load_run(path) for path in paths] for f, paths in self.runs.items()}


def cross_validate(
    experiment: Experiment,
    folds: Folds,
    out: Path,
    *,
    name: str,
    members: int,
    workers: int = 2,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> HeldOut:
    """Train `members` seeds a fold and predict each fold with those that never saw it.

    Args:
      out: holds a run directory for every fold and member.
      name: of the progress bar.
      workers: runs that train at the same time, in threads: small steps leave a core idle.
      stop: asked before every step of every run; true saves them all and raises `Preempted`. In
        threads no signal is caught: without `stop` only the first run hears SIGTERM.

    Returns:
      Predictions, and the wall-clock seconds of training and prediction (as first measured, where
      finished runs were taken up).

    Raises:
      As `fit`. When one run fails, those beside it save and stop.
    """
    jobs = [(f, m) for f in range(folds.count) for m in range(members)]
    bar = _Total(name, len(jobs) * experiment.train.steps, progress)
    start = time.perf_counter()
    failures: list[BaseException] = []

    def stopped() -> bool:
        return bool(failures) or (stop is not None and stop())

    def train(job: tuple[int, int]) -> Path:
        f, m = job
        path = out / f"fold{f}_seed{m}"
        try:
            if stopped():
                raise Preempted(f"stopped before {path}", remedy=AGAIN)
            fit(
                _fold(experiment, f, m),
                out=path,
                progress=functools.partial(bar.step, job),
                stop=stopped,
            )
        except BaseException as e:
            failures.append(e)
            raise
        bar.finish(job, experiment.train.steps)
        return path

    # The first run alone: it compiles what the others share.
    paths = [train(jobs[0])]
    with ThreadPoolExecutor(workers) as pool:
        try:
            paths += pool.map(train, jobs[1:])
        except BaseException as e:  # also Ctrl-C: leaving the pool waits for what trains
            failures.append(e)
            raise failures[0] from None  # the first one stopped the others
    runs: dict[int, list[Path]] = {}
    for (f, _), path in zip(jobs, paths, strict=True):
        runs.setdefault(f, []).append(path)
    mean, scale = np.zeros(len(folds.y)), np.zeros(len(folds.y))
    one = Numbers(*(np.zeros(len(folds.y)) for _ in dataclasses.fields(Numbers)))
    made = HeldOut(mean, scale, one, 0.0, runs)
    for f, models in made.models.items():
        here = np.flatnonzero(folds.fold == f)
        source = folds.prepared.source(folds.prepared.eval_table, folds.rows[here])
        source.error_budget = 0.0  # every row is scored: one that cannot be read is an error
        numbers = [m.regress_source(source) for m in models]
        mean[here], scale[here] = mixture(numbers)
        for field in dataclasses.fields(Numbers):
            getattr(one, field.name)[here] = getattr(numbers[0], field.name)
    seconds = _first_seconds(out / "seconds.txt", time.perf_counter() - start)
    return dataclasses.replace(made, seconds=seconds)


def mixture(members: Sequence[Numbers]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of an equal mixture."""
    means = np.stack([m.mean for m in members])
    mean = means.mean(axis=0)
    second = np.mean([m.scale**2 for m in members], axis=0) + means.var(axis=0)
    return mean, np.sqrt(second)


def held_out_map(
    folds: Folds, held_out: HeldOut, out: Path, *, progress: Callable[[int, int], None] | None
) -> dict[str, np.ndarray]:
    """Wall to wall, each window by models none of whose training windows shares a pixel with it.

    Where the windows lie: `mapwindows`. Near the border of two tiles a pixel is a blend of windows
    by the models of both folds, each of which trained on no pixel of its own windows.

    Returns:
      {"mean", "scale", "reference"}: f32 [H,W], blended alike; NaN where no such window exists.

    Raises:
      DataError: none exists anywhere. CubeError: a window that cannot be read.
    """
    prepared = folds.prepared
    size = prepared.experiment.data.window
    target = prepared.cube.target(prepared.experiment.data.target.name)
    windows = map_windows(folds)
    fold_of = np.full(prepared.fold_map.shape, -1)
    fold_of[windows.table.y, windows.table.x] = windows.fold

    def fn(y: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        table = WindowTable(y, x, size)
        fold = fold_of[y, x]
        mean, scale = np.empty(len(y)), np.empty(len(y))
        for f, models in held_out.models.items():
            here = np.flatnonzero(fold == f)
            if len(here):
                source = CubeSource.of(
                    prepared.processor, prepared.cube, table, rows=here, error_budget=0.0
                )
                mean[here], scale[here] = mixture([m.regress_source(source) for m in models])
        reference, _ = target_means(target, table, 0.0)
        return {"mean": mean, "scale": scale, "reference": reference}

    shape = (prepared.cube.grid.height, prepared.cube.grid.width)
    digests = [m.digest for f in sorted(held_out.models) for m in held_out.models[f]]
    made, _ = tiles(
        shape,
        fn,
        out,
        key=" ".join([prepared.cube.digest(), *digests]),
        tile=size,
        overlap=size // 2,
        windows=(windows.table.y, windows.table.x),
        progress=progress,
    )
    return made


def map_windows(folds: Folds) -> MapWindows:
    """Half-overlapping windows of the map, each with the fold whose models may predict it."""
    prepared = folds.prepared
    size, buffer = prepared.experiment.data.window, prepared.experiment.data.split.buffer
    tables = prepared.train_table, prepared.eval_table
    training = {
        f: tables[0].take(split(*tables, prepared.fold_map, f, buffer=buffer).train)
        for f in range(folds.count)
    }
    starts = (window_starts(n, size, size - size // 2) for n in prepared.fold_map.shape)
    y, x = (a.ravel() for a in np.meshgrid(*starts, indexing="ij"))
    return held_out_windows(WindowTable(y, x, size), training, prepared.fold_map)


def _fold(experiment: Experiment, fold: int, member: int = 0) -> Experiment:
    split = dataclasses.replace(experiment.data.split, fold=fold)
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, split=split),
        train=dataclasses.replace(experiment.train, seed=experiment.train.seed + member),
    )


def _first_seconds(file: Path, seconds: float) -> float:
    """What the file says; it is written by the call that did the work."""
    if not file.exists():
        write_atomic(file, f"{seconds:.3f}\n")
    return float(file.read_text())


class _Total:
    """One bar for all jobs."""

    def __init__(self, name: str, total: int, progress: Progress | None) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._done: dict[tuple[int, int], int] = {}

    def step(self, job: tuple[int, int], step: int, steps: int, metrics: Any) -> None:
        self._done[job] = step
        if self._progress is not None:
            self._progress(self._name, sum(self._done.values()), self._total, metrics)

    def finish(self, job: tuple[int, int], steps: int) -> None:
        self._done[job] = steps
        if self._progress is not None:
            self._progress(self._name, sum(self._done.values()), self._total, None)
