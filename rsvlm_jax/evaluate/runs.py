"""Score one run on the windows that it held out, beside baselines trained on the same ones.

Another cube is cut into windows and folds as the run's own would be, and read as the run reads:
its bands by name, refused where they are in another encoding.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_zarr.splits.tiles import tile_map
from rsvlm_jax.config import ConfigError, DataError, Experiment
from rsvlm_jax.data.pipeline import eval_batches
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.metrics import (
    binomial_interval,
    picp,
    ratio,
    regression_table,
    width,
)
from rsvlm_jax.run.prepare import Prepared, prepare
from rsvlm_jax.run.rundir import RunDir, Which, write_atomic
from rsvlm_jax.run.trained import Loaded, Numbers, load_run

from . import pixels, spoken
from . import reliance as reliances
from .baselines import BASELINES, features
from .regression import COLUMNS, EXTRA_COLUMNS, Row
from .report import ReportContext, plain, rich_table, write_report


def evaluate_run(
    path: str | os.PathLike[str],
    *,
    cube: str | None = None,
    baselines: Sequence[str] = ("mean", "ridge", "random_forest"),
    batch_size: int = 64,
    step: Which = None,
    reliance: bool = False,
    answers: int = 0,
    calibrate: bool = False,
) -> dict[str, Any]:
    """Score a run; prints the table and writes RUN/report/ (RUN/report_CUBE/ for another cube).

    Windows that cannot be read are left out of the run's row and counted under "unreadable".
    Intervals are the head's own; on another cube those that the run was calibrated to, if it was
    (on its own cube that would be scored by what it was calibrated on). A dense head is also
    scored pixel by pixel (`rsvlm_jax.evaluate.pixels`), under "pixels" and in pixels.json.
    CRPS is that of the distribution that the head (or the texts of its numbers) gives, whatever its
    form; a dense head gives none of means of windows.
    Baselines have none here, because one held-out fold leaves nothing to calibrate them on.

    Args:
      reliance: what the number relies on (`rsvlm_jax.evaluate.reliance`), under "reliance" and in
        the report's reliance.json.
      answers: windows that are asked about in words, of a run that learned to answer
        (`rsvlm_jax.evaluate.spoken`); under "answers" and in answers.json.
      calibrate: keep the errors on these windows in RUN: intervals of `regress`, of `predict` and
        of answers come from them from then on.

    Raises:
      ConfigError: an unknown baseline, a run that held nothing out, less than no window, or a
        calibration on another cube.
      DataError: a cube whose bands or target are not those of the run.
      CheckpointError, DataError, CubeError: as `load` and `prepare`.
    """
    unknown = [b for b in baselines if b not in BASELINES]
    if unknown:
        raise ConfigError("unknown baseline", expected=" | ".join(BASELINES), found=unknown[0])
    if answers < 0:
        raise ConfigError("less than no window", where="--answers", expected=">= 0", found=answers)
    if calibrate and cube is not None:
        raise ConfigError(
            "a run is calibrated on what it held out", where="--calibrate",
            expected="no --cube", found=cube,
        )  # fmt: skip
    loaded = load_run(path, step=step)
    experiment = loaded.experiment
    if experiment.data.split.fold is None:
        raise ConfigError(
            "the run held nothing out", where=path, remedy="train with --data.split.fold 0"
        )
    another = cube is not None and cube != experiment.data.cube
    if another:
        data = dataclasses.replace(experiment.data, cube=cube)
        experiment = dataclasses.replace(experiment, data=data)
    else:
        loaded = pixels.uncalibrated(loaded)
    prepared = prepare(experiment)
    _same_unit(loaded, prepared)
    test = prepared.source_for(loaded.processor, prepared.eval_table, prepared.split.test)
    y = test.target.astype(np.float64)
    rows = [_baseline(name, prepared, y) for name in baselines]
    start = time.perf_counter()
    numbers = loaded.regress_source(test, batch_size=batch_size)
    seconds = time.perf_counter() - start
    seen = np.isfinite(numbers.mean)
    y, numbers = y[seen], Numbers(*(x[seen] for x in dataclasses.astuple(numbers)))
    hits, n = picp(y, numbers.lo, numbers.hi)
    low, high = binomial_interval(round(float(hits)), round(float(n)))
    intervals = {
        "picp90": float(ratio((hits, n))),
        "width90": float(ratio(width(numbers.lo, numbers.hi))),
        "crps": float(np.mean(numbers.crps)),
        "picp90_lo": low,
        "picp90_hi": high,
    }
    name = "rsvlm" if experiment.model.decoder is not None else "no_lm"
    rows.append(_row(name, prepared, y, numbers.mean, seconds, intervals))
    target = loaded.processor.target
    folder = RunDir(Path(path)).report
    if another:
        folder = Path(path, f"report_{prepared.cube.path.stem}")
    more = _more(loaded, prepared, test, test.rows[seen], reliance, answers, batch_size)
    report = write_report(
        folder,
        rows,
        ReportContext(
            title=f"{experiment.name}: {_held_out(experiment)}",
            target=target.long_name or target.name,
            unit=target.unit,
            cube=f"{prepared.cube.title}, {prepared.cube.digest()[:16]}",
            split=split_words(experiment, points=prepared.cube.points),
            command=f"rsvlm evaluate {path}"
            + (f" --cube {cube}" if another else "")
            + (" --reliance" if reliance else ""),
            notes=tuple(page for _, page in more.values()),
        ),
    )
    for name, (found, _) in more.items():
        write_atomic(folder / f"{name}.json", json.dumps(found, indent=2) + "\n")
    Console(width=None if sys.stdout.isatty() else 140).print(
        rich_table(rows, f"{target.long_name or target.name}")
    )
    if calibrate:
        scores = pixels.calibration_scores(loaded, test, batch_size=batch_size)
        loaded.processor.calibrated(scores).save(RunDir(Path(path)).processor)
    return {
        "step": loaded.step,
        "table": rows,
        "report": str(report),
        "unreadable": test.unreadable,
        **{name: found for name, (found, _) in more.items()},
    }


def _more(
    loaded: Loaded,
    prepared: Prepared,
    test: CubeSource,
    rows: np.ndarray,
    relies: bool,
    answers: int,
    batch_size: int,
) -> dict[str, tuple[Any, str]]:
    """What is asked for beside the table, by name: plain, and as Markdown.

    Args:
      rows: of the evaluation table, those of `test` that could be read.
    """
    made: dict[str, tuple[Any, str]] = {}
    if loaded.experiment.model.is_dense:
        readable = prepared.source_for(loaded.processor, test.table, rows)
        found = pixels.pixel_rows(
            loaded, readable, _site(prepared, readable), batch_size=batch_size
        )
        made["pixels"] = plain(found), pixels.markdown(found)
    if relies:
        readable = prepared.source_for(loaded.processor, test.table, rows)
        found = reliances.reliance(
            loaded, readable, _site(prepared, readable), batch_size=batch_size
        )
        made["reliance"] = plain(found), reliances.markdown(found)
    speaks = loaded.experiment.data.templates == "questions" and loaded.experiment.loss.text > 0
    if answers and speaks:
        source = prepared.source_for(loaded.processor, test.table, rows[:answers])
        with eval_batches(source, loaded.processor, batch_size=len(source), threads=0) as batches:
            counted = spoken.count_answers(loaded, next(batches))
        made["answers"] = counted, spoken.markdown(counted)
    return made


def _site(prepared: Prepared, source: CubeSource) -> np.ndarray:
    """Tile of the split that each window lies in; of a point cube, the site or the value of its
    group: [n], what the bootstrap draws."""
    cube, split = prepared.cube, prepared.experiment.data.split
    table = source.table.take(source.rows)
    if not cube.points:
        tiles = tile_map(cube.grid.height, cube.grid.width, split.block)
        return tiles[table.centre]
    values = np.arange(cube.grid.height) if split.group is None else cube.labels[split.group]
    return np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1)[table.y]


def _held_out(experiment: Experiment) -> str:
    fold = experiment.data.split.fold
    return "given test places" if fold is None else f"fold {fold}"


def split_words(experiment: Experiment, *, points: bool) -> str:
    """How windows are held out, in words; `points`: of a cube of places."""
    s = experiment.data.split
    if s.given is not None:
        return f"the places whose {s.given[0]} is {s.given[1]} held out"
    if points:
        return f"{s.folds} folds of places, " + (
            f"values of {s.group!r} held out whole" if s.group else "each by itself"
        )
    guard = f", guard of {s.buffer:g} windows" if s.buffer else ""
    return f"{s.folds} spatial folds of {s.block}-pixel tiles{guard}"


def _same_unit(loaded: Loaded, prepared: Prepared) -> None:
    mine, theirs = loaded.processor.target, prepared.processor.target
    if mine.unit != theirs.unit:
        raise DataError(
            f"target {theirs.name!r} is in another unit than the run's",
            where=prepared.cube.path,
            expected=mine.unit,
            found=theirs.unit,
        )


def _baseline(name: str, prepared: Prepared, y: np.ndarray) -> Row:
    start = time.perf_counter()
    cube, inputs, train = prepared.cube, prepared.experiment.model.inputs, prepared.train
    training = prepared.train_table.take(train.rows)
    x = features(cube, inputs, training)
    x_test = features(cube, inputs, prepared.eval_table.take(prepared.test.rows))
    groups = prepared.fold_map[training.centre]
    found = BASELINES[name](x, train.target.astype(np.float64), groups, x_test)
    return _row(name, prepared, y, found, time.perf_counter() - start, {})


def _row(
    name: str,
    prepared: Prepared,
    y: np.ndarray,
    mean: np.ndarray,
    seconds: float,
    intervals: dict[str, float],
) -> Row:
    point = {k: float(v) for k, v in regression_table(y, mean).items()}
    known = {
        "model": name,
        "split": _held_out(prepared.experiment),
        **point,
        "n": len(y),
        "seconds": seconds,
        **intervals,
    }
    return {k: known.get(k, float("nan")) for k in (*COLUMNS, *EXTRA_COLUMNS)}
