"""GeoChat: LLaVA-1.5 at 504 pixels, LoRA, rotated boxes as text (arXiv 2311.15826).

    rsvlm train experiments/geochat_lora.py --out runs/geochat_1 --dry-run    (or --tiny)
    rsvlm train experiments/geochat_lora.py --out runs/geochat_1
    rsvlm train experiments/geochat_lora.py:2 --out runs/geochat_2

From mbzuai-oryx/GeoChat, scripts/finetune_lora.sh and its train.py: LoRA of rank 64 and alpha 16
(defaults) on every linear layer of the language model but its head; tower and projector frozen
(PEFT freezes the projector of the loaded LLaVA, and nothing thaws it); CLIP's positions
interpolated from 24 x 24 to 36 x 36; images padded; AdamW (0.9, 0.999), warm-up 0.03, cosine. Steps
are those of the paper as a third party's summary gives them.

Contradictory there: learning rate 2e-4 (script; taken) or 2e-5 (README); batch 144 (README, paper;
taken) or 96 (32 on each of 3 GPUs); all linear layers (code; taken) or q and v alone (paper:
targets=r"^decoder/layers/attention/[qv]/kernel$"); 2400 steps of 144 for one epoch of 306k. Trained
with "user" (vicuna_v1), evaluated with "human" (llava_v1) and a crop where this pads.

Cannot: LoRA's dropout of 0.05; the order of the data.

Yours: the paths. Weights: llava-hf/llava-1.5-7b-hf, for all three towers; data:
MBZUAI/GeoChat_Instruct, for stage 2 its conversations with [refer] and [grounding] in a file.
"""

from typing import Literal

from rsvlm_jax.config import (
    LORA_ONLY,
    ConversationConfig,
    Experiment,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
)

LLAVA = "path/to/llava-1.5-7b-hf"
DATA = "path/to/GeoChat_Instruct"


def experiment(stage: Literal[1, 2] = 1) -> Experiment:
    file = {1: "GeoChat_Instruct.json", 2: "GeoChat_Instruct_grounding.json"}[stage]
    return Experiment(
        name=f"geochat_lora_{stage}",
        conversations=ConversationConfig(
            files=((f"{DATA}/{file}", 1.0),),
            images=f"{DATA}/images",
            tokenizer=LLAVA,
            template="vicuna_v1",
            length=2048,
            group=False,
        ),
        model=VLMConfig(vision=ViTConfig(image_size=504), head=None, dtype="bfloat16"),
        lora=LoraConfig(rank=64, alpha=16.0),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,
            warmup=0.03,
            weight_decay=0.0,
            b2=0.999,
            eps=1e-8,
            groups=LORA_ONLY,
        ),
        train=TrainConfig(steps={1: 2400, 2: 1600}[stage], batch_size=144, save_every=400),
        mesh=MeshConfig(fsdp=-1),
        init_from={1: LLAVA, 2: "runs/geochat_1"}[stage],
    )
