"""Greenness (NDVI, from Sentinel-2) of 16x16-pixel windows out of Sentinel-1 alone, in Spain.

    rsvlm train experiments/demo_radar.py --out runs/radar
    rsvlm demo --story radar

VV and VH of one pass become a three-channel frame through the SAR pseudo-RGB; the Sentinel-2
scene of the next day gives the target and is not read by the model.
"""

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


def experiment() -> Experiment:
    sentinel1 = InputConfig("s1_db", spectral=SpectralConfig(sar_third="ratio_db"))
    return Experiment(
        name="demo_radar",
        data=DataConfig(
            cube="sample:spain_s1s2",
            target=TargetConfig("ndvi", "greenness"),
            window=16,
            stride=8,
            split=SplitConfig(block=64),
        ),
        model=nano((sentinel1,), image_size=16, patch_size=4),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, ema=0.98, groups=(GroupConfig("^decoder/", 0.3),)
        ),
        train=TrainConfig(steps=260, batch_size=64, save_every=130),
        init_from="asset:stories260k",
    )
