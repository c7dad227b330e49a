"""A nano LLaVA learns to answer questions about Sentinel-2 views: RSVQA-LR, the shipped sample.

    rsvlm train experiments/rsvqa_tiny.py --out runs/rsvqa          # five minutes on two CPU cores
    python -m experiments.bench rsvqa                               # accuracy beside the majority's

A small vision transformer from scratch and the shipped decoder of 260k parameters. Held out are
questions about images that training shows: what it answers can be memory of the image. It is a
test of the whole path from files to answers, no figure of merit.
"""

from rsvlm_jax.config import (
    STORIES260K,
    ConversationConfig,
    Experiment,
    ImageConfig,
    OptimizerConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
)


def experiment() -> Experiment:
    return Experiment(
        name="rsvqa_tiny",
        conversations=ConversationConfig(
            files=(("sample:rsvqa_lr", 1.0),),
            template="mistral",  # the shortest
            image=ImageConfig(size=64, fit="squash"),
            length=160,
            held_out=0.2,
            held_out_by="question",
        ),
        model=VLMConfig(
            vision=ViTConfig(
                image_size=64,
                patch_size=32,
                width=64,
                layers=2,
                heads=4,
                mlp_dim=128,
                feature_layers=(-1,),
            ),
            decoder=STORIES260K,
            head=None,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, ema=0.99),
        train=TrainConfig(steps=1500, batch_size=16, save_every=500),
        init_from="asset:stories260k",
    )
