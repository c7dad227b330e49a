"""Above-ground biomass of a synthetic world whose law is known, from three sensors and terrain.

    rsvlm train experiments/synthetic_biomass.py --out runs/biomass
    rsvlm train experiments/synthetic_biomass.py:sar --out runs/sar     # or rgb, optical: ablated
    python -m experiments.bench biomass       # R2 against the oracle, and the sensor ablation

Two optical platform families on different dates, speckled dual-polarisation radar, an elevation
model; clouds, haze and saturation. The oracle knows the law and sees the same noisy pixels.
"""

from typing import Literal

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    GroupConfig,
    InputConfig,
    OptimizerConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
    nano,
)

ABLATIONS = {
    "rgb": (InputConfig("s2_l2a", bands=("red", "green", "blue")),),
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
