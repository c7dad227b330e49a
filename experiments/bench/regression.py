"""The shipped real cubes: the model with its decoder beside the baselines, on the same folds.

    python -m experiments.bench regression              # all stories
    python -m experiments.bench regression:fuel_s1s2    # one

    fuel, fuel_s1s2   live fuel moisture at Presto's own test places      RMSE in percent
    gpp               gross primary production at flux towers not seen    R2
    treecover         tree cover, spatial folds                           R2
    radar             greenness from radar, spatial folds                 R2

All is done by `rsvlm_jax.evaluate.benchmark`: models of several seeds are averaged, and averages
are what calibrates their intervals, on training folds where the split is given. Runs are
restartable, under `RSVLM_BENCH_RUNS`; what was found is written there, with the experiment.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_zarr.splits import Split
from data_zarr.splits.report import distances_of
from experiments import demo_treecover, fuel_moisture, hls_gpp, spain_radar
from rsvlm_jax.config import DataError, Experiment, to_dict
from rsvlm_jax.evaluate.benchmark.bench import BenchRequest, bench_regression
from rsvlm_jax.evaluate.benchmark.deals import DealOptions, deal
from rsvlm_jax.evaluate.benchmark.task import Task

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench"))
BASELINES = ("mean", "ridge", "random_forest", "boosting")
FORESTS = (*BASELINES, "quantile_forest")
TEN_FOLDS = DealOptions(calibration_folds=10)
"""By positions alone, which `nearest` figures say: the given test places lie nearer to training
places than what three folds of those hold out, and ten folds hold out nearer ones than three do."""


@dataclasses.dataclass(frozen=True)
class Story:
    """A cube, how it is dealt, and the figure to reach (issue 8).

    Attributes:
      split: as `rsvlm bench regression --splits` takes it.
      members: seeds that are averaged.
    """

    experiment: Experiment
    split: str
    members: int
    metric: Literal["rmse", "r2"]
    gate: float
    baselines: tuple[str, ...] = BASELINES
    deal: DealOptions = dataclasses.field(default_factory=DealOptions)


STORIES = {
    "fuel": Story(
        fuel_moisture.experiment("all"), "given:is_test", 4, "rmse", 25.5, FORESTS, TEN_FOLDS
    ),
    "fuel_s1s2": Story(
        fuel_moisture.experiment("s1s2"), "given:is_test", 4, "rmse", 31.6, FORESTS, TEN_FOLDS
    ),
    "gpp": Story(
        hls_gpp.experiment(), "group:site_name", 4, "r2", 0.69, (*BASELINES, "galileo_ridge")
    ),
    "treecover": Story(demo_treecover.experiment(), "spatial", 3, "r2", 0.89),
    "radar": Story(
        spain_radar.experiment(), "spatial", 3, "r2", 0.74, (*BASELINES, "galileo_ridge")
    ),
}


class Quiet:
    """A reporter that says nothing."""

    def update(self, name: str, done: int, total: int, metrics: Any = None) -> None: ...
    def say(self, what: Any) -> None: ...


def figures(story: str | None = None) -> Iterator[Figure]:
    """Of one story, or of all."""
    if story is not None and story not in STORIES:
        raise DataError("no such story", expected=", ".join(STORIES), found=story)
    for name in (story,) if story else STORIES:
        yield from _figures(name, STORIES[name])


def _nearness(name: str, story: Story) -> Iterator[Figure]:
    """Of a given split, the median distance (km) of held-out rows to the next training place: of
    the test places, and of what three and as many folds as are used hold out of the others."""
    task = Task.of(story.experiment)
    for folds in (3, story.deal.calibration_folds):
        dealt = deal(task, story.split, DealOptions(calibration_folds=folds))
        near = [_nearest(task, split) / 1000 for split in dealt.splits]
        if folds == 3:
            yield Figure(f"{name}.nearest.test", float(np.median(near[0])), "km")
        found = float(np.median(np.concatenate(near[1:])))
        yield Figure(f"{name}.nearest.{folds}_folds", found, "km")


def _nearest(task: Task, split: Split) -> np.ndarray:
    train, test = task.training.take(split.train), task.evaluation.take(split.test)
    return distances_of(train, test, task.cube.grid)


def _figures(name: str, story: Story) -> Iterator[Figure]:
    made = story.experiment
    kept: dict[str, Any] = {"members": story.members, "experiment": to_dict(made)}
    # Ours with its members; baselines once each, as nobody averages forests.
    models = ("rsvlm", *story.baselines)
    request = BenchRequest(
        (made,), models, (story.split,), story.members, story.deal, once=story.baselines
    )
    found = bench_regression(request, RUNS / name, reporter=Quiet())
    rows = {row["model"]: row for row in found["table"]}
    pairs = [row for row in found["pairs"] if row["model"] == "rsvlm"]
    kept |= {"split": found["splits"], "table": found["table"], "pairs": pairs}
    (RUNS / f"regression_{name}.json").write_text(json.dumps(kept, indent=2) + "\n")
    ours = rows["rsvlm"]
    unit, gate = "-", {"at_least": story.gate}
    if story.metric == "rmse":
        unit, gate = "%", {"at_most": story.gate}
    yield Figure(f"{name}.{story.metric}.rsvlm", ours[story.metric], unit, **gate)
    for end in ("lo", "hi"):
        yield Figure(f"{name}.{story.metric}.rsvlm_{end}", ours[f"{story.metric}_{end}"], unit)
    for other in story.baselines:
        yield Figure(f"{name}.{story.metric}.{other}", rows[other][story.metric], unit)
    yield Figure(f"{name}.rmse.rsvlm_one_member", ours["rmse_seed"])
    yield Figure(f"{name}.rmse.rsvlm_averaged", ours["rmse"])
    yield Figure(f"{name}.coverage90", ours["picp90"])
    yield Figure(f"{name}.coverage90_lo", ours["picp90_site_lo"], "-", at_most=0.9)
    yield Figure(f"{name}.coverage90_hi", ours["picp90_site_hi"], "-", at_least=0.9)
    yield Figure(f"{name}.width90", ours["width90"])
    if story.split.startswith("given:"):
        yield from _nearness(name, story)
    for row in pairs:
        if row["metric"] == "crps":
            what = f"{name}.crps.rsvlm_minus.{row['reference'].replace(', ', '_')}"
            for key in ("difference", "lo", "hi", "p_holm"):
                yield Figure(f"{what}.{key}", row[key], "-" if key == "p_holm" else unit)
