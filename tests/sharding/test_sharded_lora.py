"""LoRA on one device and on eight: the same losses, the base untouched, little to keep."""

from __future__ import annotations

import re

import jax
import nano
import numpy as np
import pytest
from flax import nnx

from rsvlm_jax.config import LORA_ONLY, LoraConfig, MeshConfig
from rsvlm_jax.core import base_path, flat
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.nn import add_lora
from rsvlm_jax.train import create, init_state, make_optimizer, make_train_step

LORA = LoraConfig(rank=3, alpha=6.0)


def model(rngs: nnx.Rngs):
    return add_lora(nano.model(rngs), LORA, rngs)


@pytest.fixture(scope="module")
def runs():
    exp = nano.experiment("adamw", groups=LORA_ONLY, learning_rate=0.01)
    made = []
    graphdef, params, stats = create(model, seed=0)
    for config in (MeshConfig(), MeshConfig(2, 2, 2)):
        mesh = make_mesh(config)
        optimizer = make_optimizer(exp.optimizer, 5, params)
        state = init_state(params, stats, optimizer, mesh, config=exp.optimizer)
        step = make_train_step(graphdef, exp, optimizer, mesh, state)
        made.append(nano.steps(state, step, 3))
    return params, *made


def test_losses_and_factors_agree(runs):
    _, (one, rows_one), (eight, rows_eight) = runs
    for a, b in zip(rows_one, rows_eight, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert a["skipped"] == b["skipped"] == 0
    other = flat(jax.device_get(eight.params))
    for path, x in flat(jax.device_get(one.params)).items():
        assert np.abs(other[path] - x).max() <= 1e-4, path


def test_only_the_factors_of_the_decoder_moved(runs):
    before, _, (eight, _) = runs
    moved = {p for p, x in flat(jax.device_get(eight.params)).items()
             if not np.array_equal(x, flat(before)[p])}  # fmt: skip
    assert moved == {p for p in flat(before) if base_path(p) != p}
    assert {base_path(p).rsplit("/", 2)[0] for p in moved} == {
        "decoder/layers/attention", "decoder/layers/mlp"
    }  # fmt: skip


def test_the_optimiser_keeps_nothing_for_the_base(runs):
    _, _, (eight, _) = runs
    held = [p for p, x in flat(eight.opt_state).items() if x.ndim]
    assert held
    assert all(re.search(r"/(mu|nu)/decoder/layers/.*_lora_[ab]$", p) for p in held)
