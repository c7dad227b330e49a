"""H2RSVLM, later VHM: captions of 1.4M images, then honest instructions (arXiv 2403.20213).

    rsvlm train experiments/h2rsvlm.py --out runs/h2rsvlm_1 --dry-run    (or --tiny)
    rsvlm train experiments/h2rsvlm.py --out runs/h2rsvlm_1
    rsvlm train experiments/h2rsvlm.py:2 --out runs/h2rsvlm_2

From opendatalab/VHM (README) and public copies of its scripts/rs/slurm_{pretrain,finetune}.sh:
CLIP-L/14-336, hidden states 8, 16 and 24 joined by channels, two-layer projector, Vicuna-7B. Stage
1, captions alone: the upper half of CLIP's layers, projector and language model at 2e-5; 256 a step
(16 on each of 16 GPUs), images cropped. Stage 2: projector and language model at 2e-5, 128 a step
(16 on each of 8), images padded. One epoch each, AdamW (0.9, 0.999), no weight decay, warm-up 0.03,
cosine.

Contradictory: the upper half (README; taken) or the whole tower (a public copy of the script); a
start from LLaVA's projector (README), which has 1024 inputs where three layers give 3072: it starts
anew here. Not public in figures: the size of stage 2's set (138k is a third party's count of a
first version: set your own SAMPLES).

Cannot: the order of the data.

Yours: the paths. Weights: lmsys/vicuna-7b-v1.5, openai/clip-vit-large-patch14-336; data:
FitzPC/VHM_VersaD, FitzPC/VHM_dataset_sft.
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
    ViTConfig,
    VLMConfig,
)

VICUNA = "path/to/vicuna-7b-v1.5"
CLIP = "path/to/clip-vit-large-patch14-336"
FILE = {1: "path/to/VHM_VersaD/list_pretrain.json", 2: "path/to/VHM_dataset_sft/list_sft.json"}
SAMPLES, BATCH = {1: 1_400_000, 2: 138_000}, {1: 256, 2: 128}


def experiment(stage: Literal[1, 2] = 1) -> Experiment:
    frozen = GroupConfig("^vision/", 0.0)
    upper_half = GroupConfig("^vision/layers/", from_layer=12)
    return Experiment(
        name=f"h2rsvlm_{stage}",
        conversations=ConversationConfig(
            files=((FILE[stage], 1.0),),
            tokenizer=VICUNA,
            template="plain" if stage == 1 else "vicuna_v1",
            image=ImageConfig(size=336, fit="crop" if stage == 1 else "pad"),
            group=stage == 2,
        ),
        model=VLMConfig(
            vision=ViTConfig(feature_layers=(8, 16, 24), feature_join="channels"),
            head=None,
            dtype="bfloat16",
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-5,
            warmup=0.03,
            weight_decay=0.0,
            b2=0.999,
            eps=1e-8,
            groups=(upper_half, frozen) if stage == 1 else (frozen,),
        ),
        train=TrainConfig(SAMPLES[stage] // BATCH[stage], BATCH[stage], save_every=500),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"vision={CLIP},decoder={VICUNA}" if stage == 1 else "runs/h2rsvlm_1",
    )
