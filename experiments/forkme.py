"""The file to copy. Every field that most experiments change, with a word on each.

cp experiments/forkme.py experiments/mine.py
rsvlm train experiments/mine.py --out runs/mine --dry-run    # validates, prints, trains nothing
rsvlm train experiments/mine.py --out runs/mine --tiny       # seconds on a CPU
rsvlm train experiments/mine.py --out runs/mine --train.steps 500 --data.cube my_cube.zarr
"""

from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    GroupConfig,
    InputConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    SpectralConfig,
    SplitConfig,
    TargetConfig,
    TrainConfig,
    nano,
)


def experiment() -> Experiment:
    return Experiment(
        name="forkme",
        data=DataConfig(
            cube="sample:slovenia_s2",  # a path, "sample:NAME" or "world:small|full"
            target=TargetConfig("tree_cover", "tree cover"),  # array, and its name in words
            window=8,  # pixels
            stride=4,  # of training windows; evaluation windows never overlap
            split=SplitConfig(block=25, folds=5, fold=0, buffer=0.0),
            templates="questions",  # train the text as well; "plain" trains the number alone
        ),
        model=nano(
            (
                # One entry a band set: through frames and the vision tower ("rgb") ...
                InputConfig("s2_l1c", spectral=SpectralConfig(plan="wavelength")),
                # ... or as one linear token a date ("pixel"): indices, weather, terrain.
                InputConfig("dem", front="pixel"),
            ),
            image_size=8,
            patch_size=4,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            ema=0.98,
            groups=(GroupConfig("^decoder/", 0.3),),  # slower decoder; 0 freezes it
        ),
        loss=LossConfig(text=0.2),
        train=TrainConfig(steps=200, batch_size=32, save_every=100),
        mesh=MeshConfig(data=1, fsdp=1, tensor=1),
        init_from="asset:stories260k",
    )
