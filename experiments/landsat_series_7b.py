"""A Landsat series of 24 dates for a 7B model, under a budget of visual tokens.

    rsvlm train experiments/landsat_series_7b.py --out runs/landsat_7b --dry-run    (or --tiny)
    rsvlm train experiments/landsat_series_7b.py --out runs/landsat_7b
    rsvlm train experiments/landsat_series_7b.py:64 --out runs/landsat_7b_64

Six bands of Landsat 5 to 9 at up to 24 dates, the clearest of a window: three spectral frames a
date (true colour, NIR, SWIR) are 24 x 3 x 576 = 41,472 tokens of CLIP-L/14-336. A language model
that read them all would take hours a scene; the fusion of dates, which knows when each was and what
cloud hid, brings them down to 256 (or 64, or 768). Tower frozen, decoder by LoRA.

Ours, not published: all of the recipe.

Yours: the paths. Weights: llava-hf/llava-1.5-7b-hf, tokenizer and all; data: a cube with a band
set `landsat_sr6` and a target (`rsvlm cube build`). `--tiny` takes the synthetic world.
"""

import dataclasses
from typing import Literal

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    GroupConfig,
    InputConfig,
    LoraConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    SpectralConfig,
    SplitConfig,
    TargetConfig,
    TemporalConfig,
    TrainConfig,
    llava15_7b,
)

LLAVA = "path/to/llava-1.5-7b-hf"
CUBE = "path/to/landsat.zarr"

INPUTS = (InputConfig("landsat_sr6", dates=24, spectral=SpectralConfig(stretch="minmax")),)


def experiment(budget: Literal[64, 256, 768] = 256) -> Experiment:
    return Experiment(
        name=f"landsat_series_7b_{budget}",
        data=DataConfig(
            cube=CUBE,
            target=TargetConfig("agb", "above-ground biomass"),
            window=32,
            stride=16,
            split=SplitConfig(block=32),
            templates="questions",
            tokenizer=LLAVA,
        ),
        model=dataclasses.replace(
            llava15_7b(INPUTS), temporal=TemporalConfig(budget=budget, layers=2, heads=16)
        ),
        lora=LoraConfig(),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,
            warmup=0.03,
            groups=(GroupConfig("_lora_[ab]$"), GroupConfig("^(vision|decoder)/", 0.0)),
        ),
        loss=LossConfig(text=0.2),
        train=TrainConfig(steps=5000, batch_size=64, save_every=500, remat="save_qkv_mlp"),
        mesh=MeshConfig(fsdp=-1, plan="fsdp"),
        init_from=LLAVA,
    )
