"""What is killed: a small encoder and its head, on the shipped cube, over all devices there are.

Parameters, optimiser and average are split over the devices (`fsdp=-1`), so the same experiment
goes on where there are more of them, or fewer.
"""

import dataclasses

from rsvlm_jax.config import (
    Experiment,
    InputConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    nano,
)

STEPS, SAVE_EVERY = 24, 3


def experiment() -> Experiment:
    colours = InputConfig("s2_l1c", bands=("red", "green", "blue"), dates=1)
    return Experiment(
        "small",
        model=dataclasses.replace(nano((colours,)), decoder=None),
        optimizer=OptimizerConfig(ema=0.9),
        train=TrainConfig(steps=STEPS, batch_size=8, save_every=SAVE_EVERY, log_every=1),
        mesh=MeshConfig(fsdp=-1),
    )
