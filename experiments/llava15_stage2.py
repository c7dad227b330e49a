"""LLaVA-1.5, stage 2: projector and language model learn to follow instructions (arXiv 2310.03744).

    rsvlm train experiments/llava15_stage2.py --out runs/llava15_stage2 --dry-run    (or --tiny)
    rsvlm train experiments/llava15_stage2.py --out runs/llava15_stage2

Reproduces haotian-liu/LLaVA, scripts/v1_5/finetune.sh, at 7B: all but the vision tower trains, at
2e-5; the mixture of 665K once, 128 a step, grouped by modality and length; images padded to a
square; AdamW (0.9, 0.999), no weight decay, warm-up 0.03, cosine to 0, gradients clipped to 1;
bfloat16 over float32 parameters. 13B: the decoder of `llava15_13b`, and VICUNA.

Cannot: the order of the data is another.

Yours: the paths. Weights: lmsys/vicuna-7b-v1.5, openai/clip-vit-large-patch14-336 and the run of
stage 1, or in its place LLaVA's `mm_projector.bin` (then with allow_pickle); data:
liuhaotian/LLaVA-Instruct-150K and the images that its page lists.
"""

from rsvlm_jax.config import (
    ConversationConfig,
    Experiment,
    GroupConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    VLMConfig,
)

VICUNA = "path/to/vicuna-7b-v1.5"
CLIP = "path/to/clip-vit-large-patch14-336"
PROJECTOR = "runs/llava15_stage1"
DATA = "path/to/LLaVA-Instruct"

SAMPLES, BATCH = 665_000, 128


def experiment() -> Experiment:
    return Experiment(
        name="llava15_stage2",
        conversations=ConversationConfig(
            files=((f"{DATA}/llava_v1_5_mix665k.json", 1.0),),
            images=f"{DATA}/images",
            tokenizer=VICUNA,
            template="vicuna_v1",
            length=2048,
        ),
        model=VLMConfig(head=None, dtype="bfloat16"),  # CLIP-L/14-336, mlp2x_gelu, 7B
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
        init_from=f"vision={CLIP},connector={PROJECTOR},decoder={VICUNA}",
    )
