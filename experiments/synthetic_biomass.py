"""Above-ground biomass of a synthetic world whose law is known, from three sensors and terrain.

    rsvlm train experiments/synthetic_biomass.py --out runs/biomass
    rsvlm train experiments/synthetic_biomass.py:sar --out runs/sar     # or rgb, optical: ablated
    python -m experiments.bench biomass       # beside the oracle, by `series()`

Two optical platform families on different dates, speckled dual-polarisation radar, an elevation
model; clouds, haze and saturation. The oracle knows the law and sees the same noisy pixels.

`series()` reads window means of every date, by bins, instead of frames. It was tried on another
world, "world:full:1", before this one; biomass as its root, tried on this one's halves, was worse.
"""

import dataclasses
from typing import Literal

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    GroupConfig,
    InputConfig,
    OptimizerConfig,
    SpectralConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
    nano,
)

RGB = ("red", "green", "blue")
INDICES = SpectralConfig(indices=("ndvi", "ndmi", "nbr"))
ABLATIONS = {
    "rgb": (InputConfig("s2_l2a", bands=RGB),),
    "optical": (InputConfig("s2_l2a"), InputConfig("landsat_sr6")),
    "sar": (InputConfig("s1_db"),),
    "all": (
        InputConfig("s2_l2a"),
        InputConfig("landsat_sr6"),
        InputConfig("s1_db"),
        InputConfig("dem", front="pixel"),
    ),
}


def experiment(inputs: Literal["rgb", "optical", "sar", "all"] = "all") -> Experiment:
    return Experiment(
        name=f"synthetic_biomass_{inputs}",
        data=DataConfig(
            cube="world:full",
            target=TargetConfig("agb", "above-ground biomass"),
            window=8,
            stride=4,
            split=SplitConfig(block=32),
        ),
        model=nano(ABLATIONS[inputs]),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, ema=0.99, groups=(GroupConfig("^decoder/", 0.3),)
        ),
        train=TrainConfig(steps=1500, batch_size=64, save_every=500, log_every=50),
        init_from="asset:stories260k",
    )


def series(inputs: Literal["rgb", "all"] = "all") -> Experiment:
    """All sensors by the pixel front: one token a date, each date with a map of its own."""
    frames = experiment()
    read: tuple[InputConfig, ...] = (
        InputConfig("s2_l2a", "pixel", dates=8, bins=8, lags=True, spectral=INDICES),
        InputConfig("landsat_sr6", "pixel", dates=4, bins=8, lags=True, spectral=INDICES),
        InputConfig("s1_db", "pixel", dates=8, bins=8, lags=True),
        InputConfig("dem", "pixel"),
    )
    if inputs == "rgb":
        read = tuple(dataclasses.replace(i, bands=RGB, spectral=SpectralConfig()) for i in read[:2])
    return dataclasses.replace(
        frames,
        name=f"synthetic_biomass_series_{inputs}",
        model=nano(read),
        train=dataclasses.replace(frames.train, steps=1000),
    )
