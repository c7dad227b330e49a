"""The smallest experiments that train: on a cube, on conversations. Imports the config alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rsvlm_jax.config import (
    STORIES260K,
    ConversationConfig,
    Experiment,
    InputConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
    nano,
)

STEPS = 12
TRAIN = TrainConfig(steps=STEPS, batch_size=8, save_every=2, log_every=1)


def experiment() -> Experiment:
    """Three colours of one date, no decoder; batch and parameters split over all devices."""
    colours = InputConfig("s2_l1c", bands=("red", "green", "blue"), dates=1)
    model = dataclasses.replace(nano((colours,)), decoder=None)
    return Experiment("smallest", model=model, train=TRAIN, mesh=MeshConfig(fsdp=-1))


def talk(file: Path, images: Path) -> Experiment:
    """A tower of four tokens and one layer of the shipped decoder's shape."""
    vision = ViTConfig(
        image_size=16, patch_size=8, width=16, layers=1, heads=2, mlp_dim=32, feature_layers=(-1,)
    )
    decoder = dataclasses.replace(STORIES260K, layers=1)
    return Experiment(
        name="smallest_talk",
        model=VLMConfig(vision=vision, decoder=decoder, head=None),
        conversations=ConversationConfig(
            files=((str(file), 1.0),),
            images=str(images),
            template="mistral",
            length=128,
            held_out=0.25,
            held_out_by="question",
            buckets=1,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        train=dataclasses.replace(TRAIN, steps=4, eval_every=2),
        mesh=MeshConfig(data=-1),
    )
