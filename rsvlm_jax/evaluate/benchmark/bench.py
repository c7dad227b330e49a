"""`bench_regression`: train and score every model on every split, take up what is done, report.

    OUT/cells/     predictions, one file a model, split, fold and seed
    OUT/runs/      run directories of experiments
    OUT/report/    the tables, pictures and page of the last call

A second call with other models adds cells and writes the report of what it was asked for. A killed
call goes on where it stopped; the table is then the same but for the seconds of the cell that was
cut.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsvlm_jax.config import ConfigError, Experiment, Preempted
from rsvlm_jax.evaluate.crossval import AGAIN
from rsvlm_jax.evaluate.demo import Reporter
from rsvlm_jax.evaluate.report import rich_table
from rsvlm_jax.run.rundir import locked

from .cells import Cell, Guess, Model, guess_of, is_done
from .deals import Deal, DealOptions, deal
from .models import models_of
from .report import write_bench_report
from .scoring import Scored, pooled, scored
from .tables import pair_rows
from .task import Task


@dataclasses.dataclass(frozen=True)
class BenchRequest:
    """What is asked for.

    Attributes:
      experiments: the first says cube, target, inputs and windows, and is the row `rsvlm`.
      models: names of rows (`models.NAMES`), or ("all",).
      splits: names of splits (`deals`); empty: spatial, of places without positions by site_name.
      seeds: of every model that has one; they are mixed into one prediction.
      once: names of models of one seed, whatever `seeds` says.
      edges: of the bins of the target; empty: five bins of as many windows each.
      command: that makes this again, for the report.
    """

    experiments: tuple[Experiment, ...]
    models: tuple[str, ...]
    splits: tuple[str, ...] = ()
    seeds: int = 1
    options: DealOptions = dataclasses.field(default_factory=DealOptions)
    edges: tuple[float, ...] = ()
    command: str = ""
    once: tuple[str, ...] = ()


def bench_regression(
    request: BenchRequest,
    out: Path,
    *,
    reporter: Reporter,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Do it in `out`, alone there.

    Returns:
      {table, pairs, splits, left_out, cells {made, found}, report}; the rows of `table` are
      `COLUMNS` of `evaluate.regression` and more, and begin with `rsvlm` where the decoder was
      passed through; those of `pairs` are `tables.pair_rows`.

    Raises:
      ConfigError: a wrong request, or `out` is in use. DataError, CubeError: the data.
      Preempted: `stop` said so; what is done is kept.
    """
    if request.seeds < 1:
        raise ConfigError("no seed", where="--seeds", expected=">= 1", found=request.seeds)
    if request.options.seed < 0:
        raise ConfigError("no seed", where="--seed", expected=">= 0", found=request.options.seed)
    _check_edges(request.edges)
    task = Task.of(request.experiments[0])
    deals = [
        deal(task, name, request.options) for name in dict.fromkeys(request.splits or _splits(task))
    ]
    models, left_out = models_of(task, request.models, request.experiments)
    for name, why in left_out.items():
        reporter.say(f"left out: {name}: {why}")
    with locked(out):
        results, made, found = _compute(task, deals, models, request, out, reporter, stop)
        for one in deals:
            rows = [r.row for r in results if r.deal is one]
            reporter.say(rich_table(rows, f"{task.words}, {one.words}"))
        facts = {"left_out": left_out, "command": request.command, "edges": request.edges}
        report = write_bench_report(out / "report", task, deals, results, facts)
    return {
        "table": [r.row for r in results],
        "pairs": pair_rows(results),
        "splits": [
            {"name": d.name, "words": d.words, "leaks": list(d.leaks), "folds": len(d.splits)}
            for d in deals
        ],
        "left_out": left_out,
        "cells": {"made": made, "found": found},
        "report": str(report),
    }


def _splits(task: Task) -> tuple[str, ...]:
    """Those of a request that names none."""
    if task.cube.points and "site_name" in task.cube.labels:
        return ("group:site_name",)
    return ("spatial",)


def _compute(
    task: Task,
    deals: Sequence[Deal],
    models: Sequence[Model],
    request: BenchRequest,
    out: Path,
    reporter: Reporter,
    stop: Callable[[], bool] | None,
) -> tuple[list[Scored], int, int]:
    """All cells, scored; and how many were made and found."""
    jobs = [
        (d, m, fold, seed)
        for d in deals
        for m in models
        for seed in range(request.seeds if m.seeded and m.name not in request.once else 1)
        for fold in range(len(d.splits))
    ]
    guesses: dict[tuple[str, str], dict[tuple[int, int], Guess]] = {}
    made = 0
    for done, (d, m, fold, seed) in enumerate(jobs):
        if stop is not None and stop():
            raise Preempted(f"stopped in {out} after {done} of {len(jobs)} cells", remedy=AGAIN)
        title = f"{m.name} {d.name} fold {fold}" + (f" seed {seed}" if request.seeds > 1 else "")
        bar = functools.partial(reporter.update, title)
        cell = Cell(task, d, fold, seed, out / "runs", bar, stop)
        made += not is_done(out, m, cell)
        guesses.setdefault((d.name, m.name), {})[fold, seed] = guess_of(out, m, cell)
        reporter.update("cells", done + 1, len(jobs))
    results = [
        scored(task, d, m, pooled(d, guesses[d.name, m.name])) for d in deals for m in models
    ]
    return results, made, len(jobs) - made


def _check_edges(edges: Sequence[float]) -> None:
    if edges and (len(edges) < 2 or sorted(set(edges)) != list(edges)):
        raise ConfigError(
            "no bins",
            where="--bins",
            expected="two or more edges, ascending",
            found=", ".join(f"{e:g}" for e in edges),
        )
