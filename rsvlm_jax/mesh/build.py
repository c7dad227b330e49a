"""The mesh: devices as data x fsdp x tensor. No other file constructs one.

    data    replicas; the batch is split over it, parameters are not
    fsdp    the batch and the parameters are split over it (gathered layer by layer for use)
    tensor  heads, MLP width and vocabulary are split over it; put it on the fastest links

All axes are `AxisType.Auto`, written out because the default of `jax.make_mesh` became Explicit:
placement is stated for parameters and a few activations, and the compiler fills in the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from rsvlm_jax.config import ConfigError, MeshConfig

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a configuration.

    Args:
      config: sizes; -1 in one place takes the devices that the others leave.
      devices: default all of `jax.devices()`. A smaller mesh takes the first of them.

    Raises:
      ConfigError: a size that is neither positive nor the only -1, or too few devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [getattr(config, axis) for axis in AXES]
    found = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(
            "impossible mesh", where="MeshConfig", expected="sizes >= 1, at most one -1",
            found=found,
        )  # fmt: skip
    if -1 in sizes:
        known = -math.prod(sizes)
        if len(devices) % known:
            raise ConfigError(
                "the devices do not divide",
                where="MeshConfig",
                expected=f"a divisor of {len(devices)} devices",
                found=found,
            )
        sizes[sizes.index(-1)] = len(devices) // known
    n = math.prod(sizes)
    if n > len(devices):
        raise ConfigError(
            "too few devices",
            where="MeshConfig",
            expected=f"{n} devices for {found}",
            found=f"{len(devices)} ({devices[0].platform})",
            remedy="set one axis to -1 to take what is there",
        )
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:n]
    )
