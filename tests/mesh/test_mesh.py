"""The mesh and its errors, batches that it does not divide, activation constraints."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rsvlm_jax.config import ConfigError, MeshConfig
from rsvlm_jax.mesh import AXES, check_batch, constrain, make_mesh
from rsvlm_jax.mesh.build import arrange


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 1, 1, 1, 1)),
        (MeshConfig(2, 2, 2), (1, 2, 2, 2, 1)),
        (MeshConfig(-1, 2, 1), (1, 4, 2, 1, 1)),
        (MeshConfig(1, -1, 1), (1, 1, 8, 1, 1)),
        (MeshConfig(1, 2, 2, 2), (1, 1, 2, 2, 2)),
        (MeshConfig(fsdp=2, context=-1, slices=2), (2, 1, 2, 1, 2)),
    ],
)
def test_a_mesh_has_five_automatic_axes(config, shape):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES == ("slice", "data", "fsdp", "tensor", "context")
    assert mesh.devices.shape == shape
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]


def test_a_mesh_may_be_of_given_devices():
    chosen = jax.devices()[4:6]
    assert list(make_mesh(MeshConfig(fsdp=-1), chosen).devices.flat) == chosen


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (MeshConfig(-1, -1), "impossible mesh in MeshConfig; expected sizes >= 1, at most one -1"),
        (MeshConfig(0), "impossible mesh"),
        (MeshConfig(3, -1), "the devices do not divide in MeshConfig; expected a divisor of 8"),
        (
            MeshConfig(4, 4),
            "the mesh does not multiply to the number of devices in MeshConfig; expected 8 devices "
            "(cpu); found data=4 x fsdp=4 x tensor=1: 16; set one axis to -1",
        ),
        (MeshConfig(2, slices=2), "the mesh does not multiply to the number of devices in MeshC"),
        (
            MeshConfig(1, 1, 8, plan="fsdp"),
            "the plan splits nothing over an axis of the mesh in MeshConfig.tensor; expected 1",
        ),
        (MeshConfig(1, 1, -1, plan="lora_dp"), "the plan splits nothing over an axis of the mesh"),
    ],
)
def test_an_impossible_mesh_is_refused(config, line):
    with pytest.raises(ConfigError) as error:
        make_mesh(config)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


class Chip:
    """A device that says where it stands."""

    def __init__(self, number: int, slice_index: int, platform: str = "gpu") -> None:
        self.id, self.slice_index, self.platform = number, slice_index, platform
        self.device_kind, self.process_index = "chip", slice_index


def test_slices_are_outermost_whatever_the_order_of_devices():
    chips = [Chip(i, slice_index=i % 2) for i in range(8)]
    ordered = arrange(chips, (2, 1, 2, 2, 1))
    assert [[c.slice_index for c in part.flat] for part in ordered] == [[0] * 4, [1] * 4]
    assert [c.id for c in ordered[1].flat] == [1, 3, 5, 7]


def test_later_axes_take_neighbours():
    ids = np.vectorize(lambda d: d.id)(make_mesh(MeshConfig(1, 2, 2, 2)).devices)[0, 0]
    assert (abs(np.diff(ids, axis=2)) == 1).all(), "context"
    assert (abs(np.diff(ids, axis=1)) == 2).all(), "tensor"


@pytest.mark.parametrize(
    ("slices", "sizes", "line"),
    [
        ([0, 1] * 4, (1, 8, 1, 1, 1), "the devices are of another number of slices in MeshConfig"),
        ([0] * 5 + [1] * 3, (2, 4, 1, 1, 1), "slices of different sizes in MeshConfig.slices"),
    ],
)
def test_slices_that_are_not_those_of_the_devices(slices, sizes, line):
    with pytest.raises(ConfigError) as error:
        arrange([Chip(i, s) for i, s in enumerate(slices)], sizes)
    assert str(error.value).startswith(line)


def test_one_slice_of_a_pod_is_not_two():
    with pytest.raises(ConfigError, match=r"another number of slices .* expected 1, those of"):
        arrange([Chip(i, 0, "tpu") for i in range(8)], (2, 4, 1, 1, 1))


@pytest.mark.parametrize(
    ("config", "size", "lengths", "micro", "line"),
    [
        (
            MeshConfig(2, 2, 2), 6, (), 1,
            "the batch does not divide over the mesh in TrainConfig.batch_size; expected a "
            "multiple of 4 (slice=1 x data=2 x fsdp=2); found 6",
        ),
        (MeshConfig(2, 2, 2), 4, (), 2, "the batch does not divide over the mesh in TrainConfig"),
        (
            MeshConfig(2, 1, 1, 4), 2, (64, 66), 1,
            "a sequence does not divide over the mesh in MeshConfig.context; expected lengths "
            "that are multiples of 4; found 66",
        ),
    ],
)  # fmt: skip
def test_a_batch_that_the_mesh_does_not_divide(config, size, lengths, micro, line):
    mesh = make_mesh(config)
    with pytest.raises(ConfigError) as error:
        check_batch(mesh, size, lengths, micro=micro)
    assert str(error.value).startswith(line)
    check_batch(mesh, 8, (64,), micro=micro)


def placed(x, *names, mesh):
    with jax.set_mesh(mesh):
        return jax.jit(lambda x: constrain(x + 0, *names))(x).sharding.spec


def test_without_a_mesh_constrain_is_the_identity():
    x = jnp.ones((3, 5))
    assert constrain(x, "batch", "embed") is x


def test_constraints_hold_on_cpu_devices():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    both = ("data", "fsdp")  # axes of one device are left out
    assert placed(jnp.ones((8, 4)), "batch", "embed", mesh=mesh) == PartitionSpec(both)
    spec = placed(jnp.ones((4, 6, 2, 3)), "batch", "length", "heads", None, mesh=mesh)
    assert spec == PartitionSpec(both, None, "tensor")
    assert placed(jnp.ones((4, 6)), "batch", "vocab", mesh=mesh) == PartitionSpec(both, "tensor")


def test_a_length_is_split_over_context_where_it_divides():
    mesh = make_mesh(MeshConfig(2, 1, 1, 4))
    spec = placed(jnp.ones((4, 8, 3)), "batch", "length", "embed", mesh=mesh)
    assert spec == PartitionSpec("data", "context")
    for one in (1, 6):  # a decode step, a tower's tokens
        x = jnp.ones((4, one, 3))
        assert "context" not in str(placed(x, "batch", "length", "embed", mesh=mesh))


def test_heads_that_do_not_divide_are_replicated():
    mesh = make_mesh(MeshConfig(1, 1, 8))
    spec = placed(jnp.ones((4, 6, 2, 3)), "batch", "length", "heads", None, mesh=mesh)
    assert "tensor" not in str(spec)


@pytest.mark.parametrize(
    ("shape", "names", "line"),
    [
        ((4, 4), ("batch", "head"), "unknown activation axis in constrain; expected one of batch,"),
        ((4, 4), ("batch",), "one name for each axis in constrain; expected 2"),
        ((6, 4), ("batch", None), "a dimension does not divide over the mesh in an activation of"),
        ((4, 4), ("heads", "mlp"), "a mesh axis is used twice"),
    ],
)
def test_a_wrong_constraint_is_refused(shape, names, line):
    with pytest.raises(ConfigError) as error:
        placed(jnp.ones(shape), *names, mesh=make_mesh(MeshConfig(2, 2, 2)))
    assert str(error.value).startswith(line)
    if "head" in names:
        assert "did you mean 'heads'?" in str(error.value)
