"""A step from shapes alone: what it holds on a device is what the formula says."""

from __future__ import annotations

import dataclasses
import math

import jax
import pytest

from experiments import llava15_stage2
from rsvlm_jax.config import ConfigError, Experiment, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, axes_of, collectives, make_mesh, resolve
from rsvlm_jax.run.abstract import AbstractStep, abstract_step, device_bytes, segments_of


def placed(experiment: Experiment, config: MeshConfig, batch_size: int) -> AbstractStep:
    train = dataclasses.replace(experiment.train, batch_size=batch_size)
    experiment = dataclasses.replace(experiment, train=train, mesh=config)
    return abstract_step(experiment, make_mesh(config))


def formula(made: AbstractStep, config: MeshConfig) -> int:
    """Parameters and two moments of the trained ones, by their own placement, and the scalars."""
    params = flat(made.program.params)
    mesh = make_mesh(config)
    table = flat(resolve(made.program.params, RULES[config.plan], mesh))
    held = {path: math.prod(table[path].shard_shape(x.shape)) * x.dtype.itemsize
            for path, x in params.items()}  # fmt: skip
    moments = [path for path in flat(made.state.opt_state) if "/mu/" in f"/{path}"]
    trained = {path for path in params for moment in moments if moment.endswith(f"/{path}")}
    scalars = [x for path, x in flat(made.state).items() if not x.shape]
    return sum(held.values()) + 2 * sum(held[p] for p in trained) + 4 * len(scalars)


def test_a_tiny_step_compiles_from_shapes():
    config = MeshConfig(data=2, fsdp=2, tensor=2)
    made = placed(llava15_stage2.experiment().tiny(), config, 8)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(made.state))
    assert made.state_bytes == formula(made, config)
    compiled = made.lower().compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes == made.argument_bytes
    assert memory.alias_size_in_bytes == made.state_bytes
    assert collectives(compiled)


def test_seven_billion_parameters_have_a_place():
    config = MeshConfig(fsdp=8, plan="fsdp")
    made = placed(llava15_stage2.experiment(), config, 8)
    assert made.program.parameters > 6.7e9
    assert made.state_bytes == formula(made, config)
    whole = sum(x.size * x.dtype.itemsize for x in flat(made.state).values())
    assert made.state_bytes == pytest.approx(whole / 8, rel=0.001)
    assert device_bytes(made.batch) < 2**21


def test_it_is_the_program_that_trains():
    """With the remat, the kernel and the segments of the experiment."""
    made = llava15_stage2.experiment().tiny()
    mesh = make_mesh(MeshConfig())
    graphs = [
        abstract_step(dataclasses.replace(made, train=train), mesh).program.graphdef
        for train in (
            made.train,
            dataclasses.replace(made.train, remat="full"),
            dataclasses.replace(made.train, attention="plain"),
        )
    ]
    assert len(set(graphs)) == 3
    packed = dataclasses.replace(made.conversations, pack=True)
    assert segments_of(made) == 1
    assert segments_of(dataclasses.replace(made, conversations=packed)) is None


@pytest.mark.slow
def test_seven_billion_parameters_compile():
    config = MeshConfig(fsdp=8, plan="fsdp")
    made = placed(llava15_stage2.experiment(), config, 8)
    compiled = made.lower().compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes == made.argument_bytes
    assert memory.alias_size_in_bytes == made.state_bytes
    # Layer by layer: the largest that moves is the table of tokens, not a stack.
    largest = max(math.prod(x.shape[-2:]) for x in flat(made.program.params).values())
    for c in collectives(compiled):
        if not c.sent:  # a sum over axes of one device
            continue
        assert axes_of(c, make_mesh(config)) == ("fsdp",), c
        assert math.prod(c.shape.dims) <= largest, c


def test_a_cube_needs_a_batch():
    experiment = Experiment(name="cube")
    with pytest.raises(ConfigError, match=r"the shapes of a cube's batch are those of its data"):
        abstract_step(experiment, make_mesh(MeshConfig()))


@pytest.mark.parametrize(
    ("config", "size", "line"),
    [
        (MeshConfig(fsdp=8), 12, "the batch does not divide over the mesh in TrainConfig.batch"),
        (MeshConfig(data=2, context=4), 2, "a sequence does not divide over the mesh in MeshCon"),
    ],
)
def test_a_batch_that_the_mesh_does_not_divide_is_refused(config, size, line):
    experiment = llava15_stage2.experiment().tiny()
    talk = dataclasses.replace(experiment.conversations, length=50)
    with pytest.raises(ConfigError) as error:
        placed(dataclasses.replace(experiment, conversations=talk), config, size)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
