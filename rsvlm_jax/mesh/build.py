"""The mesh: devices as slice x data x fsdp x tensor x context. No other file constructs one.

    slice    groups of devices with slow links between them; as data, and outermost
    data     replicas; the batch is split over it, parameters are not
    fsdp     the batch and the parameters are split over it (gathered layer by layer for use)
    tensor   heads, MLP width and vocabulary are split over it
    context  the positions of a sequence are split over it; keys and values are gathered

From left to right each axis talks more than the one before it, and devices are ordered so that the
later ones have the faster links: within a slice the topology decides (`jax.make_mesh`), and slices
are stacked one after the other. Devices that do not say which slice they are of (CPUs, GPUs of one
node) are taken in their own order, in `slices` equal parts.

All axes are `AxisType.Auto`, written out because the default of `jax.make_mesh` became Explicit:
placement is stated for parameters and a few activations, and the compiler fills in the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from rsvlm_jax.config import ConfigError, MeshConfig

AXES = ("slice", "data", "fsdp", "tensor", "context")

FIELDS = ("slices", *AXES[1:])
"""Of `MeshConfig`, in the order of `AXES`."""

_WITH_TENSOR = ("fsdp_tensor",)
"""Plans that split parameters over "tensor"; under the others its devices would do double work."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a configuration.

    Args:
      config: sizes; -1 in one place takes the devices that the others leave. A mesh of one device
        takes the first; any other has to use all of them.
      devices: default all of `jax.devices()`.

    Raises:
      ConfigError: a size that is neither positive nor the only -1, sizes that do not multiply to
        the number of devices, slices that are not those of the devices, or a plan that has no use
        for an axis.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _sizes(config, len(devices), devices[0].platform)
    if config.plan not in _WITH_TENSOR and sizes[AXES.index("tensor")] > 1:
        raise ConfigError(
            "the plan splits nothing over an axis of the mesh",
            where="MeshConfig.tensor",
            expected=f"1 with plan {config.plan!r}",
            found=sizes[AXES.index("tensor")],
            remedy='put the devices on "data" or "fsdp", or take plan "fsdp_tensor"',
        )
    ordered = arrange(devices[: math.prod(sizes)], sizes)
    return Mesh(ordered, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(config: MeshConfig, count: int, platform: str) -> tuple[int, ...]:
    """Devices by axis, -1 filled in."""
    sizes = [getattr(config, name) for name in FIELDS]
    named = [
        f"{name}={size}"
        for name, size in zip(FIELDS, sizes, strict=True)
        if size != 1 or name in ("data", "fsdp", "tensor")
    ]
    found = " x ".join(named)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(
            "impossible mesh", where="MeshConfig", expected="sizes >= 1, at most one -1",
            found=found,
        )  # fmt: skip
    if -1 in sizes:
        known = -math.prod(sizes)
        if count % known:
            raise ConfigError(
                "the devices do not divide",
                where="MeshConfig",
                expected=f"a divisor of {count} devices",
                found=found,
            )
        sizes[sizes.index(-1)] = count // known
    n = math.prod(sizes)
    one = n == 1 and jax.process_count() == 1
    if n != count and not one:
        raise ConfigError(
            "the mesh does not multiply to the number of devices",
            where="MeshConfig",
            expected=f"{count} devices ({platform})",
            found=f"{found}: {n}",
            remedy="set one axis to -1 to take what is there",
        )
    return tuple(sizes)


def arrange(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Devices as an array of `sizes` (slices first), later axes on faster links.

    Raises:
      ConfigError: the devices are of another number of slices, or slices differ in size.
    """
    slices, *inside = sizes
    groups: dict[Any, list[Any]] = {}
    for device in devices:
        groups.setdefault(getattr(device, "slice_index", None), []).append(device)
    plain = len(groups) == 1 and devices[0].platform != "tpu"
    if not plain and len(groups) != slices:
        raise ConfigError(
            "the devices are of another number of slices",
            where="MeshConfig.slices",
            expected=f"{len(groups)}, those of the devices",
            found=slices,
        )
    if plain:
        parts = np.array_split(np.array(devices, object), slices)
        return np.stack([_within(list(part), inside) for part in parts])
    lengths = sorted({len(group) for group in groups.values()})
    if len(lengths) > 1:
        raise ConfigError(
            "slices of different sizes",
            where="MeshConfig.slices",
            expected="as many devices in each",
            found=f"{lengths[0]} to {lengths[-1]}",
        )
    return np.stack([_within(groups[index], inside) for index in sorted(groups)])


def _within(devices: list[Any], sizes: list[int]) -> np.ndarray:
    """One slice: what its topology says of it.

    Sizes that are no products of whole axes of a torus (32 of 8 x 8) are laid on parts of them, as
    JAX does by itself for v5e alone.
    """
    auto = (AxisType.Auto,) * len(sizes)
    try:
        return jax.make_mesh(tuple(sizes), AXES[1:], axis_types=auto, devices=devices).devices
    except NotImplementedError:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
