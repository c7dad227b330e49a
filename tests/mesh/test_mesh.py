"""The mesh and its errors, activation constraints, and the reading of HLO."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from rsvlm_jax.config import ConfigError, MeshConfig
from rsvlm_jax.mesh import AXES, collectives, constrain, make_mesh


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 1, 1)),
        (MeshConfig(2, 2, 2), (2, 2, 2)),
        (MeshConfig(-1, 2, 1), (4, 2, 1)),
        (MeshConfig(1, -1, 1), (1, 8, 1)),
    ],
)
def test_a_mesh_has_three_automatic_axes(config, shape):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES
    assert mesh.devices.shape == shape
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_mesh_may_be_of_given_devices():
    chosen = jax.devices()[4:6]
    assert list(make_mesh(MeshConfig(fsdp=-1), chosen).devices.flat) == chosen


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (MeshConfig(-1, -1), "impossible mesh in MeshConfig; expected sizes >= 1, at most one -1"),
        (MeshConfig(0), "impossible mesh"),
        (MeshConfig(3, -1), "the devices do not divide in MeshConfig; expected a divisor of 8"),
        (MeshConfig(4, 4), "too few devices in MeshConfig; expected 16 devices for data=4 x fsdp"),
    ],
)
def test_an_impossible_mesh_is_refused(config, line):
    with pytest.raises(ConfigError) as error:
        make_mesh(config)
    assert str(error.value).startswith(line)


def placed(x, *names, mesh):
    with jax.set_mesh(mesh):
        return jax.jit(lambda x: constrain(x + 0, *names))(x).sharding.spec


def test_without_a_mesh_constrain_is_the_identity():
    x = jnp.ones((3, 5))
    assert constrain(x, "batch", "embed") is x


def test_constraints_hold_on_cpu_devices():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    both = ("data", "fsdp")
    assert placed(jnp.ones((8, 4)), "batch", "embed", mesh=mesh) == PartitionSpec(both)
    spec = placed(jnp.ones((4, 6, 2, 3)), "batch", "length", "heads", None, mesh=mesh)
    assert spec == PartitionSpec(both, None, "tensor")
    assert placed(jnp.ones((4, 6)), "batch", "vocab", mesh=mesh) == PartitionSpec(both, "tensor")


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


def test_collectives_are_counted_with_their_bytes():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    split = jax.NamedSharding(mesh, PartitionSpec("fsdp"))
    whole = jax.NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    gather = jax.jit(lambda x: x, in_shardings=split, out_shardings=whole).lower(x).compile()
    assert [(c.kind, c.bytes) for c in collectives(gather)] == [("all-gather", 64 * 4 * 4)]
    reduce = jax.jit(lambda x: x.sum(0), in_shardings=split, out_shardings=whole).lower(x)
    assert [(c.kind, c.bytes) for c in collectives(reduce.compile())] == [("all-reduce", 4 * 4)]
    local = jax.jit(lambda x: x + 1, in_shardings=split, out_shardings=split).lower(x).compile()
    assert collectives(local) == []


def test_asynchronous_collectives_are_counted_once():
    text = """
      %s = (f32[8,4]{1,0}, f32[64,4]{1,0}) all-gather-start(f32[8,4]{1,0} %p), dimensions={0}
      %d = f32[64,4]{1,0} all-gather-done((f32[8,4]{1,0}, f32[64,4]{1,0}) %s)
      %r = bf16[10]{0} reduce-scatter(bf16[80]{0} %q), dimensions={0}
      %b = pred[16]{0} all-reduce(pred[16]{0} %c), to_apply=%or
    """
    found = [(c.kind, c.bytes) for c in collectives(text)]
    assert found == [("all-gather", 1024), ("reduce-scatter", 20), ("all-reduce", 16)]
