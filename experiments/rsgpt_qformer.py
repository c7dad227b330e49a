"""RSGPT: InstructBLIP's Q-Former tuned on 2,585 captions (arXiv 2307.15266).

    rsvlm train experiments/rsgpt_qformer.py --out runs/rsgpt --dry-run    (or --tiny)
    rsvlm train experiments/rsgpt_qformer.py --out runs/rsgpt

From Lavender105/RSGPT, train_configs/rsgpt_train.yaml and rsgpt/models: EVA-G at 224 and Vicuna-13B
frozen; Q-Former (32 queries) and the linear layer after it at 3e-5; 5 epochs of 40 steps, 8 on each
of 8 GPUs; AdamW (0.9, 0.999), weight decay 0.05, 40 steps of warm-up, no clipping.

Cannot: the instruction as a second input of the Q-Former (here it reads the image alone); the norm
between tower and Q-Former (`ln_vision`, which trains there; see `EVA_G`); a floor of 1e-5 under the
cosine; its prompt without roles (vicuna_v1 here); float16 (bfloat16). And its start: no table reads
EVA-G or a Q-Former into a model yet, so both have to come from a run directory
("vision=RUN,resampler=RUN,..."); as it stands they start at random, and the frozen tower stays so.

Yours: the paths. Weights: Vicuna-13B of InstructBLIP (v1.1); data: RSICap (behind a form of the
project's page) as LLaVA conversations.
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

VICUNA = "path/to/vicuna-13b-v1.1"
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
            tokenizer=VICUNA,
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
            weight_decay=0.05,
            b2=0.999,
            clip_norm=0.0,
            groups=(GroupConfig("^resampler/"), GroupConfig("^connector/"), GroupConfig("", 0.0)),
        ),
        train=TrainConfig(steps=5 * 40, batch_size=64, save_every=40),
        mesh=MeshConfig(fsdp=-1),
        init_from=f"decoder={VICUNA}",
    )
