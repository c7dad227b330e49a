"""LLaVA-1.5, stage 2 by LoRA (arXiv 2310.03744).

    rsvlm train experiments/llava15_lora.py --out runs/llava15_lora --dry-run    (or --tiny)
    rsvlm train experiments/llava15_lora.py --out runs/llava15_lora
    rsvlm train experiments/llava15_lora.py:13b --out runs/llava15_lora_13b
    rsvlm train experiments/llava15_lora.py --out runs/llava15_qlora --base nf4

Reproduces haotian-liu/LLaVA, scripts/v1_5/finetune_lora.sh, at 7B or 13B: LoRA of rank 128 and
alpha 256 on every linear layer of the language model but its head, at 2e-4; the projector at 2e-5;
the mixture of 665K once, 128 a step; the rest as in stage 2. `--base nf4` stores the frozen kernels
in 4 bits (with `--tiny` too: then the decoder is one of random numbers that 64 divides).

Cannot: PEFT's dropout of 0.05 before A (LLaVA's default) does not exist here; the order of the data
is another.

Yours: the paths, as in `llava15_stage2.py`.
"""

from typing import Literal

from rsvlm_jax.config import (
    ConversationConfig,
    Experiment,
    GroupConfig,
    LoraConfig,
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
        name="llava15_lora" if size == "7b" else "llava15_lora_13b",
        conversations=ConversationConfig(
            files=((f"{DATA}/llava_v1_5_mix665k.json", 1.0),),
            images=f"{DATA}/images",
            tokenizer=vicuna,
            template="vicuna_v1",
            length=2048,
        ),
        model=VLMConfig(decoder=decoder, head=None, dtype="bfloat16"),  # CLIP-L/14-336, mlp2x_gelu
        lora=LoraConfig(rank=128, alpha=256.0),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,
            warmup=0.03,
            weight_decay=0.0,
            b2=0.999,
            eps=1e-8,
            groups=(
                GroupConfig("_lora_[ab]$"),
                GroupConfig("^connector/", 0.1),  # mm_projector_lr 2e-5
                GroupConfig("", 0.0),
            ),
        ),
        train=TrainConfig(steps=SAMPLES // BATCH, batch_size=BATCH, save_every=500),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"vision={CLIP},connector={PROJECTOR[size]},decoder={vicuna}",
    )
