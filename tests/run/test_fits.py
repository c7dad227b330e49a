"""A state that is larger than its devices is refused before it is made."""

from __future__ import annotations

import math

import pytest

from experiments import llava15_stage2
from rsvlm_jax.config import ConfigError, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.run.abstract import abstract_step
from rsvlm_jax.run.fits import check_memory, memory_of


class Device:
    def __init__(self, stats: object) -> None:
        self.stats = stats

    def memory_stats(self) -> object:
        if self.stats is NotImplemented:
            raise RuntimeError("no such call")
        return self.stats


def test_a_state_larger_than_a_device():
    made = llava15_stage2.experiment().tiny()
    mesh = make_mesh(MeshConfig(fsdp=2), make_mesh(MeshConfig(fsdp=8)).devices.flat[:2].tolist())
    step = abstract_step(made, mesh)
    gradients = sum(
        4 * math.prod(x.sharding.shard_shape(x.shape))
        for path, x in flat(step.state.params).items()
        if not path.startswith("vision/")
    )
    needed = step.state_bytes + gradients
    assert check_memory(made, step.program, mesh, limit=2**30) == needed
    with pytest.raises(ConfigError) as error:
        check_memory(made, step.program, mesh, limit=needed - 7)
    line = str(error.value)
    assert "7 bytes over" in line
    assert "gradients" in line
    assert "\n" not in line


def test_what_a_device_says():
    assert memory_of(Device({"bytes_limit": 9})) == 9
    assert memory_of(Device({})) is None
    assert memory_of(Device(None)) is None
    assert memory_of(Device(NotImplemented)) is None
