"""What each silent choice of REO-VLM is worth: our reading of it, and that with one thing changed.

    rsvlm train experiments/reo_ablations.py --out runs/reo/base                    (or --tiny)
    rsvlm train experiments/reo_ablations.py:dates_shuffled --out runs/reo/dates_shuffled
    python -m experiments.bench.reo_ablations dates      # base and all of an axis: held-out R2

All parts of `reo_vlm_nano` trained together in one stage, so that a change of any is comparable. An
axis is a row of `AXES`; `--sweep` takes other fields. `rsvlm evaluate RUN --reliance` asks a
trained run the other question: what it reads, not what it could do without.
"""

import dataclasses
from typing import Literal

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    GroupConfig,
    InputConfig,
    LossConfig,
    OptimizerConfig,
    SelectionConfig,
    SplitConfig,
    TargetConfig,
    TemporalConfig,
    TrainConfig,
    nano,
)

AXES = {
    "plan": ("consecutive_drop", "consecutive_pad"),  # of spectral recombination
    "sar": ("mean_db", "diff_linear", "copy"),  # third channel of the radar frame
    "dates": ("none", "shuffled"),
    "budget": (2, 32),  # visual tokens that the decoder and the head read; here 8
    "keep": (8, "all"),  # tokens that fusion reads; here 48 of 312
    "depths": (1,),  # the tower's last layer alone; here all three
    "knowledge": ("answer", "last", "off"),  # hidden states; off: a head without a language model
    "head": ("mlp", "linear", "experts"),
}
"""What is changed, and to what: AXIS_VALUE are the words of `experiment`."""
SLOWER = (GroupConfig("^decoder/", 0.3),)
WORDS = ("base", *(f"{axis}_{value}" for axis, values in AXES.items() for value in values))


def experiment(what: Literal[WORDS] = "base") -> Experiment:  # type: ignore[valid-type]
    axis, _, value = what.partition("_")
    sensors = [InputConfig("s2_l2a"), InputConfig("s1_db")]
    field = {"plan": "plan", "sar": "sar_third"}.get(axis)
    if field is not None:
        of = 0 if axis == "plan" else 1
        spectral = dataclasses.replace(sensors[of].spectral, **{field: value})
        sensors[of] = dataclasses.replace(sensors[of], spectral=spectral)
    model = nano(tuple(sensors))
    layers = (3,) if axis == "depths" else (1, 2, 3)
    keep = int(value) if value == "8" else 48
    dates = value if axis == "dates" else "real"
    budget = int(value) if axis == "budget" else 8
    changed = {"knowledge": {"knowledge": value}, "head": {"kind": value}}.get(axis, {})
    off = what == "knowledge_off"
    return Experiment(
        name=f"reo_{what}",
        data=DataConfig(
            cube="world:small",
            target=TargetConfig("agb", "above-ground biomass"),
            split=SplitConfig(block=16),
            templates="plain" if off else "questions",
        ),
        model=dataclasses.replace(
            model,
            vision=dataclasses.replace(model.vision, layers=3, feature_layers=layers),
            selection=None if what == "keep_all" else SelectionConfig(keep),
            temporal=TemporalConfig(budget, dates=dates),
            decoder=None if off else model.decoder,
            head=dataclasses.replace(model.head, **({} if off else changed)),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, ema=0.98, groups=() if off else SLOWER),
        loss=LossConfig(text=0.0 if off else 0.2),
        train=TrainConfig(400, save_every=200, log_every=50),
        init_from=None if off else "asset:stories260k",
    )
