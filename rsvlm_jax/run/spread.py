"""Series on the devices that there are: each takes its share of the pixels.

    spread = Spread.over(-1)                        all devices; 1: the first
    spread(compute, values, times, mask)            leaves [P]; any number of pixels

`compute` works on [pixels, T] of one device and has to be the same object each time: it is compiled
once for each. On one CPU device pieces run on threads, one a core. Nothing is exchanged: pixels do
not know each other.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import ConfigError, MeshConfig
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.timeseries import in_pieces

PIECE = {"cpu": 4096}
"""Pixels that a device takes at a time, by its platform."""
LARGE_PIECE = 65_536
LEAST = 256
"""Programs are few: any smaller number of pixels takes that of this one."""

Compute = Callable[[Any, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Pixels over devices.

    Attributes:
      mesh: of the package; pixels are split over its axis "data".
      threads: pieces under way at a time.
    """

    mesh: Mesh
    threads: int

    @classmethod
    def over(cls, devices: int, *, share: int = 1) -> Spread:
        """Over all devices (-1) or the first (1).

        Args:
          share: of the cores of the machine, one in so many: others work beside.

        Raises:
          ConfigError: another number than there are.
        """
        there = jax.device_count()
        if devices not in (-1, 1, there):
            raise ConfigError(
                "no such number of devices",
                where="--devices",
                expected=f"-1, all there are, or 1; there are {there}",
                found=devices,
            )
        mesh = make_mesh(MeshConfig(data=devices))
        cpu = mesh.devices.flat[0].platform == "cpu"
        alone = cpu and mesh.devices.size == 1
        return cls(mesh, max(len(os.sched_getaffinity(0)) // share, 1) if alone else 1)

    def alone(self) -> Spread:
        """The first device alone: for few pixels."""
        first = make_mesh(MeshConfig(data=1), [self.mesh.devices.flat[0]])
        return dataclasses.replace(self, mesh=first)

    def __call__(
        self, compute: Compute, values: np.ndarray, times: np.ndarray, mask: np.ndarray
    ) -> Any:
        """`compute(values [p, T], times [T] or [p, T], mask [p, T])` of all pixels, leaves [P]."""
        size = self.mesh.devices.size
        most = PIECE.get(self.mesh.devices.flat[0].platform, LARGE_PIECE)
        # A few sites are no reason to compute thousands.
        pixels = min(most, max(1 << (-(-len(values) // size) - 1).bit_length(), LEAST)) * size
        if size > 1:
            compute = _sharded(compute, self.mesh, times.ndim == 2)
        return in_pieces(compute, values, times, mask, pixels=pixels, threads=self.threads)


@functools.lru_cache(maxsize=32)
def _sharded(compute: Compute, mesh: Mesh, own_times: bool) -> Compute:
    """The same, each device on its pixels."""
    split = P("data")
    inner = jax.shard_map(
        compute,
        mesh=mesh,
        in_specs=(split, split if own_times else P(), split),
        out_specs=split,
        check_vma=False,  # loops inside start from constants, which vary with nothing
    )
    return jax.jit(inner)
