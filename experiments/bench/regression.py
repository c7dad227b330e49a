"""Fuel moisture at the given test places: the model with its decoder, beside ridge and forest.

    python -m experiments.bench regression              # both stories
    python -m experiments.bench regression:fuel_s1s2    # one: fuel, fuel_s1s2

Models of several seeds learn from all training places and are averaged. Intervals are conformal:
scores come from folds of the training places, whole sites, one seed a fold; the test places take no
part. Coverage has an interval of its own, by resampling test places. Runs are restartable, under
`RSVLM_BENCH_RUNS`; what was found is written there, with the experiment.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_zarr.cube import Cube
from experiments.fuel_moisture import experiment
from rsvlm_jax.config import DataError, Experiment, to_dict
from rsvlm_jax.evaluate.baselines import features, random_forest, ridge
from rsvlm_jax.evaluate.crossval import Folds, cross_validate, mixture
from rsvlm_jax.metrics.conformal import interval
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import ALPHA, Numbers, load_run

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench"))
MEMBERS = 4
GATES = {"fuel": 25.5, "fuel_s1s2": 31.6}
"""RMSE in percent, of issue 8."""


def figures(story: str | None = None) -> Iterator[Figure]:
    """Of one story, or of all."""
    if story is not None and story not in GATES:
        raise DataError("no such story", expected=", ".join(GATES), found=story)
    for name in (story,) if story else GATES:
        yield from _story(name)


def _story(name: str) -> Iterator[Figure]:
    made = experiment("all" if name == "fuel" else "s1s2")
    out = RUNS / made.name
    prepared = prepare(made)
    test = prepared.test
    y, place = test.target.astype(np.float64), prepared.cube.labels["site_name"][test.rows]
    members = [load_run(fit(_seed(made, m), out=out / f"seed{m}").path) for m in range(MEMBERS)]
    numbers = [m.regress_source(test) for m in members]
    mean, scale = mixture(numbers)
    scores = _scores(made, out)
    lo, hi = interval(mean, scale, scores, ALPHA, prepared.processor.target.bounds)
    inside = (lo <= y) & (y <= hi)
    low, high = _by_place(inside, place)

    rows = {"rsvlm": _rmse(mean, y), "rsvlm_one_member": _one(numbers, y)}
    x = np.concatenate(
        [features(prepared.cube, made.model.inputs, prepared.eval_table), _month(prepared.cube)], 1
    )
    train = prepared.train.rows
    groups, known = prepared.fold_map[train, 0], prepared.train.target.astype(np.float64)
    for baseline in (ridge, random_forest):
        found = baseline(x[train], known, groups, x[test.rows])
        rows[baseline.__name__] = _rmse(found, y)
    rows["mean"] = _rmse(np.full(len(y), known.mean()), y)
    kept = {
        "n": len(y), "rmse": rows, "r2": 1 - (rows["rsvlm"] / y.std()) ** 2,
        "coverage90": [float(inside.mean()), low, high], "width90": float((hi - lo).mean()),
        "members": MEMBERS, "experiment": to_dict(made),
    }  # fmt: skip
    (RUNS / f"{made.name}.json").write_text(json.dumps(kept, indent=2) + "\n")
    yield Figure(f"{name}.rmse.rsvlm", rows["rsvlm"], "%", at_most=GATES[name])
    for other in list(rows)[1:]:
        yield Figure(f"{name}.rmse.{other}", rows[other], "%")
    yield Figure(f"{name}.r2.rsvlm", kept["r2"])
    yield Figure(f"{name}.coverage90", float(inside.mean()))
    yield Figure(f"{name}.coverage90_lo", low, "-", at_most=0.9)
    yield Figure(f"{name}.coverage90_hi", high, "-", at_least=0.9)
    yield Figure(f"{name}.width90", kept["width90"], "%")


def _seed(made: Experiment, seed: int) -> Experiment:
    return dataclasses.replace(made, train=dataclasses.replace(made.train, seed=seed))


def _scores(made: Experiment, out: Path) -> np.ndarray:
    """Absolute errors over spread of training places, each by a model of other places."""
    folds = Folds.of(made)
    found = cross_validate(made, folds, out / "folds", name=made.name, members=1, workers=1)
    return np.abs(folds.y - found.mean) / found.scale


def _month(cube: Cube) -> np.ndarray:
    """Sine and cosine of the day of year of each date, [S, 2 T]: what a baseline sees of it."""
    dates = cube.bandsets["s2_l1c"].dates
    day = (dates - dates.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    angle = 2 * np.pi * day.T / 365.2425
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def _by_place(inside: np.ndarray, place: np.ndarray, repeats: int = 2000) -> tuple[float, float]:
    """95 % interval of the coverage, whole places drawn again."""
    _, of = np.unique(place, return_inverse=True)
    hits, count = np.bincount(of, inside), np.bincount(of)
    drawn = np.random.default_rng(0).integers(0, len(count), (repeats, len(count)))
    shares = hits[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def _one(numbers: list[Numbers], y: np.ndarray) -> float:
    return float(np.mean([_rmse(n.mean, y) for n in numbers]))


def _rmse(found: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - y) ** 2)))
