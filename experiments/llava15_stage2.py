"""LLaVA-1.5, stage 2: projector and language model learn to follow instructions (arXiv 2310.03744).

    rsvlm train experiments/llava15_stage2.py --out runs/llava15_stage2 --dry-run    (or --tiny)
    rsvlm train experiments/llava15_stage2.py --out runs/llava15_stage2
    rsvlm train experiments/llava15_stage2.py:13b --out runs/llava15_stage2_13b

Reproduces haotian-liu/LLaVA, scripts/v1_5/finetune.sh, at 7B or 13B: all but the vision tower
trains, at 2e-5; the mixture of 665K once, 128 a step, grouped by modality and length; images padded
to a square; AdamW (0.9, 0.999), no weight decay, warm-up 0.03, cosine to 0, gradients clipped to 1;
bfloat16 over float32 parameters.

Cannot: the order of the data is another.

Yours: the paths. Weights: lmsys/vicuna-7b-v1.5 or -13b-, openai/clip-vit-large-patch14-336 and the
run of stage 1, or in its place LLaVA's `mm_projector.bin` (then with allow_pickle); data:
liuhaotian/LLaVA-Instruct-150K and the images that its page lists.
"""

from typing import Literal

from rsvlm_jax.config import (
    ConversationConfig,
    Experiment,
    GroupConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    VLMConfig,
    llava15_7b,
    llava15_13b,
)

VICUNA = "path/to/vicuna-{}-v1.5"
CLIP = "path/to/clip-vit-large-patch14-336"
PROJECTOR = {"7b": "runs/llava15_stage1", "13b": "runs/llava15_stage1_13b"}
DATA = "path/to/LLaVA-Instruct"

SAMPLES, BATCH = 665_000, 128


def experiment(size: Literal["7b", "13b"] = "7b") -> Experiment:
    vicuna = VICUNA.format(size)
    decoder = {"7b": llava15_7b, "13b": llava15_13b}[size]().decoder
    return Experiment(
        name="llava15_stage2" if size == "7b" else "llava15_stage2_13b",
        conversations=ConversationConfig(
            files=((f"{DATA}/llava_v1_5_mix665k.json", 1.0),),
            images=f"{DATA}/images",
            tokenizer=vicuna,
            template="vicuna_v1",
            length=2048,
        ),
        model=VLMConfig(decoder=decoder, head=None, dtype="bfloat16"),  # CLIP-L/14-336, mlp2x_gelu
        optimizer=OptimizerConfig(
            learning_rate=2e-5,
            warmup=0.03,
            weight_decay=0.0,
            b2=0.999,
            eps=1e-8,
            groups=(GroupConfig("^vision/", 0.0),),
        ),
        train=TrainConfig(steps=SAMPLES // BATCH, batch_size=BATCH, save_every=500),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"vision={CLIP},connector={PROJECTOR[size]},decoder={vicuna}",
    )
