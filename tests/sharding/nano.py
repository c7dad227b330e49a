"""The nano model and batches for it, made of random numbers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from flax import nnx

from rsvlm_jax.config import (
    BandSetSpec,
    BandSpec,
    Experiment,
    InputConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    VLMConfig,
    nano,
)
from rsvlm_jax.data.batch import Batch, Observation
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.train import (
    TrainState,
    create,
    init_state,
    make_optimizer,
    make_train_step,
    split_model,
)

IMAGE, REG = 512, 513
N, Q, L, SIZE = 8, 2, 20, 8

BANDSETS = (
    BandSetSpec(
        "s2",
        "optical",
        (
            BandSpec("B02", "blue", 0.490, 0.065),
            BandSpec("B03", "green", 0.560, 0.035),
            BandSpec("B04", "red", 0.665, 0.030),
            BandSpec("B08", "nir", 0.842, 0.115),
            BandSpec("B11", "swir16", 1.610, 0.090),
            BandSpec("B12", "swir22", 2.190, 0.180),
        ),
    ),
    BandSetSpec("ndvi", "covariate", (BandSpec("ndvi"),)),
)


INPUTS = (InputConfig("s2"), InputConfig("ndvi", front="pixel"))


def config() -> VLMConfig:
    made = nano(INPUTS)
    return dataclasses.replace(made, temporal=dataclasses.replace(made.temporal, date_dropout=0.25))


def experiment(kind: str = "adamw", **optimizer: object) -> Experiment:
    return Experiment(
        name="nano",
        model=config(),
        optimizer=OptimizerConfig(kind=kind, warmup=0.0, **optimizer),
        loss=LossConfig(text=0.5),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )


def model(rngs: nnx.Rngs, of: VLMConfig | None = None) -> VisionLanguageModel:
    return VisionLanguageModel(
        of or config(), BANDSETS, image_token=IMAGE, reg_token=REG, rngs=rngs
    )


def shapes(of: VLMConfig):
    """The parameters of a model that need not fit anywhere."""
    return split_model(nnx.eval_shape(lambda: model(nnx.Rngs(0), of)))[1]


def batch(seed: int, size: int = SIZE) -> Batch:
    """NumPy leaves: 3 dates of 6 bands and 4 of one, 8x8 pixels, `<image>` x N, text, `<reg>`."""
    rng = np.random.default_rng(seed)

    def observation(name: str, dates: int, bands: int) -> Observation:
        day = np.sort(rng.uniform(7000, 8000, (size, dates)), axis=1)
        return Observation(
            pixels=rng.normal(size=(size, dates, bands, 8, 8)).astype(np.float32),
            valid=rng.random((size, dates, 1, 8, 8)) < 0.8,
            date=day.astype(np.float32),
            year_known=np.ones(size, bool),
            platform=np.ones((size, dates), np.int32),
            lonlat=np.zeros((size, 2), np.float32),
            gsd=np.full(size, 10, np.float32),
            bandset=name,
        )

    tokens = rng.integers(3, 512, (size, L)).astype(np.int32)
    tokens[:, 1 : 1 + N] = IMAGE
    tokens[:, -Q:] = REG
    slot = np.full((size, L), -1, np.int32)
    slot[:, 1 : 1 + N] = np.arange(N)
    weight = np.zeros((size, L), np.float32)
    weight[:, 1 + N :] = 1
    return Batch(
        obs={"s2": observation("s2", 3, 6), "ndvi": observation("ndvi", 4, 1)},
        tokens=tokens,
        segment=np.ones((size, L), np.int32),
        position=np.tile(np.arange(L, dtype=np.int32), (size, 1)),
        weight=weight,
        image_slot=slot,
        target=rng.normal(size=(size, 1)).astype(np.float32),
        target_valid=np.ones((size, 1), bool),
        sample=np.arange(size, dtype=np.int32),
    )


def start(
    exp: Experiment,
    mesh_config: MeshConfig,
    seed: int = 0,
    of: VLMConfig | None = None,
    total: int = 5,
):
    """A placed state and its step, of `total`; `of` another model than `config()`."""
    mesh = make_mesh(mesh_config)
    graphdef, params, stats = create(lambda rngs: model(rngs, of), seed=seed)
    optimizer = make_optimizer(exp.optimizer, total, params)
    state = init_state(params, stats, optimizer, mesh, config=exp.optimizer)
    return state, make_train_step(graphdef, exp, optimizer, mesh, state)


def steps(state: TrainState, step, count: int) -> tuple[TrainState, list[dict[str, float]]]:
    rows = []
    for i in range(count):
        state, metrics = step(state, batch(i))
        rows.append({k: float(v) for k, v in jax.device_get(metrics).items()})
    return state, rows
