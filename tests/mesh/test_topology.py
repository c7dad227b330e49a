"""Names of pods: what they say, and what a wrong one is answered."""

from __future__ import annotations

import sys

import pytest

from rsvlm_jax.config import ConfigError, MeshConfig
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.mesh.chips import chip_of
from rsvlm_jax.mesh.topology import abstract_devices, environment, near, topology


@pytest.mark.parametrize(
    ("name", "chips", "devices", "wrap"),
    [
        ("v5e:16x16", 256, 256, (True, True, False)),
        ("v5e:2x2", 4, 4, (False, False, False)),
        ("v6e:8x16", 128, 128, (False, True, False)),
        ("V5P:4x4x4", 64, 64, (True, True, True)),
        ("v5p:2x4x4", 32, 32, (False, False, False)),
        ("v4:4x4x8", 128, 128, (True, True, True)),
        ("tpu7x:2x2x2", 8, 16, (False, False, False)),
    ],
)
def test_slices_of_tpus(name, chips, devices, wrap):
    made = topology(name)
    assert (made.kind, made.chips, made.devices, made.wrap) == ("tpu", chips, devices, wrap)
    assert made.chip is not None
    assert made.chip.name == name.partition(":")[0].lower()
    assert made.hbm is not None
    assert made.hbm <= made.chip.hbm * 1.01


def test_simulated_devices_say_what_they_do_not_prove():
    cpu, gpu, other = topology("cpu:256"), topology("gpu:8"), topology("A100-40G:16")
    assert (cpu.kind, cpu.devices, cpu.hbm) == ("cpu", 256, None)
    assert gpu.chip is not None
    assert (gpu.kind, gpu.devices, gpu.chip.name, gpu.hbm) == ("gpu", 8, "H100", 80_000_000_000)
    assert other.hbm == 40_000_000_000
    assert any("temporary memory" in line for line in cpu.unproven)
    assert any("kernels" in line for line in gpu.unproven)


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("v5e:15x16", "v5e:16x16"),
        ("v5p-128", "v5p:4x4x4"),  # cores
        ("v5litepod-256", "v5e:16x16"),
        ("v5e:4", "v5e:2x2"),
        ("v5p:4x4", "v5p:2x2x4"),
        ("v6e:4x4x4", "v6e:8x8"),
        ("v7x:4x4x4", "tpu7x:4x4x4"),
        ("cpu", "cpu:8"),
        ("gpu:0", "gpu:8"),
        ("tpu", "tpu7x"),
        ("h100", "h100:8"),
    ],
)
def test_an_unknown_topology_is_answered_with_near_ones(name, offered):
    with pytest.raises(ConfigError, match="no such topology in --topology") as error:
        topology(name)
    assert any(found.startswith(offered) for found in near(name.lower())), near(name)
    assert near(name.lower())[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_offered_exists():
    for word in ("v4", "v5e", "v5p:9x9x9", "v6e:1", "tpu7x-1024", "cpu", "gpu:", "nothing"):
        assert all(topology(name) for name in near(word))


def test_no_libtpu(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ConfigError, match=r"the compiler of TPUs is not installed in v5e:2x2.*pip"):
        environment(topology("v5e:2x2"), {})
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "nothing.so"))
    with pytest.raises(ConfigError, match=r"found .*nothing\.so"):
        environment(topology("v5e:2x2"), {"TPU_LIBRARY_PATH": str(tmp_path / "nothing.so")})


def test_a_process_is_given_its_devices():
    given = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_a=1", "HOME": "/"}
    made = environment(topology("cpu:256"), given)
    assert made["XLA_FLAGS"].split() == [
        "--xla_a=1", "--xla_force_host_platform_device_count=256",
    ]  # fmt: skip
    assert (made["JAX_PLATFORMS"], made["HOME"]) == ("cpu", "/")


def test_too_few_devices_in_this_process():
    assert len(abstract_devices(topology("cpu:4"))) == 4
    with pytest.raises(ConfigError, match=r"too few simulated devices.*count=512; found 8"):
        abstract_devices(topology("gpu:512"))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            'ABORTED: Internal error when accessing libtpu multi-process lockfile. Run "rm ...".',
            "another process has libtpu in ALLOW_MULTIPLE_LIBTPU_LOAD; expected 1",
        ),
        ("INVALID_ARGUMENT: Invalid TPU external name", "libtpu does not describe this topology"),
    ],
)
def test_what_libtpu_refuses(monkeypatch, said, line):
    """Two processes that want it (0 in the variable), and a libtpu that is too old."""
    from jax.experimental import topologies

    def refuse(*_: object, **__: object):
        raise RuntimeError(said)

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(ConfigError) as error:
        abstract_devices(topology("v5e:2x2"))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("v4:2x2x1", {"fsdp": 4}),
        ("v5e:16x16", {"data": 16, "fsdp": 16}),
        ("v5p:4x4x4", {"data": 4, "fsdp": 16}),
        ("v6e:8x8", {"data": 2, "fsdp": 32}),  # no product of whole axes
        ("tpu7x:2x2x1", {"fsdp": 8}),
        ("v5e:1x1", {}),
    ],
)
def test_libtpu_describes_them(monkeypatch, name, mesh):
    where = topology(name)
    for key, value in environment(where, {}).items():
        if key.startswith(("TPU_", "ALLOW_")):
            monkeypatch.setenv(key, value)
    devices = abstract_devices(where)
    assert len(devices) == where.devices
    assert where.chip is not None
    assert chip_of(devices[0].device_kind) == where.chip
    made = make_mesh(MeshConfig(**mesh), devices)
    assert {k: v for k, v in made.shape.items() if v > 1} == mesh
    assert len({d.id for d in made.devices.flat}) == where.devices
