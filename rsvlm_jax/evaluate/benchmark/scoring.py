"""From cells to rows: seeds mixed, folds pooled, intervals calibrated, all models alike.

    {(fold, seed): Guess} --pooled--> Pooled [n] --scored--> Scored: row, intervals, own intervals

Seeds are members of one prediction: means are averaged, spreads are those of the mixture,
quantiles are averaged level by level; what single seeds reach stands beside it. Calibration is
cross-conformal (`evaluate.conformal`), whatever a model says of itself; its own intervals are
scored beside that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsvlm_jax.evaluate.conformal import cross_conformal, cross_quantiles
from rsvlm_jax.evaluate.regression import ALPHA, OutOfFold, Row, out_of_fold, score, within
from rsvlm_jax.metrics import (
    crps_quantiles,
    interval_score,
    metric_intervals,
    picp,
    ratio,
    width,
)
from rsvlm_jax.metrics.conformal import known, least_size

from .cells import LEVELS, Guess, Model
from .deals import Deal
from .task import Task

CONFORMAL_LEVELS = (0.5, 0.8, 0.9, 0.95)
RELIABILITY = tuple(np.round(np.arange(1, 20) / 20, 2))


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Out-of-fold predictions of a model [n], NaN where a row is in no fold; see `Guess`.

    Attributes:
      crps: mean over seeds, which is no less than that of their mixture.
      singles: [seeds, n], means of the single seeds.
      train_seconds, predict_seconds: sums over folds, means over seeds.
    """

    mean: np.ndarray
    scale: np.ndarray | None
    quantiles: np.ndarray | None
    lo: np.ndarray | None
    hi: np.ndarray | None
    crps: np.ndarray | None
    singles: np.ndarray
    train_seconds: float
    predict_seconds: float
    parameters: int


@dataclasses.dataclass(frozen=True)
class Scored:
    """A model on a split: all arrays are of the scored rows.

    Attributes:
      row: of the table.
      calibration: rows `model split kind level picp width interval_score`; kind is "conformal",
        "own" (the model's quantiles or ends as they are), or "cqr" (its ends conformalised).
      reliability: nominal level -> observed share, conformal.
      own_reliability: likewise by the model's own quantiles; None: it has none.
    """

    model: Model
    deal: Deal
    row: Row
    y: np.ndarray
    oof: OutOfFold
    pooled: Pooled
    rows: np.ndarray
    calibration: list[Row]
    reliability: dict[float, float]
    own_reliability: dict[float, float] | None


def pooled(deal: Deal, guesses: Mapping[tuple[int, int], Guess]) -> Pooled:
    """Mix seeds, pool folds."""
    n, seeds = len(deal.fold), sorted({s for _, s in guesses})
    parts: dict[str, np.ndarray] = {}
    singles = np.full((len(seeds), n), np.nan)
    for fold, split in enumerate(deal.splits):
        made = [guesses[fold, s] for s in seeds]
        singles[:, split.test] = np.stack([g.mean for g in made])
        for name, values in _mixed(made).items():
            out = parts.setdefault(name, np.full((n, *values.shape[1:]), np.nan))
            out[split.test] = values
    train, predict = (
        sum(getattr(g, k) for g in guesses.values()) / len(seeds)
        for k in ("train_seconds", "predict_seconds")
    )
    return Pooled(
        mean=parts["mean"],
        scale=parts.get("scale"),
        quantiles=parts.get("quantiles"),
        lo=parts.get("lo"),
        hi=parts.get("hi"),
        crps=parts.get("crps"),
        singles=singles,
        train_seconds=train,
        predict_seconds=predict,
        parameters=max(g.parameters for g in guesses.values()),
    )


def _mixed(made: list[Guess]) -> dict[str, np.ndarray]:
    means = np.stack([g.mean for g in made])
    out = {"mean": means.mean(axis=0)}
    for name in ("quantiles", "lo", "hi", "crps"):
        if all(getattr(g, name) is not None for g in made):
            out[name] = np.mean([getattr(g, name) for g in made], axis=0)
    scales = [g.scale for g in made if g.scale is not None]
    if len(scales) == len(made):
        second = np.mean(np.square(scales), axis=0) + means.var(axis=0)
        out["scale"] = np.sqrt(second)
    return out


def scored(task: Task, deal: Deal, model: Model, made: Pooled) -> Scored:
    """Calibrate and score a model on a split."""
    bounds = task.target.bounds
    held = deal.fold >= 0  # with a buffer some rows may be in no fold
    y, fold = within(task.y, bounds)[held], deal.fold[held]
    mean, scale = made.mean[held], None if made.scale is None else made.scale[held]
    seconds = (made.train_seconds + made.predict_seconds) * len(made.singles)
    whole = out_of_fold(y, mean, scale, fold, seconds, bounds)
    keep = deal.scored[held]
    oof = OutOfFold(
        mean=whole.mean[keep],
        scale=None if whole.scale is None else whole.scale[keep],
        lo=whole.lo[keep],
        hi=whole.hi[keep],
        scores=whole.scores[keep],
        crps=whole.crps[keep],
        seconds=seconds,
    )
    y, rows = y[keep], np.flatnonzero(held)[keep]
    name = f"{deal.name} (leaks)" if deal.leaks else deal.name
    row = score(model.name, name, y, oof)
    inside = (oof.lo <= y) & (y <= oof.hi)
    row |= metric_intervals(y, oof.mean, inside, deal.site[rows])
    row |= _own(y, made, rows) | _seeds(y, made, rows, bounds)
    calibration, reliability = [], {}
    others = min(len(known(whole.scores[fold != f])) for f in np.unique(fold))
    for level in sorted({*CONFORMAL_LEVELS, *RELIABILITY}):
        if others < least_size(1 - level):
            continue  # no score is large enough: there is no such interval
        lo, hi, _ = cross_conformal(
            within(task.y, bounds)[held], whole.mean, whole.scale, fold, 1 - level, bounds
        )
        lo, hi = lo[keep], hi[keep]
        if level in CONFORMAL_LEVELS:
            calibration.append(_level(model.name, name, "conformal", level, y, lo, hi))
        reliability[float(level)] = float(ratio(picp(y, lo, hi)))
    own = None
    if made.quantiles is not None:
        q = made.quantiles[rows]
        own = {}
        for i in range(len(LEVELS) // 2):
            lo, hi, level = q[:, i], q[:, -1 - i], float(LEVELS[-1 - i] - LEVELS[i])
            calibration.append(_level(model.name, name, "own", level, y, lo, hi))
            own[level] = float(ratio(picp(y, lo, hi)))
    elif made.lo is not None and made.hi is not None:
        ends = made.lo[rows], made.hi[rows]
        calibration.append(_level(model.name, name, "own", 0.9, y, *ends))
    if made.lo is not None and made.hi is not None:
        ends = made.lo[held], made.hi[held]
        moved = cross_quantiles(within(task.y, bounds)[held], *ends, fold, ALPHA, bounds)
        calibration.append(_level(model.name, name, "cqr", 1 - ALPHA, y, *(e[keep] for e in moved)))
    return Scored(
        model, deal, row, y, oof, made, rows, calibration, reliability, own
    )  # fmt: skip


def _own(y: np.ndarray, made: Pooled, rows: np.ndarray) -> dict[str, float]:
    """Coverage, width and CRPS of what a model says of itself; NaN where it says nothing."""
    nan = float("nan")
    out = {"own_picp90": nan, "own_width90": nan, "own_crps": nan}
    if made.lo is not None and made.hi is not None:
        lo, hi = made.lo[rows], made.hi[rows]
        out["own_picp90"] = float(ratio(picp(y, lo, hi)))
        out["own_width90"] = float(ratio(width(lo, hi)))
    if made.quantiles is not None:
        out["own_crps"] = float(ratio(crps_quantiles(y, made.quantiles[rows], LEVELS)))
    elif made.crps is not None:
        out["own_crps"] = float(made.crps[rows].mean())
    return out


def _seeds(y: np.ndarray, made: Pooled, rows: np.ndarray, bounds: Any) -> dict[str, Any]:
    """What single seeds reach."""
    singles = made.singles[:, rows]
    singles = singles if bounds is None else np.clip(singles, *bounds)
    each = np.sqrt(np.mean((singles - y) ** 2, axis=1))
    spread = float(np.std(each, ddof=1)) if len(each) > 1 else float("nan")
    return {"seeds": len(each), "rmse_seed": float(each.mean()), "rmse_seed_sd": spread}


def _level(
    model: str, split: str, kind: str, level: float, y: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> Row:
    alpha = 1 - level
    return {
        "model": model,
        "split": split,
        "kind": kind,
        "level": round(float(level), 4),
        "picp": float(ratio(picp(y, lo, hi))),
        "width": float(ratio(width(lo, hi))),
        "interval_score": float(ratio(interval_score(y, lo, hi, alpha))),
    }
