"""Our reading of REO-VLM (arXiv 2412.16583) on a CPU: three stages on the small synthetic world.

    rsvlm train experiments/reo_vlm_nano.py --out runs/reo_vlm_nano/stage1          (or --tiny)
    rsvlm train experiments/reo_vlm_nano.py:warmup --out runs/reo_vlm_nano/warmup
    rsvlm train experiments/reo_vlm_nano.py:stage2 --out runs/reo_vlm_nano/stage2
    python -m experiments.bench reo           # the chain, and held-out R2 after each stage

stage1   true colour alone: makes the RGB tower that the 7B page takes from CLIP, and aligns it
warmup   all bands and radar; tower and decoder frozen: what reads bands and dates the tower has
         never seen starts anew and learns by itself
stage2   all of it but the tower, number and words together

Each stage starts from the run before it; `--init-from` names it where it is elsewhere. What the
paper says, what it leaves open and which knob stands for it: `experiments/REO_VLM.md`.
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

RUNS = "runs/reo_vlm_nano"
RGB = (InputConfig("s2_l2a", bands=("red", "green", "blue")),)
ALL = (InputConfig("s2_l2a"), InputConfig("s1_db"))
TOWER, DECODER = GroupConfig("^vision/", 0.0), GroupConfig("^decoder/", 0.0)


def experiment(stage: Literal["stage1", "warmup", "stage2"] = "stage1") -> Experiment:
    model = nano(RGB if stage == "stage1" else ALL)
    vision = dataclasses.replace(model.vision, layers=3, feature_layers=(1, 2, 3))
    return Experiment(
        name=f"reo_vlm_nano_{stage}",
        data=DataConfig(
            cube="world:small",
            target=TargetConfig("agb", "above-ground biomass"),
            split=SplitConfig(block=16),
            templates="questions",
        ),
        model=dataclasses.replace(
            model,
            vision=vision,
            selection=SelectionConfig(keep=48),
            temporal=TemporalConfig(budget=8),
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            ema=0.98,
            groups={
                "stage1": (DECODER,),
                "warmup": (TOWER, DECODER),
                "stage2": (TOWER, GroupConfig("^decoder/", 0.3)),
            }[stage],
        ),
        loss=LossConfig(text=0.0 if stage == "warmup" else 0.2),
        train=TrainConfig(
            steps={"stage1": 300, "warmup": 200, "stage2": 400}[stage],
            save_every=100,
            log_every=50,
        ),
        init_from={
            "stage1": "asset:stories260k",
            "warmup": ",".join(f"{t}={RUNS}/stage1" for t in ("vision", "connector", "decoder")),
            "stage2": f"{RUNS}/warmup",
        }[stage],
    )
