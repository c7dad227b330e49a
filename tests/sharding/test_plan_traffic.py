"""What a plan holds and sends: formulas beside placed shapes and compiled programs."""

from __future__ import annotations

import collections
import dataclasses
import math

import llava
import pytest

from experiments import geochat_lora, llava15_lora, llava15_stage2
from rsvlm_jax.config import ConfigError, Experiment, MeshConfig, OptimizerConfig
from rsvlm_jax.mesh import axes_of, collectives, make_mesh
from rsvlm_jax.mesh.hlo_work import moved_in_memory, works
from rsvlm_jax.run.abstract import abstract_step
from rsvlm_jax.run.traffic import (
    elementwise_bytes,
    gradient_bytes,
    kept_bytes,
    optimizer_bytes,
    parts_of,
    sent_bytes,
    state_bytes,
)
from rsvlm_jax.train.flops import step_flops

STAGE2, LORA = llava15_stage2.experiment(), llava15_lora.experiment()
EIGHT = {
    "fsdp": MeshConfig(fsdp=8, plan="fsdp"),
    "hsdp": MeshConfig(data=2, fsdp=4, plan="fsdp"),
    "slices": MeshConfig(slices=2, data=2, fsdp=2, plan="fsdp"),
    "tensor": MeshConfig(fsdp=4, tensor=2),
    "all three": MeshConfig(data=2, fsdp=2, tensor=2),
    "replicated": MeshConfig(data=8, plan="replicated"),
}


def small(experiment: Experiment, mesh: MeshConfig, **changed: object) -> Experiment:
    """The LLaVA of `llava.py`, trained as an experiment says: 8 rows of 24 positions."""
    assert experiment.conversations is not None
    return dataclasses.replace(
        experiment,
        model=llava.CONFIG,
        conversations=dataclasses.replace(experiment.conversations, length=llava.L),
        train=dataclasses.replace(experiment.train, batch_size=llava.B),
        lora=None if experiment.lora is None else dataclasses.replace(experiment.lora, rank=4),
        mesh=mesh,
        **changed,
    )


def paper(experiment: Experiment):
    mesh = make_mesh(experiment.mesh)
    made = abstract_step(experiment, mesh)
    sizes = dict(mesh.shape)
    return made, mesh, sizes, parts_of(experiment, made.program, sizes)


@pytest.mark.parametrize("name", EIGHT)
def test_the_state_on_a_chip_is_that_of_placed_shapes_to_the_byte(name):
    experiment = small(STAGE2, EIGHT[name])
    made, _, sizes, parts = paper(experiment)
    assert state_bytes(experiment, parts, sizes) == made.state_bytes
    assert sum(p.count for p in parts) == made.program.parameters


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": dataclasses.replace(STAGE2.optimizer, ema=0.99)},
        {"optimizer": dataclasses.replace(STAGE2.optimizer, kind="sgd")},
    ],
)
def test_of_an_average_and_of_no_moments_too(changed):
    experiment = small(STAGE2, EIGHT["fsdp"], **changed)
    made, _, sizes, parts = paper(experiment)
    assert state_bytes(experiment, parts, sizes) == made.state_bytes


@pytest.mark.parametrize("mesh", [MeshConfig(data=8, plan="lora_dp"), EIGHT["tensor"]])
@pytest.mark.parametrize("base", ["float", "int8"])
def test_of_lora_and_codes_too(mesh, base):
    experiment = small(LORA, mesh, base=base)
    made, _, sizes, parts = paper(experiment)
    assert state_bytes(experiment, parts, sizes) == made.state_bytes


@pytest.fixture(scope="module")
def compiled():
    found = {}
    for name in ("fsdp", "hsdp", "tensor"):
        experiment = small(STAGE2, EIGHT[name])
        made, mesh, sizes, parts = paper(experiment)
        found[name] = experiment, made, mesh, sizes, parts, made.lower().compile()
    return found


def counted(made, mesh) -> collections.Counter:
    found: collections.Counter = collections.Counter()
    for c in collectives(made):
        axes = axes_of(c, mesh)
        found[axes[0] if axes and len(axes) == 1 else axes] += c.sent * c.count
    return found


@pytest.mark.parametrize("name", ["fsdp", "tensor"])
def test_what_is_sent_is_what_the_compiled_step_sends(compiled, name):
    experiment, _, mesh, sizes, parts, program = compiled[name]
    sent, found = sent_bytes(experiment, parts, sizes), counted(program, mesh)
    assert set(sent) <= {"fsdp", "tensor"}
    for axis in sent:
        assert sent[axis] == pytest.approx(found[axis], rel=0.01), axis
    assert sum(found.values()) == pytest.approx(sum(sent.values()), rel=0.01)


def test_of_replicas_too(compiled):
    """The compiler sums the token table over both axes at once: the sum is what is compared."""
    experiment, _, mesh, sizes, parts, program = compiled["hsdp"]
    sent, found = sent_bytes(experiment, parts, sizes), counted(program, mesh)
    assert sum(sent.values()) == pytest.approx(sum(found.values()), rel=0.02)
    assert sent["fsdp"] == pytest.approx(found["fsdp"], rel=0.02)


def test_the_products_of_the_program_are_those_of_the_formula(compiled):
    experiment, made, _, sizes, _, program = compiled["fsdp"]
    flops = step_flops(
        made.program.graphdef, experiment, made.state.params, made.state.stats, made.batch
    ).full
    done = works(program)
    counted = sum(w.count * w.product.flops for w in done if w.product is not None)
    assert counted * math.prod(sizes.values()) == pytest.approx(flops, rel=1e-6)
    assert 0 < moved_in_memory(program) < sum(w.count * w.bytes for w in done)


def test_more_chips_hold_less_and_send_no_less():
    experiment = small(STAGE2, MeshConfig(plan="fsdp"))
    made = abstract_step(experiment, make_mesh(experiment.mesh)).program
    held, sent = [], []
    for f in (1, 2, 4, 8):
        parts = parts_of(experiment, made, {"fsdp": f})
        held.append(
            state_bytes(experiment, parts, {"fsdp": f}) + gradient_bytes(parts, {"fsdp": f})
        )
        sent.append(sum(sent_bytes(experiment, parts, {"fsdp": f}).values()))
        assert optimizer_bytes(experiment, parts, {"fsdp": f}) < 8 * held[-1]
    assert held == sorted(held, reverse=True)
    assert sent == sorted(sent)
    assert sent[0] == 0


def test_lora_sends_its_factors_alone():
    mesh = MeshConfig(data=8, plan="lora_dp")
    experiment = small(geochat_lora.experiment(), mesh)
    _, _, sizes, parts = paper(experiment)
    trained = sum(p.count for p in parts if p.trained)
    images = 7 / 8 * llava.B * llava.N * 32 * 4
    assert sent_bytes(experiment, parts, sizes) == {
        "data": pytest.approx(2 * 7 / 8 * 4 * trained + images)
    }


def test_what_is_kept_grows_with_the_policy_and_the_tokens():
    model = STAGE2.model
    kept = [kept_bytes(model, 1, r) for r in ("full", "save_context", "save_qkv_mlp", "none")]
    assert kept == sorted(kept)
    assert kept[0] == 2 * 4096 * 32
    assert kept[2] == 2 * 32 * (5 * 4096 + 2 * 11008)
    assert kept_bytes(model, 10, "full") == 10 * kept[0]
    assert elementwise_bytes(model, 1) == 2 * 32 * 3 * (14 * 4096 + 3 * 11008)


def test_an_optimiser_without_a_formula():
    experiment = small(STAGE2, EIGHT["fsdp"], optimizer=OptimizerConfig("muon"))
    _, _, sizes, parts = paper(experiment)
    with pytest.raises(ConfigError, match="no formula for the state of this optimiser"):
        state_bytes(experiment, parts, sizes)


def test_a_step_without_a_formula():
    experiment = small(STAGE2, EIGHT["fsdp"])
    _, _, sizes, parts = paper(experiment)
    with pytest.raises(ConfigError, match="no formula for what this step sends"):
        sent_bytes(experiment, parts, {**sizes, "context": 2})
