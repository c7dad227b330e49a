"""A step of packed conversations with LoRA: on one device and on eight; what it leaves out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from data_zarr.samples import sample_questions
from rsvlm_jax.config import (
    LORA_ONLY,
    STORIES260K,
    ConversationConfig,
    Experiment,
    GroupConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat, is_lora
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.run.fit import initial
from rsvlm_jax.run.talk import PreparedTalk, held_out_batches, prepare_talk
from rsvlm_jax.train import init_state, make_optimizer, make_train_step, merge
from rsvlm_jax.train.step import make_loss_step

QUESTIONS = sample_questions("rsvqa_lr")
IMAGES = QUESTIONS[0].image.parent
VISION = ViTConfig(
    image_size=32, patch_size=8, width=32, layers=2, heads=4, mlp_dim=64, feature_layers=(-1,)
)
DECODER = dataclasses.replace(STORIES260K, layers=1)
BESIDE = (LORA_ONLY[0], GroupConfig("^connector/", 0.5), LORA_ONLY[1])


def experiment(file: Path) -> Experiment:
    return Experiment(
        name="talking",
        model=VLMConfig(vision=VISION, decoder=DECODER, head=None),
        conversations=ConversationConfig(
            files=((str(file), 1.0),), images=str(IMAGES), template="mistral", length=192,
            pack=True, held_out=0.2, held_out_by="question", threads=0, prefetch=0,
        ),
        optimizer=OptimizerConfig(learning_rate=0.01, warmup=0.0, groups=BESIDE),
        train=TrainConfig(batch_size=8),
        lora=LoraConfig(rank=2, alpha=4.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> PreparedTalk:
    """Fifty questions of the shipped sample."""
    file = tmp_path_factory.mktemp("talk") / "few.json"
    file.write_text(json.dumps([
        {"image": q.image.name, "conversations": [
            {"from": "human", "value": f"<image>\n{q.question}"},
            {"from": "gpt", "value": q.answer},
        ]}
        for q in QUESTIONS[::48]
    ]))  # fmt: skip
    return prepare_talk(experiment(file))


@pytest.fixture(scope="module")
def batches(work: PreparedTalk) -> list[Batch]:
    with work.batches() as drawn:
        return [next(drawn) for _ in range(3)]


def start(work: PreparedTalk, config: MeshConfig):
    """A placed state, its step and its measure."""
    mesh, made = make_mesh(config), work.experiment
    optimizer = make_optimizer(made.optimizer, 5, work.program.params)
    state = init_state(*initial(work), optimizer, mesh, config=made.optimizer)
    step = make_train_step(work.program.graphdef, made, optimizer, mesh, state)
    return state, step, make_loss_step(work.program.graphdef, made, mesh, state)


@pytest.fixture(scope="module")
def runs(work: PreparedTalk, batches: list[Batch]):
    made = []
    for config in (MeshConfig(), MeshConfig(2, 2, 2)):
        state, step, measure = start(work, config)
        rows = []
        for batch in batches:
            state, metrics = step(state, batch)
            rows.append({k: float(v) for k, v in jax.device_get(metrics).items()})
        held = next(held_out_batches(work.test, 8))
        found = jax.device_get(measure(state.params, state.stats, held))["text"]
        made.append((flat(jax.device_get(state.params)), rows, found))
    return made


def test_one_and_eight_devices_agree(runs, batches: list[Batch]):
    (one, rows_one, held_one), (eight, rows_eight, held_eight) = runs
    for a, b, batch in zip(rows_one, rows_eight, batches, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert a["tokens"] == b["tokens"] == (batch.segment > 0).sum()
        assert a["padded"] == b["padded"] == batch.segment.size
        assert batch.segment.max() > 1, "packed"
        assert a["skipped"] == b["skipped"] == 0
    for path, x in one.items():
        assert np.abs(eight[path] - x).max() <= 1e-4, path
    np.testing.assert_allclose(held_one, held_eight, rtol=1e-5)


def test_the_connector_and_the_factors_moved(runs, work: PreparedTalk):
    before = flat(initial(work)[0])
    moved = {p for p, x in runs[0][0].items() if not np.array_equal(x, before[p])}
    assert moved == {p for p in before if is_lora(p) or p.startswith("connector/")}


def test_a_step_takes_the_state_that_it_is_given(work: PreparedTalk, batches: list[Batch]):
    """Donated, base and factors: a 7B model is never there twice."""
    state, step, _ = start(work, MeshConfig())
    step(state, batches[0])
    assert all(x.is_deleted() for x in jax.tree.leaves(state))


def test_a_frozen_tower_has_no_backward_pass(work: PreparedTalk, batches: list[Batch]):
    tower = jax.jit(lambda params, x: _tower(work.program.graphdef, params, x))
    flops = []
    for groups in (BESIDE, (GroupConfig("^vision/"), *BESIDE)):
        optimizer = dataclasses.replace(work.experiment.optimizer, groups=groups)
        made = dataclasses.replace(work.experiment, optimizer=optimizer)
        state, step, _ = start(dataclasses.replace(work, experiment=made), MeshConfig())
        flops.append(step.lower(state, batches[0]).compile().cost_analysis()["flops"])
    pixels = batches[0].images.pixels
    forward = tower.lower(state.params, pixels).compile().cost_analysis()["flops"]
    assert flops[1] - flops[0] > forward, "about twice the forward pass"


def _tower(graphdef, params, pixels):
    return merge(graphdef, params, {}).tower_features(pixels)
