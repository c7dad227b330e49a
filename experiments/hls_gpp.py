"""Gross primary production at 36 flux towers, from one date of Harmonised Landsat and Sentinel-2.

    rsvlm train experiments/hls_gpp.py --out runs/gpp
    python -m experiments.bench regression:gpp    # five folds of towers, beside the baselines

Six bands of one pixel enter by Galileo-nano, pretrained and frozen. The head starts from ridge on
its embedding, fitted to the training towers (`HeadConfig.readout`); the decoder and the head learn
to correct that. Towers are held out whole. The target is learned as its asinh: some fluxes are
below 0.
"""

import dataclasses

from rsvlm_jax.config import (
    DataConfig,
    EncodersConfig,
    Experiment,
    GalileoConfig,
    GroupConfig,
    InputConfig,
    OptimizerConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
    nano,
)

READOUT = 0.05
"""By `experiments.bench.readout`: folds within the training folds."""


def experiment() -> Experiment:
    model = nano((InputConfig("hls_sr6", "galileo", dates=1),))
    return Experiment(
        name="hls_gpp",
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
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            ema=0.98,
            groups=(GroupConfig("/galileo/encoder/", 0.0), GroupConfig("^decoder/", 0.3)),
        ),
        train=TrainConfig(steps=100, batch_size=64, save_every=100, log_every=50),
        init_from="encoders/galileo=asset:galileo_nano,decoder=asset:stories260k",
    )
