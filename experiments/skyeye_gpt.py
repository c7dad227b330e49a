"""SkyEyeGPT: one linear layer between EVA-G and Llama-2, on 968k instructions (arXiv 2401.09712).

    rsvlm train experiments/skyeye_gpt.py --out runs/skyeye_gpt_1 --dry-run    (or --tiny)
    rsvlm train experiments/skyeye_gpt.py --out runs/skyeye_gpt_1
    rsvlm train experiments/skyeye_gpt.py:2 --out runs/skyeye_gpt_2

Its training code is not public ("coming soon"); its checkpoint runs in MiniGPT-v2 (README), so the
model and the numbers are those of Vision-CAIR/MiniGPT-4, minigpt4/models/minigpt_v2.py and
train_configs/minigptv2_finetune.yaml: EVA-G at 448, four tokens joined to one, a linear layer; LoRA
of rank 64, alpha 16 on q and v of Llama-2-7B-chat; AdamW (0.9, 0.999), weight decay 0.05, warm-up
over a fiftieth, no clipping. Learning rate 1e-5 is where MiniGPT-v2 starts; its "minimum" is above
it, at 8e-5. Stage 1 has single tasks, stage 2 conversations over several.

Not public, and so ours: batch and steps (the size of the whole set), how the set is divided.
Contradictory: a third party reads the paper as tuning Llama whole, not by LoRA.

Cannot: neighbours that are joined are 2 x 2 here, 1 x 4 there, so its checkpoint would not fit;
LoRA's dropout of 0.05; its prompt (llama_2 here); videos. EVA-G comes from a BLIP-2, which has kept
it frozen; the norm after it is BLIP-2's as well, where MiniGPT-v2's is left as it is initialised.

Yours: the paths. Weights: meta-llama/Llama-2-7b-chat-hf, a BLIP-2 of Salesforce as safetensors (its
language model is not read); data: ZhanYang-nwpu/SkyEye-968k.
"""

import dataclasses
from typing import Literal

from rsvlm_jax.config import (
    EVA_G,
    ConnectorConfig,
    ConversationConfig,
    Experiment,
    GroupConfig,
    ImageConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    PixelShuffleConfig,
    TrainConfig,
    VLMConfig,
)

LLAMA, BLIP = "path/to/Llama-2-7b-chat-hf", "path/to/blip2"
DATA = "path/to/SkyEye-968k"
SAMPLES, BATCH = 968_000, 64


def experiment(stage: Literal[1, 2] = 1) -> Experiment:
    return Experiment(
        name=f"skyeye_gpt_{stage}",
        conversations=ConversationConfig(
            files=((f"{DATA}/stage{stage}.json", 1.0),),
            images=f"{DATA}/images",
            tokenizer=LLAMA,
            template="llama_2",
            image=ImageConfig(size=448, fit="squash"),
            length=1024,
            group=False,
        ),
        model=VLMConfig(
            vision=dataclasses.replace(EVA_G, image_size=448, keep_cls=False),
            resampler=PixelShuffleConfig(factor=2),
            connector=ConnectorConfig("linear"),
            head=None,
            dtype="bfloat16",
        ),
        lora=LoraConfig(rank=64, alpha=16.0, targets=r"^decoder/layers/attention/[qv]/kernel$"),
        optimizer=OptimizerConfig(
            learning_rate=1e-5,
            warmup=0.02,
            weight_decay=0.05,
            b2=0.999,
            eps=1e-8,
            clip_norm=0.0,
            groups=(GroupConfig("_lora_[ab]$"), GroupConfig("^connector/"), GroupConfig("", 0.0)),
        ),
        train=TrainConfig(steps=SAMPLES // BATCH, batch_size=BATCH, save_every=500),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"vision={BLIP},decoder={LLAMA}" if stage == 1 else "runs/skyeye_gpt_1",
    )
