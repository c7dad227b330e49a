"""The synthetic world: how much of what can be known does the model find, and from which sensors?

Fold 0 of the full world is held out: 816 windows in tiles of 32 pixels. The oracle knows the law
and sees the same noisy pixels. Members are seeds whose predictions are averaged; `rgb` is the same
model of red, green and blue alone, paired by tile. Bias is predicted minus observed in bins of the
observed biomass: both regress to the mean there, so that ours is held against the oracle's, as a
share of the bin's centre. Intervals are the model's own: nothing calibrates them.

Restartable: finished runs are read.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_zarr.sampling import target_means
from data_zarr.world import oracle
from experiments.synthetic_biomass import series
from rsvlm_jax.config import to_dict
from rsvlm_jax.metrics import by_bin, metric_intervals, paired
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.prepare import prepare
from rsvlm_jax.run.trained import load_run

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench"))
MEMBERS = 2
EDGES = (0.0, 50.0, 100.0, 150.0, 200.0, 300.0, 500.0)
"""Of the bins, Mg/ha: the upper ones are wide, as few windows are there."""


def figures() -> Iterator[Figure]:
    found = {name: _members(name) for name in ("all", "rgb")}
    prepared = prepare(series("all"))
    y = prepared.test.target.astype(np.float64)
    table = prepared.eval_table.take(prepared.test.rows)
    best = target_means(oracle(prepared.cube), table, 0.0)[0]
    block = prepared.experiment.data.split.block or 1
    tile = table.y // block * 10_000 + table.x // block
    mean = {name: f[:, 0].mean(axis=0) for name, f in found.items()}
    scores = {"oracle": _r2(y, best), **{name: _r2(y, m) for name, m in mean.items()}}
    single = [_r2(y, member[0]) for member in found["all"]]
    (pair,) = paired({k: (m - y) ** 2 for k, m in mean.items()}, tile, root=True)
    lo, hi = found["all"][:, 1].mean(axis=0), found["all"][:, 2].mean(axis=0)
    inside = (lo <= y) & (y <= hi)
    spread = metric_intervals(y, mean["all"], inside, tile)
    bins = {"all": by_bin(y, mean["all"], EDGES), "oracle": by_bin(y, best, EDGES)}
    kept = {
        "members": MEMBERS,
        "windows": len(y),
        "scores": scores,
        "r2_of_members": single,
        "intervals": spread,
        "bins": bins,
        "pair": pair,
        "config": to_dict(series("all")),
    }
    (RUNS / "biomass.json").write_text(json.dumps(kept, indent=2, default=float) + "\n")
    for name, value in scores.items():
        yield Figure(f"biomass.r2.{name}", value)
    yield Figure("biomass.r2.all_over_oracle", scores["all"] / scores["oracle"], "-", 0.93)
    yield Figure("biomass.r2.all_one_member", float(np.mean(single)))
    yield Figure("biomass.rmse.all_minus_rgb", pair["difference"], "Mg/ha", at_most=0.0)
    for end in ("lo", "hi"):
        yield Figure(f"biomass.rmse.all_minus_rgb_{end}", pair[end], "Mg/ha")
    yield Figure("biomass.p.all_minus_rgb", pair["p"])
    yield Figure("biomass.coverage90", float(inside.mean()))
    yield Figure("biomass.coverage90_lo", spread["picp90_site_lo"], "-", at_most=0.9)
    yield Figure("biomass.coverage90_hi", spread["picp90_site_hi"], "-", at_least=0.9)
    worst = 0.0
    for mine, theirs in zip(bins["all"], bins["oracle"], strict=True):
        word = f"{mine['low']:g}_{mine['high']:g}"
        share = float(mine["bias"] - theirs["bias"]) / (0.5 * (mine["low"] + mine["high"]))
        worst = max(worst, abs(share))
        yield Figure(f"biomass.windows.{word}", float(mine["n"]))
        yield Figure(f"biomass.bias.oracle.{word}", float(theirs["bias"]), "Mg/ha")
        yield Figure(f"biomass.bias.all.{word}", float(mine["bias"]), "Mg/ha")
        yield Figure(f"biomass.bias.all_minus_oracle.{word}", share, "of_centre")
    yield Figure("biomass.bias.all_minus_oracle.worst", worst, "of_centre", at_most=0.05)


def _members(name: str) -> np.ndarray:
    """Mean, and the ends of the 90 % interval, of every member: [members, 3, windows]."""
    out = []
    for seed in range(MEMBERS):
        made = series("rgb" if name == "rgb" else "all")
        made = dataclasses.replace(made, train=dataclasses.replace(made.train, seed=seed))
        file = RUNS / "biomass" / f"{name}-s{seed}" / "numbers.npy"
        if not file.is_file():
            run = fit(made, out=file.parent)
            found = load_run(run.path).regress_source(prepare(made).test)
            np.save(file, np.stack([found.mean, found.lo, found.hi]))
        out.append(np.load(file))
    return np.stack(out).astype(np.float64)


def _r2(y: np.ndarray, found: np.ndarray) -> float:
    return float(1 - ((y - found) ** 2).sum() / ((y - y.mean()) ** 2).sum())
