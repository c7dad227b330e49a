"""Greenness (NDVI) of 16x16-pixel windows out of one pass of Sentinel-1, by a pretrained encoder.

    rsvlm train experiments/spain_radar.py --out runs/spain_radar
    python -m experiments.bench regression:radar    # five spatial folds, beside the baselines

The cube and windows of `demo_radar.py`; here VV and VH enter by Galileo-nano, pretrained and
frozen, in patches of 4 pixels. The head starts from ridge on the mean of their embeddings, fitted
to the training windows; the decoder and the head learn to correct that, as in `hls_gpp.py`.
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

READOUT = 0.3
"""By `experiments.bench.readout`: folds within the training folds."""


def experiment() -> Experiment:
    model = nano((InputConfig("s1_db", "galileo", dates=1),))
    return Experiment(
        name="spain_radar",
        data=DataConfig(
            cube="sample:spain_s1s2",
            target=TargetConfig("ndvi", "greenness"),
            window=16,
            stride=8,
            split=SplitConfig(block=64),
        ),
        model=dataclasses.replace(
            model,
            encoders=EncodersConfig(galileo=GalileoConfig(patch_size=4, steps=1)),
            vision=dataclasses.replace(model.vision, width=128),  # of the tokens: no frame is read
            temporal=dataclasses.replace(model.temporal, budget=1),
            head=dataclasses.replace(model.head, layers=2, dropout=0.2, readout=READOUT),
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            ema=0.98,
            groups=(GroupConfig("/galileo/encoder/", 0.0), GroupConfig("^decoder/", 0.3)),
        ),
        train=TrainConfig(steps=100, batch_size=64, save_every=100, log_every=50),
        init_from="encoders/galileo=asset:galileo_nano,decoder=asset:stories260k",
    )
