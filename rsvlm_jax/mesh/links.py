"""What connects chips, by public documents, and what that gives the axes of a mesh.

    WIRES                      what leaves one chip, a row each
    links_of(chip, sizes, (16, 16)) -> Links       what each axis of a mesh can carry
    links.rate("fsdp")         bytes a second that a chip sends over it at most

A TPU has a link to each neighbour of a torus, both ways at once; a ring over an axis that wraps
around uses two of them, one over an axis that does not (the slice is smaller than what wraps) uses
one, and an axis of the mesh that lies over two or three axes of the torus uses the links of all of
these. GPUs of a node share a switch. Slices and nodes are connected by the network of the data
centre, and what a group of chips in one node (or slice) gathers comes over the network once, by
all their adapters at the same time.

These are what the wires carry; how much of that is reached is `rsvlm_jax.run.roofline.Reach`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

from rsvlm_jax.config import ConfigError

from .build import AXES
from .chips import Chip

Axis = str | tuple[str, ...]
"""An axis of the mesh, or several that one collective goes over together."""


@dataclasses.dataclass(frozen=True)
class Wires:
    """What leaves one chip (`Chip`), in bytes a second one way.

    Attributes:
      chip: name of its row in `CHIPS`.
      link: to one neighbour of the torus; of a GPU, to all others of its node.
      dims: axes of the torus; 0 where there is a switch.
      wraps: an axis of the torus is a ring where its length is a multiple of this.
      node: GPUs that share a switch; 0 where the slice has no such limit.
      beyond: to other slices or nodes.
      source: of these figures.
    """

    chip: str
    link: float
    dims: int
    wraps: int
    node: int
    beyond: float
    source: str


_BOOK = "jax-ml.github.io/scaling-book/tpus, TPU specs (ICI one way, DCN)"
_GPUS = "jax-ml.github.io/scaling-book/gpus, networking (NVLink, one 400 Gb/s adapter a GPU)"
_DGX = "NVIDIA DGX A100 data sheet: NVLink 600 GB/s both ways, 8 adapters of 200 Gb/s"

WIRES = (
    Wires("v4", 45e9, 3, 4, 0, 6.25e9, _BOOK),
    Wires("v5e", 45e9, 2, 16, 0, 3.125e9, _BOOK),
    Wires("v5p", 90e9, 3, 4, 0, 6.25e9, _BOOK),
    Wires("v6e", 90e9, 2, 16, 0, 12.5e9, _BOOK),
    Wires("tpu7x", 90e9 / 2, 3, 4, 0, 12.5e9 / 2, _BOOK),
    Wires("A100-40G", 300e9, 0, 0, 8, 25e9, _DGX),
    Wires("A100-80G", 300e9, 0, 0, 8, 25e9, _DGX),
    Wires("H100", 450e9, 0, 0, 8, 50e9, _GPUS),
    Wires("H200", 450e9, 0, 0, 8, 50e9, _GPUS),
)
"""Google's own pages tell ICI as both ways and all links together (v5e 400, v5p 1200, v6e 800,
TPU7x 1200 GB/s a chip: 50 and 100 GB/s a link); the table has the tenth less that the book, by
people of Google, reckons with. A device of TPU7x is half a chip and has half of its links."""


@dataclasses.dataclass(frozen=True)
class _Line:
    """An axis of the torus, or a part of one."""

    length: int
    ring: bool


@dataclasses.dataclass(frozen=True)
class Links:
    """What the axes of a mesh can carry.

    Attributes:
      sizes: chips along each axis of the mesh.
      inside: of these, how many are of one node or slice.
      fast: bytes a second of a chip over the axis, inside.
      beyond: bytes a second of a chip to other nodes or slices.
      switched: inside, all go through one switch: axes do not add up.
      notes: what was assumed, a line each.
    """

    sizes: Mapping[str, int]
    inside: Mapping[str, int]
    fast: Mapping[str, float]
    beyond: float
    switched: bool
    notes: tuple[str, ...] = ()

    def rate(self, axis: Axis) -> float:
        """Bytes a second that a chip sends in a collective over an axis, or over several at once.

        Raises:
          ConfigError: an axis that the mesh does not have, or of one chip.
        """
        axes = (axis,) if isinstance(axis, str) else axis
        for name in axes:
            if name not in self.sizes:
                raise ConfigError(
                    "no such mesh axis",
                    where="collective",
                    expected=f"one of {', '.join(self.sizes)}",
                    found=name,
                )
        used = [name for name in axes if self.sizes[name] > 1]
        if not used:
            raise ConfigError(
                "nothing is sent over axes of one chip", where="collective", found=" x ".join(axes)
            )
        near = [self.fast[name] for name in used if self.inside[name] > 1]
        fast = (max(near) if self.switched else sum(near)) if near else math.inf
        if all(self.inside[name] == self.sizes[name] for name in used):
            return fast
        return min(fast, self.beyond * math.prod(self.inside[name] for name in used))


def wires_of(chip: Chip) -> Wires:
    """The row of a chip.

    Raises:
      ConfigError: nothing is known of its links.
    """
    for row in WIRES:
        if row.chip == chip.name:
            return row
    raise ConfigError(
        "nothing is known of the links of this chip",
        where="links_of(chip)",
        expected=", ".join(row.chip for row in WIRES),
        found=chip.name,
    )


def links_of(chip: Chip, sizes: Mapping[str, int], topology: tuple[int, ...] = ()) -> Links:
    """What the axes of a mesh on these chips can carry.

    Args:
      sizes: devices along each axis, as `dict(mesh.shape)`; axes that are not there are of one.
      topology: lengths of the torus of one slice, e.g. (16, 16) of "v5e:16x16"; of TPU7x in chips
        of two devices. Not read for GPUs.

    Raises:
      ConfigError: an unknown axis or chip, a topology of another number of axes, or one that has
        not as many devices as a slice of the mesh.
    """
    row = wires_of(chip)
    if unknown := [name for name in sizes if name not in AXES]:
        raise ConfigError(
            "no such mesh axis", where="links_of(sizes)", expected=", ".join(AXES), found=unknown[0]
        )
    sizes = {name: sizes.get(name, 1) for name in AXES}
    if row.node:
        return _switched(row, sizes)
    inside = {**sizes, "slice": 1}
    lines = _torus(chip, row, math.prod(inside.values()), topology)
    fast, notes = _laid(row, inside, lines)
    return Links(sizes, inside, fast, row.beyond, False, notes)


def _switched(row: Wires, sizes: dict[str, int]) -> Links:
    """Nodes are filled from the last axis on (`rsvlm_jax.mesh.build`), slices apart from them."""
    inside, left = {}, row.node
    for name in reversed(AXES):
        inside[name] = 1 if name == "slice" else math.gcd(sizes[name], left)
        left = left // inside[name] if inside[name] == sizes[name] else 1
    fast = {name: row.link if inside[name] > 1 else math.inf for name in AXES}
    notes = (f"nodes of {row.node} with a switch, filled from the last mesh axis on",)
    return Links(sizes, inside, fast, row.beyond, True, notes)


def _torus(chip: Chip, row: Wires, count: int, topology: tuple[int, ...]) -> list[_Line]:
    expected = math.prod(topology) * (2 if chip.name == "tpu7x" else 1)
    if len(topology) != row.dims or expected != count:
        raise ConfigError(
            "not the topology of this mesh",
            where="links_of(topology)",
            expected=f"{row.dims} axes of {count} devices in all ({chip.name})",
            found="x".join(map(str, topology)) or None,
        )
    # Three axes wrap together or not at all: a slice is made of whole cubes, or is a part of one.
    whole = all(n % row.wraps == 0 for n in topology)
    lines = [_Line(n, whole if row.dims == 3 else n % row.wraps == 0) for n in topology if n > 1]
    # What joins the two devices of a chip is counted as one link more: its speed is not published.
    return [*lines, _Line(2, False)] if chip.name == "tpu7x" else lines


def _laid(
    row: Wires, inside: dict[str, int], lines: list[_Line]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Mesh axes laid on axes of the torus, the last ones first, each on as many as fit exactly."""
    fast: dict[str, float] = dict.fromkeys(AXES, math.inf)
    notes: list[str] = []
    for name in reversed(AXES):
        if inside[name] == 1:
            continue
        chosen = _exactly(lines, inside[name])
        if chosen is None:
            # A part of one axis, or parts of several: neighbours in a row, wherever they lie.
            notes.append(f"{name} = {inside[name]} is no whole axis of the torus: one link")
            fast[name] = row.link
            lines = _without(lines, inside[name])
            continue
        fast[name] = row.link * sum(2 if line.ring else 1 for line in chosen)
        if open_ended := [str(line.length) for line in chosen if not line.ring]:
            notes.append(f"{name}: no ring over {' and '.join(open_ended)}, one link, not two")
        for line in chosen:
            lines.remove(line)
    return fast, tuple(notes)


def _exactly(lines: list[_Line], size: int) -> tuple[_Line, ...] | None:
    """Axes of the torus, as many as can be, that have `size` chips; None where none have."""
    for count in range(len(lines), 0, -1):
        for chosen in itertools.combinations(lines, count):
            if math.prod(line.length for line in chosen) == size:
                return chosen
    return None


def _without(lines: list[_Line], size: int) -> list[_Line]:
    """What is left of the torus for other axes when `size` chips of it are taken in parts."""
    left = []
    for line in lines:
        common = math.gcd(line.length, size)
        size //= common
        if common == 1:
            left.append(line)
        elif line.length > common:
            left.append(_Line(line.length // common, False))
    return left
