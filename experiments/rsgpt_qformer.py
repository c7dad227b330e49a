"""RSGPT: InstructBLIP's Q-Former tuned on 2,585 captions (arXiv 2307.15266).

    rsvlm train experiments/rsgpt_qformer.py --out runs/rsgpt --dry-run    (or --tiny)
    rsvlm train experiments/rsgpt_qformer.py --out runs/rsgpt

From Lavender105/RSGPT, train_configs/rsgpt_train.yaml and rsgpt/models: EVA-G at 224 and Vicuna-13B
frozen; Q-Former (32 queries) and the linear layer after it at 3e-5; 5 epochs of 40 steps, 8 on each
of 8 GPUs; AdamW (0.9, 0.999), weight decay 0.05, 40 steps of warm-up, cosine to 1e-5, not clipped.

Its start, InstructBLIP over Vicuna-13B, holds all of it: EVA-G, Q-Former, linear layer, Vicuna.

Cannot: the instruction as a second input of the Q-Former (here it reads the image alone, by the
half that queries go through); weight decay of the queries and of embeddings (kernels alone here);
its prompt without roles (vicuna_v1 here); float16 (bfloat16).

Yours: the paths. Weights: Salesforce/instructblip-vicuna-13b as safetensors; tokenizer: its own;
data: RSICap (behind a form of the project's page) as LLaVA conversations.
"""

from rsvlm_jax.config import (
    EVA_G,
    ConnectorConfig,
    ConversationConfig,
    Experiment,
    GroupConfig,
    ImageConfig,
    LlamaConfig,
    MeshConfig,
    OptimizerConfig,
    QFormerConfig,
    TrainConfig,
    VLMConfig,
)

BLIP = "path/to/instructblip-vicuna-13b"
DATA = "path/to/RSICap"

VICUNA_13B = LlamaConfig(
    width=5120, layers=40, heads=40, kv_heads=40, mlp_dim=13824, max_length=2048, norm_eps=1e-6
)


def experiment() -> Experiment:
    return Experiment(
        name="rsgpt_qformer",
        conversations=ConversationConfig(
            files=((f"{DATA}/conversations.json", 1.0),),
            images=f"{DATA}/images",
            tokenizer=BLIP,
            template="vicuna_v1",
            image=ImageConfig(size=224, fit="squash"),
            length=512,
            group=False,
        ),
        model=VLMConfig(
            vision=EVA_G,
            resampler=QFormerConfig(queries=32),
            connector=ConnectorConfig("linear"),
            decoder=VICUNA_13B,
            head=None,
            dtype="bfloat16",
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-5,
            warmup=0.2,
            floor=1 / 3,
            weight_decay=0.05,
            b2=0.999,
            eps=1e-8,
            clip_norm=0.0,
            groups=(
                GroupConfig("^(resampler|connector)/"),
                GroupConfig("^vision/post_norm/"),  # ln_vision
                GroupConfig("", 0.0),
            ),
        ),
        train=TrainConfig(steps=5 * 40, batch_size=64, save_every=40),
        mesh=MeshConfig(fsdp=-1),
        init_from=BLIP,
    )
