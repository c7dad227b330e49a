"""RS-LLaVA: captions and questions together, by LoRA (Bazi et al., Remote Sensing 16(9), 1477).

    rsvlm train experiments/rs_llava_lora.py --out runs/rs_llava_lora --dry-run    (or --tiny)
    rsvlm train experiments/rs_llava_lora.py --out runs/rs_llava_lora

The second of its three stages, instructions. The first is `llava15_stage1.py` with the file of NWPU
and RSICD captions beside LLaVA's; the third is this page on the file of one task, from this run.
From BigData-KSU/RS-LLaVA: data (README), LoRA of rank 64 and alpha 16 on every linear layer of the
language model but its head (defaults of its train.py).

Unpublished there, and so LLaVA's own (finetune_lora.sh): learning rate 2e-4, projector at a tenth,
batch 128, warm-up, one epoch. Contradictory: paper and name say Vicuna 7B and 13B (taken: 7B), the
released adapter loads on Intel/neural-chat-7b-v3-3, a Mistral (another LlamaConfig: that of its
config.json). Its demonstration prompts with "human" (llava_v1).

Cannot: LoRA's dropout of 0.05; the order of the data. Others could not
repeat its RSVQA-LR figure with the released adapter (its issue 11).

Yours: the paths. Weights as in `llava15_lora.py`; data: BigData-KSU/RS-instructions-dataset (5,506
training samples, README) and LLaVA's 665K.
"""

from rsvlm_jax.config import (
    ConversationConfig,
    Experiment,
    GroupConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    VLMConfig,
)

VICUNA = "path/to/vicuna-7b-v1.5"
CLIP = "path/to/clip-vit-large-patch14-336"
PROJECTOR = "runs/rs_llava_stage1"
RS = "path/to/RS-instructions-dataset/NWPU-RSICD-UAV-UCM-LR-DOTA-intrcutions.json"
LLAVA = "path/to/LLaVA-Instruct/llava_v1_5_mix665k.json"

SAMPLES, BATCH = 665_000 + 5_506, 128


def experiment() -> Experiment:
    return Experiment(
        name="rs_llava_lora",
        conversations=ConversationConfig(
            files=((RS, 1.0), (LLAVA, 1.0)),
            images="path/to/images",  # one folder over those of both files
            tokenizer=VICUNA,
            template="vicuna_v1",
            length=2048,
        ),
        model=VLMConfig(head=None, dtype="bfloat16"),  # CLIP-L/14-336, mlp2x_gelu, 7B
        lora=LoraConfig(rank=64, alpha=16.0),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,
            warmup=0.03,
            weight_decay=0.0,
            b2=0.999,
            eps=1e-8,
            groups=(
                GroupConfig("_lora_[ab]$"),
                GroupConfig("^connector/", 0.1),
                GroupConfig("", 0.0),
            ),
        ),
        train=TrainConfig(steps=SAMPLES // BATCH, batch_size=BATCH, save_every=500),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"vision={CLIP},connector={PROJECTOR},decoder={VICUNA}",
    )
