"""What is computed once: one model on one fold of one split with one seed.

    OUT/cells/ridge-spatial-f0-s0-6c0f....npz     a Guess; the last word is a digest of all that it
                                                  depends on

A cell is written whole or not at all, so that a killed benchmark goes on after the last one and
gives the same table. A file that cannot be read is made again.
"""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsvlm_jax.config import ConfigError, DataError

from .deals import Deal
from .task import Task, digest_of

LEVELS = tuple((np.arange(10) + 0.5) / 10)
"""Levels of quantiles that a model may give: evenly spaced, so that their pinball losses are the
CRPS (`rsvlm_jax.metrics.crps_quantiles`); the first and the last bound 90 %."""


@dataclasses.dataclass(frozen=True)
class Guess:
    """Predictions of the held-out rows of a fold, in ascending order of rows.

    Attributes:
      mean: f64 [m].
      scale: f64 [m], a spread that is larger where errors are; None: the model has none.
      quantiles: f64 [m, 10] at `LEVELS`, the model's own; None: it has none.
      lo, hi: f64 [m], the model's own 90 % interval before any calibration; None: it has none.
      crps: f64 [m], of its own whole distribution; None: it has none, or gives quantiles of it.
      train_seconds, predict_seconds: of this fold and seed, features not counted.
      parameters: numbers that were fitted.
    """

    mean: np.ndarray
    scale: np.ndarray | None = None
    quantiles: np.ndarray | None = None
    lo: np.ndarray | None = None
    hi: np.ndarray | None = None
    crps: np.ndarray | None = None
    train_seconds: float = 0.0
    predict_seconds: float = 0.0
    parameters: int = 0


@dataclasses.dataclass(frozen=True)
class Cell:
    """Where a model is asked: fold `fold` of `deal`, with `seed`.

    Attributes:
      runs: folder for the run directories of models that have such.
    """

    task: Task
    deal: Deal
    fold: int
    seed: int
    runs: Path
    progress: Callable[[int, int, Any], None] | None = None
    stop: Callable[[], bool] | None = None

    @property
    def train(self) -> np.ndarray:
        return self.deal.splits[self.fold].train

    @property
    def test(self) -> np.ndarray:
        return self.deal.splits[self.fold].test


@dataclasses.dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
      name: as in the table.
      about: in words, for the report.
      depends: JSON values that its predictions depend on beside task, rows and seed.
      predict: of a cell.
      seeded: whether another seed gives other predictions.
    """

    name: str
    about: str
    depends: Mapping[str, Any]
    predict: Callable[[Cell], Guess]
    seeded: bool = True


def cell_file(out: Path, model: Model, cell: Cell) -> Path:
    """Where the prediction of a cell is kept."""
    facts = {
        **cell.task.identity,
        "rows": cell.deal.identity(cell.fold),
        "site": digest_of(cell.deal.site_training.tolist()),
        "model": model.name,
        "depends": dict(model.depends),
        "seed": cell.seed,
    }
    words = re.sub(r"[^\w.]+", "_", f"{model.name}-{cell.deal.name}")
    return out / "cells" / f"{words}-f{cell.fold}-s{cell.seed}-{digest_of(facts)}.npz"


def guess_of(out: Path, model: Model, cell: Cell) -> Guess:
    """The prediction of a cell: read, or made and kept.

    Raises:
      DataError: a prediction that is not finite or of another length, named.
      As `model.predict`.
    """
    file = cell_file(out, model, cell)
    found = _read(file)
    if found is None:
        found = _checked(model, cell, model.predict(cell))
        _write(file, found)
    return found


def is_done(out: Path, model: Model, cell: Cell) -> bool:
    """Whether a cell can be read."""
    return _read(cell_file(out, model, cell)) is not None


def _read(file: Path) -> Guess | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            values: dict[str, Any] = {k: arrays[k] for k in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    for name in ("train_seconds", "predict_seconds"):
        values[name] = float(values[name])
    return Guess(**{**values, "parameters": int(values["parameters"])})


def _write(file: Path, guess: Guess) -> None:
    fields = {f.name: getattr(guess, f.name) for f in dataclasses.fields(guess)}
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in fields.items() if v is not None}
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as stream:
            np.savez(stream, **arrays)
        os.replace(part, file)
    except OSError as e:
        raise ConfigError(
            f"cannot write a prediction ({e.strerror})",
            where=file.parent,
            remedy="free space, or another --out, and run again",
        ) from e


def _checked(model: Model, cell: Cell, guess: Guess) -> Guess:
    n = len(cell.test)
    where = f"{model.name}, fold {cell.fold} of {cell.deal.name}, seed {cell.seed}"
    for name in ("mean", "scale", "quantiles", "lo", "hi", "crps"):
        values = getattr(guess, name)
        if values is None:
            continue
        if len(values) != n or not np.isfinite(values).all():
            raise DataError(
                f"a prediction that is no prediction ({name})",
                where=where,
                expected=f"{n} finite numbers",
                found=f"{len(values)}, {int((~np.isfinite(values)).sum())} not finite",
            )
    return guess
