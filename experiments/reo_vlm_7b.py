"""Our reading of REO-VLM (arXiv 2412.16583) at its size: LLaVA-1.5-7B, Sentinel-2 and radar.

    rsvlm train experiments/reo_vlm_7b.py --out runs/reo_vlm_7b/stage1    (--dry-run or --tiny)
    rsvlm train experiments/reo_vlm_7b.py:warmup --out runs/reo_vlm_7b/warmup    (then stage2)

The stages are those of `reo_vlm_nano`, each from the run before it (with --tiny where it is there);
true colour starts from LLaVA-1.5, the decoder joins in stage 2 by LoRA. Four dates of four optical
frames and one of radar, each 3 depths x 576 patches of the frozen CLIP, are 34,560 tokens; the
2,048 of the highest score are fused to 256. Published are base, inputs, two stages and the names of
the parts; rates, steps, depths, counts and the warm-up are ours: `experiments/REO_VLM.md` has each
statement and each gap, with its knob.

Yours: the paths, to llava-hf/llava-1.5-7b-hf and a cube of `s2_l2a`, `s1_db` (there ALOS-2), `agb`.
"""

import dataclasses
from typing import Literal

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    GroupConfig,
    HeadConfig,
    InputConfig,
    LoraConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    SelectionConfig,
    SpectralConfig,
    SplitConfig,
    TargetConfig,
    TemporalConfig,
    TrainConfig,
    ViTConfig,
    llava15_7b,
)

STEPS = {"stage1": 2000, "warmup": 1000, "stage2": 5000}
LLAVA, CUBE, RUNS = "path/to/llava-1.5-7b-hf", "path/to/cube.zarr", "runs/reo_vlm_7b"
FRAMES = {"dates": 4, "spectral": SpectralConfig(stretch="minmax")}
RGB = (InputConfig("s2_l2a", bands=("red", "green", "blue"), **FRAMES),)
ALL = (InputConfig("s2_l2a", **FRAMES), InputConfig("s1_db", **FRAMES))


def experiment(stage: Literal["stage1", "warmup", "stage2"] = "stage1") -> Experiment:
    lora, frozen = stage == "stage2", GroupConfig("^(vision|decoder)/", 0.0)
    return Experiment(
        name=f"reo_vlm_7b_{stage}",
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
            llava15_7b(RGB if stage == "stage1" else ALL),
            vision=ViTConfig(feature_layers=(8, 16, -2)),  # joined by tokens
            selection=SelectionConfig(keep=2048),
            temporal=TemporalConfig(budget=256, layers=2, heads=16),
            head=HeadConfig(reg_tokens=8, token_dim=256, channel_dim=4096, transform="log1p"),
        ),
        lora=LoraConfig() if lora else None,
        optimizer=OptimizerConfig(
            learning_rate=2e-4 if lora else 1e-3,
            warmup=0.03,
            groups=(GroupConfig("_lora_[ab]$"), frozen) if lora else (frozen,),
        ),
        loss=LossConfig(text=0.0 if stage == "warmup" else 0.2),
        train=TrainConfig(STEPS[stage], batch_size=128, save_every=500, remat="save_qkv_mlp"),
        mesh=MeshConfig(fsdp=-1, plan="fsdp"),
        init_from={
            "stage1": LLAVA,
            "warmup": f"vision={LLAVA},connector={RUNS}/stage1,decoder={LLAVA}",
            "stage2": f"{RUNS}/warmup",
        }[stage],
    )
