"""What each part gave on real cubes: encoder in front, its training, readout, averages, members.

    python -m experiments.bench front_ablations          # carbon uptake, fuel moisture
    python -m experiments.bench front_ablations:gpp      # one

Every change is one model more on the same folds of sites, of one seed, beside the experiment of one
seed (`base`) and of several members, averaged. Differences of RMSE are paired over sites and in
brackets 95 % of a bootstrap: a change that ends above `base` says what was lost without the part.
What single seeds differ by (`rmse_seed_sd`) is chance that the bootstrap of sites does not know.
Fuel moisture is dealt to three folds of all its places, not as in `regression:fuel`. For knowledge
alone: no experiment was changed by what is found here. Restartable, under `RSVLM_BENCH_RUNS`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Literal

from experiments import fuel_moisture, hls_gpp
from rsvlm_jax.config import (
    DataError,
    EncodersConfig,
    Experiment,
    GalileoConfig,
    GroupConfig,
    InputConfig,
    PrestoConfig,
)
from rsvlm_jax.evaluate.benchmark.bench import BenchRequest, bench_regression
from rsvlm_jax.evaluate.benchmark.deals import DealOptions

from .figure import Figure
from .regression import RUNS, Quiet

MEMBERS = 4
FOLDS = {"gpp": 5, "fuel": 3}
READOUT = 0.05
"""Of encoders in front of fuel moisture: as `experiments/hls_gpp.py`, not chosen anew."""

FINE = 0.1
"""Share of the learning rate of an encoder that is fine-tuned."""
DECODER = "decoder=asset:stories260k"


def experiments(story: str) -> dict[str, Experiment]:
    """`base` and what is changed in it, one thing at a time."""
    made = _gpp() if story == "gpp" else _fuel()
    return {name: dataclasses.replace(one, name=name) for name, one in made.items()}


def figures(story: str | None = None) -> Iterator[Figure]:
    """Of one story, or of both."""
    if story is not None and story not in FOLDS:
        raise DataError("no such story", expected=", ".join(FOLDS), found=story)
    for name in (story,) if story else FOLDS:
        yield from _figures(name)


def _figures(story: str) -> Iterator[Figure]:
    made = experiments(story)
    names = tuple(f"rsvlm_{name}" for name in made)
    request = BenchRequest(
        (made["base"], *made.values()),
        ("rsvlm",),
        ("group:site_name",),
        MEMBERS,
        DealOptions(folds=FOLDS[story]),
        once=names,
    )
    found = bench_regression(request, RUNS / "front_ablations" / story, reporter=Quiet())
    rows = {row["model"].removeprefix("rsvlm_"): row for row in found["table"]}
    pairs = [
        row
        for row in found["pairs"]
        if row["metric"] == "rmse" and "rsvlm_base" in (row["model"], row["reference"])
    ]
    kept = {"members": MEMBERS, "split": found["splits"], "table": found["table"], "pairs": pairs}
    (RUNS / f"front_ablations_{story}.json").write_text(json.dumps(kept, indent=2) + "\n")
    for name, row in rows.items():
        what = f"front_ablations.{story}." + ("members" if name == "rsvlm" else name)
        for key in ("r2", "rmse", "crps"):
            yield Figure(f"{what}.{key}", row[key])
        if name == "rsvlm":
            yield Figure(f"{what}.rmse_seed", row["rmse_seed"])
            yield Figure(f"{what}.rmse_seed_sd", row["rmse_seed_sd"])
    for row in pairs:
        other, sign = row["reference"], -1
        if other == "rsvlm_base":
            other, sign = row["model"], 1
        ends = sorted(sign * row[k] for k in ("lo", "hi"))
        word = "members" if other == "rsvlm" else other.removeprefix("rsvlm_")
        what = f"front_ablations.{story}.{word}.rmse_over_base"
        yield Figure(what, sign * row["difference"])
        yield Figure(f"{what}_lo", ends[0])
        yield Figure(f"{what}_hi", ends[1])


def _gpp() -> dict[str, Experiment]:
    base = hls_gpp.experiment()
    pixel = (InputConfig("hls_sr6", "pixel", dates=1, bins=12),)
    presto = (InputConfig("hls_sr6", "presto", dates=1),)
    bare = _head(_inputs(base, pixel), readout=0.0)  # such tokens say nothing before training
    return {
        "base": base,
        "without_pretraining": _starting(_tuned(base, "galileo", 1.0), DECODER),
        "fine_tuned": _tuned(base, "galileo", FINE),
        "without_encoder": _starting(_tuned(bare, None), DECODER),
        "presto": _encoded(base, "presto", presto, 1),
        "without_readout": _head(base, readout=0.0),
        "without_average": _average(base, None),
    }


def _fuel() -> dict[str, Experiment]:
    base = fuel_moisture.experiment("all")
    made = {"base": base}
    for kind in ("presto", "galileo"):
        read = tuple(InputConfig(i.bandset, kind, dates=i.dates) for i in base.model.inputs)
        made[kind] = _encoded(base, kind, read, 3)
    return {
        **made,
        "presto_fine_tuned": _tuned(made["presto"], "presto", FINE),
        "without_average": _average(base, None),
    }


def _encoded(
    base: Experiment, kind: Literal["galileo", "presto"], read: tuple[InputConfig, ...], steps: int
) -> Experiment:
    """All inputs by one pretrained encoder, frozen, and a readout of its mean token."""
    assert base.model.head is not None
    model = dataclasses.replace(
        base.model,
        inputs=read,
        encoders=EncodersConfig(
            galileo=GalileoConfig(patch_size=1, steps=steps), presto=PrestoConfig(steps=steps)
        ),
        vision=dataclasses.replace(base.model.vision, width=128),
        temporal=dataclasses.replace(base.model.temporal, budget=1, token_dropout=0.0),
        head=dataclasses.replace(base.model.head, readout=READOUT),
    )
    source = {"galileo": "galileo_nano", "presto": "presto"}[kind]
    start = f"encoders/{kind}=asset:{source},{DECODER}"
    return _starting(_tuned(dataclasses.replace(base, model=model), kind), start)


def _tuned(base: Experiment, kind: str | None, scale: float = 0.0) -> Experiment:
    """With that share of the learning rate for the encoder; None: there is none."""
    encoder = () if kind is None else (GroupConfig(f"/{kind}/encoder/", scale),)
    groups = (*encoder, GroupConfig("^decoder/", 0.3))
    return dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, groups=groups))


def _average(base: Experiment, decay: float | None) -> Experiment:
    return dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, ema=decay))


def _starting(base: Experiment, source: str) -> Experiment:
    return dataclasses.replace(base, init_from=source)


def _inputs(base: Experiment, read: tuple[InputConfig, ...]) -> Experiment:
    return dataclasses.replace(base, model=dataclasses.replace(base.model, inputs=read))


def _head(base: Experiment, *, readout: float) -> Experiment:
    assert base.model.head is not None
    head = dataclasses.replace(base.model.head, readout=readout)
    return dataclasses.replace(base, model=dataclasses.replace(base.model, head=head))
