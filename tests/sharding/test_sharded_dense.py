"""A dense head on eight devices: the losses of one, pixel by pixel, and weights from the batch."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from nano import BANDSETS, IMAGE, INPUTS, REG, SIZE, batch

from rsvlm_jax.config import (
    Experiment,
    HeadConfig,
    LlamaConfig,
    LossConfig,
    MeshConfig,
    TemporalConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.train import create, init_state, make_optimizer
from rsvlm_jax.train.losses import weights
from rsvlm_jax.train.step import make_loss_step

EDGE, N = 8, 8

MODEL = VLMConfig(
    inputs=INPUTS,
    vision=ViTConfig(image_size=8, patch_size=4, width=8, layers=1, heads=2, mlp_dim=8),
    temporal=TemporalConfig(budget=N, layers=1, heads=2),
    decoder=LlamaConfig(
        vocab_size=514, width=8, layers=1, heads=2, kv_heads=2, mlp_dim=8, max_length=32
    ),
    head=HeadConfig(kind="linear", reg_tokens=2, dense="places"),
)


def test_eight_devices_have_the_losses_of_one():
    experiment = Experiment(name="dense", model=MODEL, loss=LossConfig())
    graphdef, params, stats = create(
        lambda rngs: VisionLanguageModel(
            MODEL, BANDSETS, image_token=IMAGE, reg_token=REG, window=EDGE, rngs=rngs
        ),
        seed=0,
    )
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(SIZE, 1, EDGE, EDGE)).astype(np.float32)
    maps[rng.random(maps.shape) < 0.3] = np.nan
    given = dataclasses.replace(batch(0), target_map=maps)
    given.sample[-1] = -1
    known = float(np.isfinite(maps[:-1]).sum())
    found = []
    for config in (MeshConfig(), MeshConfig(data=2, fsdp=2, tensor=2)):
        mesh = make_mesh(config)
        optimizer = make_optimizer(experiment.optimizer, 5, params)
        state = init_state(params, stats, optimizer, mesh, config=experiment.optimizer)
        step = make_loss_step(graphdef, experiment, mesh, state)
        found.append(jax.device_get(step(state.params, state.stats, given)))
    for name, (total, weight) in found[0].items():
        assert weight == known == float(weights(given, experiment.losses)[name])
        np.testing.assert_allclose(found[1][name], (total, weight), rtol=1e-5)
