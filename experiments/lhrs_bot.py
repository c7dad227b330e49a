"""LHRS-Bot: a perceiver over three depths of CLIP, in three stages (arXiv 2402.02544).

    rsvlm train experiments/lhrs_bot.py --out runs/lhrs_bot_1 --dry-run    (or --tiny)
    rsvlm train experiments/lhrs_bot.py --out runs/lhrs_bot_1
    rsvlm train experiments/lhrs_bot.py:2 --out runs/lhrs_bot_2    (3 in the same way)

From NJU-LHRS/LHRS-Bot, Config/multi_modal_stage{1,2,3}.yaml, Script/ and lhrs/models: CLIP-L/14 at
224, hidden states 7, 15 and 22; 64, 48 and 32 queries through six layers shared by the levels, 16
heads; one linear layer to Llama-2-7B-chat. Stage 1 trains perceiver and linear layer on LHRS-Align
(1.15M) once, 64 a step; stage 2 these and LoRA (128, 256) over an int8 base, 32 a step, beta2 0.95;
stage 3 LoRA alone, 1200 steps. No weight decay; cosines to 2e-5, 8e-5 and 8e-5.

Not public: how many samples stage 2 has (SAMPLES: a third party's count). Contradictory: stage 1's
code leaves Llama's layers unfrozen, but saves perceiver and linear layer alone; frozen here.

Cannot: stage 1's Adan (AdamW here), float16 (bfloat16), LoRA's dropout of 0.05, LLM.int8 (another),
the system prompt of llava_llama_2. The perceiver has final norms, and keys of today's queries.

Yours: the paths. Weights: openai/clip-vit-large-patch14, meta-llama/Llama-2-7b-chat-hf; data:
PumpkinCat/LHRS_Data as LLaVA conversations.
"""

from typing import Literal

from rsvlm_jax.config import (
    LORA_ONLY,
    ConnectorConfig,
    ConversationConfig,
    Experiment,
    GroupConfig,
    ImageConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    PerceiverConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
)

SAMPLES, DATA = 40_000, "path/to/LHRS_Data"
LLAMA, CLIP = "path/to/Llama-2-7b-chat-hf", "path/to/clip-vit-large-patch14"
BRIDGE = (GroupConfig("^resampler/"), GroupConfig("^connector/"), GroupConfig("", 0.0))


def experiment(stage: Literal[1, 2, 3] = 1) -> Experiment:
    batch = 64 if stage == 1 else 32
    steps = (1_150_000 // batch, SAMPLES // batch, 1200)[stage - 1]
    return Experiment(
        name=f"lhrs_bot_{stage}",
        conversations=ConversationConfig(
            files=((f"{DATA}/stage{stage}.json", 1.0),),  # beside its images
            tokenizer=LLAMA,
            template="plain" if stage == 1 else "llama_2",
            image=ImageConfig(224, "crop"),
            group=False,
        ),
        model=VLMConfig(
            vision=ViTConfig(image_size=224, feature_layers=(7, 15, 22)),  # joined by tokens
            resampler=PerceiverConfig(heads=16, share_layers=True),
            connector=ConnectorConfig("linear"),
            head=None,
            dtype="bfloat16",
        ),
        lora=LoraConfig(128, 256.0) if stage > 1 else None,
        base="int8" if stage > 1 else "float",
        optimizer=OptimizerConfig(
            learning_rate=1e-4 if stage == 3 else 2e-4,
            floor=(0.1, 0.4, 0.8)[stage - 1],
            warmup=(300 if stage == 1 else 100) / steps,
            weight_decay=0.0,
            b2=0.999 if stage == 1 else 0.95,
            eps=1e-8,
            clip_norm=0.3 if stage == 1 else 1.0,
            groups=(BRIDGE, (LORA_ONLY[0], *BRIDGE), LORA_ONLY)[stage - 1],
        ),
        train=TrainConfig(steps, batch, save_every=400),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"vision={CLIP},decoder={LLAMA}" if stage == 1 else f"runs/lhrs_bot_{stage - 1}",
    )
