"""Gross primary production at 36 flux towers, from one date of Harmonised Landsat and Sentinel-2.

    rsvlm train experiments/hls_gpp.py --out runs/gpp
    rsvlm train experiments/hls_gpp.py:pixel --out runs/gpp_pixel     # without a pretrained encoder
    python -m experiments.bench regression:gpp    # five folds of towers, beside the baselines

Six bands of one pixel enter by Galileo-nano, pretrained and frozen, or by the pixel front: bands
and indices in quantile bins. Towers are held out whole. The target is learned as its square root's
kin, asinh: fluxes of the night are below 0.
"""

import dataclasses
from typing import Literal

from rsvlm_jax.config import (
    DataConfig,
    EncodersConfig,
    Experiment,
    GalileoConfig,
    GroupConfig,
    InputConfig,
    OptimizerConfig,
    SpectralConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
    nano,
)

READOUT = 0.05
"""By `experiments.bench.readout`: folds within the training folds."""

INDICES = ("ndvi", "ndmi", "nbr", "ndwi")


def experiment(front: Literal["galileo", "pixel"] = "galileo") -> Experiment:
    if front == "pixel":
        spectral = SpectralConfig(indices=INDICES)
        read = InputConfig("hls_sr6", "pixel", dates=1, spectral=spectral, bins=8)
    else:
        read = InputConfig("hls_sr6", "galileo", dates=1)
    model = nano((read,))
    start = "asset:stories260k"
    groups = (GroupConfig("^decoder/", 0.3),)
    if front == "galileo":
        start = "encoders/galileo=asset:galileo_nano,decoder=asset:stories260k"
        groups = (GroupConfig("/galileo/encoder/", 0.0), *groups)
    return Experiment(
        name=f"hls_gpp_{front}",
        data=DataConfig(
            cube="sample:hls_gpp",
            target=TargetConfig("gpp", "gross primary production"),
            window=1,
            stride=1,
            augment=False,
            split=SplitConfig(folds=5, fold=0, group="site_name"),
        ),
        model=dataclasses.replace(
            model,
            encoders=EncodersConfig(galileo=GalileoConfig(patch_size=1, steps=1)),
            vision=dataclasses.replace(model.vision, width=128),  # of the tokens: no frame is read
            temporal=dataclasses.replace(model.temporal, budget=1),
            head=dataclasses.replace(
                model.head, layers=2, dropout=0.2, transform="asinh", readout=READOUT
            ),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, ema=0.98, groups=groups),
        train=TrainConfig(steps=300, batch_size=64, save_every=300, log_every=50),
        init_from=start,
    )
