"""Tree cover of 8x8-pixel windows from five dated Sentinel-2 scenes of a Slovenian valley.

    rsvlm train experiments/demo_treecover.py --out runs/treecover
    rsvlm demo                    # the same over five spatial folds, with baselines, map and chat

The data: 101x100 pixels, 13 bands, five dates in 2015 of which two are all cloud, masks by date.
The three clearest dates of each window become four spectral frames a date (true colour, NIR, SWIR,
red edge) and one of indices; all frames go through one small ViT; dates are fused under their cloud
masks to eight visual tokens; the decoder is the 260k-parameter TinyStories Llama.
"""

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    GroupConfig,
    InputConfig,
    OptimizerConfig,
    SpectralConfig,
    TargetConfig,
    TrainConfig,
    nano,
)

LAND_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Without the 60 m bands of the atmosphere: aerosol, water vapour, cirrus."""


def experiment() -> Experiment:
    sentinel2 = InputConfig(
        "s2_l1c",
        bands=LAND_BANDS,
        dates=3,
        spectral=SpectralConfig(indices=("ndvi", "ndmi", "nbr")),
    )
    return Experiment(
        name="demo_treecover",
        data=DataConfig(
            cube="sample:slovenia_s2",
            target=TargetConfig("tree_cover", "tree cover"),
            window=8,
            stride=4,
        ),
        model=nano((sentinel2,)),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, ema=0.98, groups=(GroupConfig("^decoder/", 0.3),)
        ),
        train=TrainConfig(steps=240, batch_size=32, save_every=120),
        init_from="asset:stories260k",
    )
