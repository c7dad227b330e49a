"""Pods that are not here, by name: `topology("v5e:16x16")`, `topology("cpu:256")`.

    v4:4x4x4  v5e:16x16  v5p:4x4x4  v6e:8x8  tpu7x:4x4x4    described by libtpu, without a TPU
    cpu:N     N simulated devices of this machine's CPU
    gpu:N     the same, with the memory and the speed of an H100; a100-40g:N, a100-80g:N, h200:N

A name says the chips of one slice; how many slices there are says the mesh. Dimensions are chips.

A bare name is not enough for libtpu: without `wrap` a cube of v5p gets no rings, and XLA makes an
all-reduce of the whole weight where it would gather it. What a pod of a size has stands in
`GENERATIONS`: rings where a dimension is a multiple of 4 in all three (16 in two dimensions), two
cores that are one device (megacore) on v4 and v5p, four chips a host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rsvlm_jax.config import ConfigError

from .chips import CHIPS, Chip

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Generation:
    """One kind of TPU.

    Attributes:
      library: what libtpu calls it.
      chip: row of `rsvlm_jax.mesh.chips.CHIPS`.
      axes: dimensions of its network.
      config: how libtpu runs a chip.
      hbm: bytes that a program may use on a device, as the compiler says when it refuses one.
      accelerator: a name that libtpu asks for in the environment.
      cores: devices of a chip.
    """

    library: str
    chip: str
    axes: int
    config: str
    hbm: int
    accelerator: str
    cores: int = 1


GENERATIONS = {
    "v4": Generation("v4", "v4", 3, "megacore_dense", int(31.75 * GIB), "v4-8"),
    "v5e": Generation("v5e", "v5e", 2, "default", int(15.75 * GIB), "v5litepod-4"),
    "v5p": Generation("v5", "v5p", 3, "megacore", int(95.73 * GIB), "v5p-8"),
    "v6e": Generation("v6e", "v6e", 2, "default", int(31.24 * GIB), "v6e-4"),
    "tpu7x": Generation("tpu7x", "tpu7x", 3, "default", int(94.74 * GIB), "tpu7x-8", 2),
}

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
"""Slices of v5e and v6e."""

SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
"""Slices in three dimensions below a cube of 4; from there on multiples of 4, ascending."""

SIMULATED = {"gpu": "H100", **{c.name.lower(): c.name for c in CHIPS if not c.kind.startswith("T")}}
"""GPUs by what stands before the colon."""

OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e", "v6lite": "v6e", "trillium": "v6e",
               "v7x": "tpu7x", "v7": "tpu7x", "ironwood": "tpu7x", "v5": "v5p"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """Where a program is to run.

    Attributes:
      name: as it is written, in lower case.
      kind: "tpu" has a compiler of its own; the others are simulated on CPU devices.
      shape: chips of a slice, by dimension.
      chip: None for CPUs.
      hbm: bytes that a program may use on a device; None for CPUs.
      devices: of a slice; of tpu7x two a chip.
    """

    name: str
    kind: Literal["tpu", "cpu", "gpu"]
    shape: tuple[int, ...]
    chip: Chip | None
    hbm: int | None
    devices: int

    @property
    def chips(self) -> int:
        """Of a slice."""
        return math.prod(self.shape)

    @property
    def generation(self) -> Generation:
        return GENERATIONS[self.name.partition(":")[0]]

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Which dimensions are rings."""
        if len(self.shape) == 3:
            return (all(n % 4 == 0 for n in self.shape),) * 3  # type: ignore[return-value]
        return (self.shape[0] == 16, self.shape[1] == 16, False)

    @property
    def unproven(self) -> tuple[str, ...]:
        """What a program that was compiled for it does not say."""
        if self.kind == "tpu":
            return ("time: nothing ran",)
        return (
            f"temporary memory: the CPU's program is not that of a {self.kind.upper()}"
            if self.kind == "gpu"
            else "temporary memory of another device than a CPU",
            "kernels: attention is the one for CPUs",
            "which collectives the compiler makes of gradients that are summed and split",
        )


def topology(name: str) -> Topology:
    """The topology of a name.

    Raises:
      ConfigError: it names none, with the nearest that exist.
    """
    word = name.strip().lower()
    kind, _, size = word.partition(":")
    if kind in ("cpu", *SIMULATED) and re.fullmatch(r"[1-9]\d*", size):
        chip = next((c for c in CHIPS if c.name == SIMULATED.get(kind)), None)
        hbm = None if chip is None else int(chip.hbm)
        return Topology(word, "cpu" if chip is None else "gpu", (int(size),), chip, hbm, int(size))
    made = GENERATIONS.get(kind)
    if made is not None and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", size):
        shape = tuple(map(int, size.split("x")))
        if _exists(made, shape):
            chip = next((c for c in CHIPS if c.name == made.chip), None)
            return Topology(word, "tpu", shape, chip, made.hbm, math.prod(shape) * made.cores)
    raise ConfigError(
        "no such topology",
        where="--topology",
        expected="v5e:16x16, v5p:4x4x4, cpu:256, gpu:8 and the like",
        found=name,
        remedy=f"near it: {', '.join(near(word))}",
    )


def _exists(made: Generation, shape: tuple[int, ...]) -> bool:
    word = "x".join(map(str, shape))
    if made.axes == 2:
        return word in FLAT
    return word in SMALL or (
        len(shape) == 3 and all(n % 4 == 0 for n in shape) and list(shape) == sorted(shape)
    )


def near(word: str) -> list[str]:
    """Topologies that a word may have meant: of its kind, the nearest in size first."""
    kind, _, size = re.sub(r"[-/ ]", ":", word).partition(":")
    if kind in ("cpu", *SIMULATED):
        return [f"{kind}:8", f"{kind}:256"]
    kind = OTHER_NAMES.get(kind, kind)
    if kind not in GENERATIONS:
        found = difflib.get_close_matches(kind, [*GENERATIONS, *SIMULATED, "cpu"], n=1, cutoff=0.4)
        kind = found[0] if found else "v5e"
        if kind not in GENERATIONS:
            return [f"{kind}:8", f"{kind}:256"]
    made = GENERATIONS[kind]
    numbers = [int(n) for n in re.findall(r"\d+", size)]
    wanted = math.prod(numbers) if numbers else 64
    if len(numbers) == 1 and made.library in ("v4", "v5", "tpu7x"):
        wanted //= 2  # v5p-128 counts cores, two a chip
    cubes = [f"{a}x{b}x{c}" for a, b, c in ((4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8))]
    sizes = FLAT if made.axes == 2 else (*SMALL, *cubes)

    def distance(size: str) -> float:
        return abs(math.log(math.prod(map(int, size.split("x"))) / max(wanted, 1)))

    return [f"{kind}:{size}" for size in sorted(sizes, key=distance)[:3]]


def library() -> Path | None:
    """The file of libtpu: TPU_LIBRARY_PATH, the package, or where this repository's Makefile puts
    it for tests; None: there is none."""
    given = os.environ.get("TPU_LIBRARY_PATH")
    if given:
        return Path(given) if Path(given).is_file() else None
    spec = None
    with contextlib.suppress(ValueError):
        spec = importlib.util.find_spec("libtpu")
    folders = [*(spec.submodule_search_locations or ())] if spec is not None else []
    places = [*map(Path, folders), Path(sys.prefix, "libtpu", "libtpu")]
    return next((p / "libtpu.so" for p in places if (p / "libtpu.so").is_file()), None)


def environment(where: Topology, given: Mapping[str, str], *, slices: int = 1) -> dict[str, str]:
    """The environment of a process that compiles for a topology, before it imports JAX.

    Args:
      given: that of this process. Flags that it has stay.

    Raises:
      ConfigError: the compiler of TPUs is not installed.
    """
    made = {**given, "JAX_PLATFORMS": "cpu"}
    if where.kind != "tpu":
        flags = re.sub(
            r"--xla_force_host_platform_device_count=\d+", "", given.get("XLA_FLAGS", "")
        )
        count = (
            f"--xla_force_host_platform_device_count={where.devices * _of_slices(where, slices)}"
        )
        return {**made, "XLA_FLAGS": f"{flags} {count}".strip()}
    file = library()
    if file is None:
        raise ConfigError(
            "the compiler of TPUs is not installed",
            where=where.name,
            expected="libtpu, half a gigabyte; it needs no TPU",
            found=given.get("TPU_LIBRARY_PATH", "none"),
            remedy="pip install libtpu, or plan for cpu:N",
        )
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", given.get("XLA_FLAGS", ""))
    return {
        # A second process may load it: nothing is asked of a chip.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        **made,
        "XLA_FLAGS": flags.strip(),
        "TPU_LIBRARY_PATH": str(file),
        "TPU_ACCELERATOR_TYPE": where.generation.accelerator,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }


def _of_slices(where: Topology, slices: int) -> int:
    """Simulated devices are named all together, those of TPUs by slice."""
    return slices if where.kind == "tpu" else 1


def abstract_devices(where: Topology, *, slices: int = 1) -> list[Any]:
    """Its devices: described ones of TPUs, simulated ones of the others.

    In a process with `environment`.

    Raises:
      ConfigError: libtpu does not know the topology, or another process has it alone; or this one
        has too few CPU devices.
    """
    import jax
    from jax.experimental import topologies

    if where.kind != "tpu":
        found = jax.devices("cpu")
        if len(found) < where.devices:
            raise ConfigError(
                "too few simulated devices in this process",
                where=where.name,
                expected=f"XLA_FLAGS=--xla_force_host_platform_device_count={where.devices}",
                found=len(found),
            )
        return found[: where.devices]
    made = where.generation
    bounds = tuple(min(2, n) for n in where.shape[:2])
    try:
        described = topologies.get_topology_desc(
            f"{made.library}:{where.name.partition(':')[2]}",
            platform="tpu",
            chip_config_name=made.config,
            chips_per_host_bounds=(*bounds, 1),
            num_slices=slices,
            wrap=where.wrap,
        )
    except Exception as e:
        if "lockfile" in str(e):
            raise ConfigError(
                "another process has libtpu",
                where="ALLOW_MULTIPLE_LIBTPU_LOAD",
                expected="1, or no other process",
                found=os.environ.get("ALLOW_MULTIPLE_LIBTPU_LOAD", "unset"),
                remedy="unset the variable, or wait for the other to end",
            ) from e
        raise ConfigError(
            "libtpu does not describe this topology",
            where=where.name,
            found=str(e).partition("\n")[0][:200],
            remedy="a newer libtpu, or another topology",
        ) from e
    return list(described.devices)
