"""What the axes of a mesh can carry, on tori and between nodes."""

from __future__ import annotations

import pytest

from rsvlm_jax.config import ConfigError
from rsvlm_jax.mesh.chips import CHIPS, chip_named, chip_of
from rsvlm_jax.mesh.links import WIRES, links_of

V5E, V5P, H100 = chip_named("v5e"), chip_named("v5p"), chip_named("H100")


def test_every_chip_has_wires_with_a_source():
    assert [chip.name for chip in CHIPS] != []
    assert {row.chip for row in WIRES} <= {chip.name for chip in CHIPS}
    planned = {"v4", "v5e", "v5p", "v6e", "tpu7x", "A100-40G", "A100-80G", "H100", "H200"}
    assert {row.chip for row in WIRES} == planned
    assert len({row.chip for row in WIRES}) == len(WIRES)
    assert all("/" in row.source or "data sheet" in row.source for row in WIRES)
    # Memory is faster than links, links than what is beyond.
    for row in WIRES:
        assert chip_named(row.chip).bandwidth > row.link > row.beyond


@pytest.mark.parametrize(("kind", "name"), [("TPU v4", "v4"), ("TPU7x", "tpu7x")])
def test_chips_by_the_names_that_jax_gives_them(kind, name):
    chip = chip_of(kind)
    assert chip is not None
    assert chip.name == name


@pytest.mark.parametrize(
    ("chip", "sizes", "topology", "axis", "rate"),
    [
        # All three axes of a cube, each a ring: six links.
        (V5P, {"fsdp": 64}, (4, 4, 4), "fsdp", 6 * 90e9),
        (V5P, {"data": 4, "fsdp": 16}, (4, 4, 4), "fsdp", 4 * 90e9),
        (V5P, {"data": 4, "fsdp": 16}, (4, 4, 4), "data", 2 * 90e9),
        # Smaller than a cube: lines.
        (V5P, {"fsdp": 16}, (2, 2, 4), "fsdp", 3 * 90e9),
        (V5P, {"fsdp": 32}, (2, 4, 4), "fsdp", 3 * 90e9),
        (V5E, {"fsdp": 256}, (16, 16), "fsdp", 4 * 45e9),
        (V5E, {"fsdp": 64}, (8, 8), "fsdp", 2 * 45e9),
        (V5E, {"fsdp": 128}, (8, 16), "fsdp", 3 * 45e9),
        # A part of an axis, and what is left of it.
        (V5E, {"fsdp": 64, "tensor": 4}, (16, 16), "tensor", 45e9),
        (V5E, {"fsdp": 64, "tensor": 4}, (16, 16), "fsdp", 3 * 45e9),
        # A node of eight, and eight of them.
        (H100, {"fsdp": 8}, (), "fsdp", 450e9),
        (H100, {"data": 8, "fsdp": 8}, (), "fsdp", 450e9),
        (H100, {"data": 8, "fsdp": 8}, (), "data", 50e9),
        (H100, {"data": 8, "fsdp": 8}, (), ("data", "fsdp"), 8 * 50e9),
        (H100, {"fsdp": 64}, (), "fsdp", 8 * 50e9),
        (H100, {"fsdp": 16, "tensor": 4}, (), "fsdp", 2 * 50e9),
        # Slices of a pod.
        (V5E, {"slice": 2, "fsdp": 256}, (16, 16), "slice", 3.125e9),
        (V5E, {"slice": 2, "fsdp": 256}, (16, 16), ("slice", "fsdp"), 4 * 45e9),
    ],
)
def test_rates(chip, sizes, topology, axis, rate):
    assert links_of(chip, sizes, topology).rate(axis) == pytest.approx(rate)


def test_two_devices_of_a_chip():
    made = links_of(chip_named("tpu7x"), {"fsdp": 128}, (4, 4, 4))
    assert made.rate("fsdp") == pytest.approx(7 * 45e9)


def test_what_is_assumed_is_said():
    assert links_of(V5P, {"fsdp": 64}, (4, 4, 4)).notes == ()
    notes = links_of(V5E, {"fsdp": 64, "tensor": 4}, (16, 16)).notes
    assert notes == (
        "tensor = 4 is no whole axis of the torus: one link",
        "fsdp: no ring over 4, one link, not two",
    )


@pytest.mark.parametrize(
    ("chip", "sizes", "topology", "line"),
    [
        (V5E, {"fsdp": 256}, (16,), "not the topology of this mesh .* 2 axes of 256 devices"),
        (V5E, {"fsdp": 128}, (16, 16), "not the topology of this mesh"),
        (V5P, {"fsdp": 64}, (), "not the topology of this mesh"),
        (V5P, {"model": 64}, (4, 4, 4), "no such mesh axis"),
    ],
)
def test_what_is_no_mesh_of_a_topology(chip, sizes, topology, line):
    with pytest.raises(ConfigError, match=line) as error:
        links_of(chip, sizes, topology)
    assert "\n" not in str(error.value)


def test_an_axis_that_is_not_there():
    made = links_of(V5P, {"fsdp": 64}, (4, 4, 4))
    with pytest.raises(ConfigError, match="no such mesh axis"):
        made.rate("model")
    with pytest.raises(ConfigError, match="nothing is sent over axes of one chip"):
        made.rate("data")


def test_an_unknown_chip():
    with pytest.raises(ConfigError, match=r"no such chip .* did you mean 'H100'"):
        chip_named("h100")
