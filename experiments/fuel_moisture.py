"""Live fuel moisture at 153 places of the United States, from three months of four sensors.

    rsvlm train experiments/fuel_moisture.py --out runs/fuel
    rsvlm train experiments/fuel_moisture.py:s1s2 --out runs/fuel_s1s2    # radar and optics alone
    python -m experiments.bench regression:fuel   # the given test places, beside the baselines

Sentinel-1, Sentinel-2, weather and terrain of one point enter by the pixel front: a token a date
and band set, bands and indices in quantile bins, each month back from the measurement with weights
of its own. A third of the tokens is hidden in training, so that no place is told by its height
alone. The target is learned as its logarithm. Presto's own test places are held out.
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

INDICES = ("ndvi", "ndmi", "nbr", "ndwi")


def experiment(inputs: Literal["all", "s1s2"] = "all") -> Experiment:
    def point(name: str, dates: int = 3, indices: tuple[str, ...] = ()) -> InputConfig:
        spectral = SpectralConfig(indices=indices)
        series = dates > 1
        return InputConfig(name, "pixel", dates=dates, spectral=spectral, bins=12, lags=series)

    read = (point("s1_db"), point("s2_l1c", indices=INDICES))
    if inputs == "all":
        read += (point("era5"), point("srtm", dates=1))
    model = nano(read)
    return Experiment(
        name=f"fuel_moisture_{inputs}",
        data=DataConfig(
            cube="sample:fuel_moisture",
            target=TargetConfig("fuel_moisture", "live fuel moisture"),
            window=1,
            stride=1,
            augment=False,
            split=SplitConfig(folds=5, fold=None, group="site_name", given=("is_test", "1")),
        ),
        model=dataclasses.replace(
            model,
            temporal=dataclasses.replace(model.temporal, budget=None, token_dropout=0.35),
            head=dataclasses.replace(model.head, layers=2, dropout=0.2, transform="log1p"),
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, ema=0.98, groups=(GroupConfig("^decoder/", 0.3),)
        ),
        train=TrainConfig(steps=400, batch_size=64, save_every=200, log_every=50),
        init_from="asset:stories260k",
    )
