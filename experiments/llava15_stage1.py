"""LLaVA-1.5, stage 1: the projector learns to caption (arXiv 2310.03744).

    rsvlm train experiments/llava15_stage1.py --out runs/llava15_stage1 --dry-run    (or --tiny)
    rsvlm train experiments/llava15_stage1.py --out runs/llava15_stage1
    rsvlm train experiments/llava15_stage1.py:13b --out runs/llava15_stage1_13b

Reproduces haotian-liu/LLaVA, scripts/v1_5/pretrain.sh, at 7B or 13B: only the two-layer projector
trains, at 1e-3; LCS-558K once, 256 a step; AdamW (0.9, 0.999), no weight decay, warm-up 0.03,
cosine to 0, gradients clipped to 1; bfloat16 over float32 parameters. The image is resized and
cropped, not padded: the script sets no `image_aspect_ratio`.

Cannot: the order of the data is another.

Yours: the three paths. Weights: lmsys/vicuna-7b-v1.5 or -13b-, openai/clip-vit-large-patch14-336;
data: liuhaotian/LLaVA-Pretrain.
"""

from typing import Literal

from rsvlm_jax.config import (
    ConversationConfig,
    Experiment,
    GroupConfig,
    ImageConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    VLMConfig,
    llava15_7b,
    llava15_13b,
)

VICUNA = "path/to/vicuna-{}-v1.5"
CLIP = "path/to/clip-vit-large-patch14-336"
DATA = "path/to/LLaVA-Pretrain"

SAMPLES, BATCH = 558_000, 256


def experiment(size: Literal["7b", "13b"] = "7b") -> Experiment:
    vicuna = VICUNA.format(size)
    decoder = {"7b": llava15_7b, "13b": llava15_13b}[size]().decoder
    return Experiment(
        name="llava15_stage1" if size == "7b" else "llava15_stage1_13b",
        conversations=ConversationConfig(
            files=((f"{DATA}/blip_laion_cc_sbu_558k.json", 1.0),),
            images=f"{DATA}/images",
            tokenizer=vicuna,
            template="plain",
            image=ImageConfig(size=336, fit="crop"),
            length=2048,
            group=False,
        ),
        model=VLMConfig(decoder=decoder, head=None, dtype="bfloat16"),  # CLIP-L/14-336, mlp2x_gelu
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup=0.03,
            weight_decay=0.0,
            b2=0.999,
            eps=1e-8,
            groups=(GroupConfig("^connector/"), GroupConfig("", 0.0)),
        ),
        train=TrainConfig(steps=SAMPLES // BATCH, batch_size=BATCH, save_every=500),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"vision={CLIP},decoder={vicuna}",
    )
