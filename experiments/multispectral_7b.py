"""All bands of Sentinel-2 for a 7B model: spectral recombination under a budget of visual tokens.

    rsvlm train experiments/multispectral_7b.py --out runs/multispectral_7b --dry-run   (or --tiny)
    rsvlm train experiments/multispectral_7b.py --out runs/multispectral_7b
    rsvlm train experiments/multispectral_7b.py:64 --out runs/multispectral_7b_64

The bands of each date become spectral frames (true colour, NIR, SWIR, red edge) for CLIP-L/14-336,
which stays frozen; four dates of a window are 4 x 4 x 576 = 9,216 tokens, which the fusion of dates
brings down to 256 (or 64, or 768) before the language model: a sample is as long as a question and
not as a book. Number and text are learned together; the decoder by LoRA.

Ours, not published: all of the recipe. What REO-VLM (arXiv 2412.16583) says of recombination and
head is in `rsvlm_jax/models/spectral` and `models/heads`; its rates and budgets are not known.

Yours: the paths. Weights: llava-hf/llava-1.5-7b-hf, tokenizer and all; data: a cube with a band
set `s2_l2a` and a target (`rsvlm cube build`). `--tiny` takes the synthetic world.
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
CUBE = "path/to/sentinel2.zarr"

INPUTS = (InputConfig("s2_l2a", dates=4, spectral=SpectralConfig(stretch="minmax")),)


def experiment(budget: Literal[64, 256, 768] = 256) -> Experiment:
    return Experiment(
        name=f"multispectral_7b_{budget}",
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
        train=TrainConfig(steps=5000, batch_size=128, save_every=500, remat="save_qkv_mlp"),
        mesh=MeshConfig(fsdp=-1, plan="fsdp"),
        init_from=LLAVA,
    )
