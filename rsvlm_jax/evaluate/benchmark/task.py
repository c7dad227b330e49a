"""What a benchmark predicts from what: one cube, its inputs, its windows and their target.

All models of a benchmark share one `Task`: the same windows, the same targets, and baselines read
the band sets that the first experiment reads. How the windows are dealt is not here (`deals`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

import numpy as np

from data_zarr.cube import Cube
from data_zarr.sampling import WindowTable, target_means
from rsvlm_jax.config import DataError, Experiment, InputConfig
from rsvlm_jax.data.specs import TargetSpec, target_spec
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.prepare import Prepared, prepare


@dataclasses.dataclass(frozen=True)
class Task:
    """See the module.

    Attributes:
      prepared: of the first experiment, with the two tables below.
      training: windows with a target at the training stride; `y_training` f64 [m].
      evaluation: windows with a target that do not overlap; `y` f64 [n].
    """

    prepared: Prepared
    training: WindowTable
    evaluation: WindowTable
    y_training: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, experiment: Experiment) -> Task:
        """Open, look up, and take the means of the target.

        Raises:
          DataError: no finite target, a constant one, or what the experiment reads is not there.
          ConfigError, CubeError: as `prepare`.
        """
        data = experiment.data
        cube = find_cube(data.cube)
        name = target_spec(cube, data.target).name  # before pixels are looked at
        layer = np.asarray(cube.target(name), np.float64)
        where = f"{cube.path}: target {name!r}"
        known = layer[np.isfinite(layer)]
        if not len(known):
            raise DataError(
                "a target without a finite value",
                where=where,
                expected="numbers in some window",
                found=f"{layer.size} NaN",
            )
        prepared = prepare(without_folds(experiment))
        tables = prepared.train_table, prepared.eval_table
        means = [target_means(layer, t, data.target.min_valid)[0] for t in tables]
        rows = [np.flatnonzero(np.isfinite(m)) for m in means]
        y_training, y = (m[r] for m, r in zip(means, rows, strict=True))
        if len(y) < 2 or not np.ptp(y) > 0:
            raise DataError(
                "a target that does not vary has nothing to regress",
                where=where,
                expected="at least two values in the evaluation windows",
                found=f"{len(y)} windows" + (f", all {y[0]:g}" if len(y) else ""),
            )
        training, evaluation = (t.take(r) for t, r in zip(tables, rows, strict=True))
        prepared = dataclasses.replace(prepared, train_table=training, eval_table=evaluation)
        return cls(prepared, training, evaluation, y_training, y)

    @property
    def cube(self) -> Cube:
        return self.prepared.cube

    @property
    def inputs(self) -> tuple[InputConfig, ...]:
        return self.prepared.experiment.model.inputs

    @property
    def target(self) -> TargetSpec:
        return self.prepared.processor.target

    @property
    def words(self) -> str:
        """The target, as a person says it."""
        return self.target.long_name or self.target.name

    @functools.cached_property
    def identity(self) -> dict[str, object]:
        """What every prediction depends on, whatever the model: cube, target, windows."""
        return {
            "cube": self.cube.digest(),
            "target": self.target.name,
            "training": self.training.digest(),
            "evaluation": self.evaluation.digest(),
        }


def without_folds(experiment: Experiment) -> Experiment:
    """The same, holding nothing out by itself: the benchmark says what it trains on."""
    split = dataclasses.replace(experiment.data.split, fold=None, group=None, given=None)
    if split.folds > 2:  # a small cube may have fewer tiles than the folds that are not used
        split = dataclasses.replace(split, folds=2, block=1)
    data = dataclasses.replace(experiment.data, split=split)
    return dataclasses.replace(experiment, data=data)


def digest_of(facts: object) -> str:
    """SHA-256 of JSON values, the first 16 digits."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
