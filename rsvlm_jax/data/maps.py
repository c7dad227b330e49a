"""Targets pixel by pixel, for heads that answer with a map a window.

    maps.read(table, rows, turns)    f32 [B,K,S,S]   turned as the pixels of the inputs are
    maps.known(table, rows, k)       f64 [m]         of the pixels under windows, each once

NaN where a target is not known. Layers are held in memory: four bytes a pixel and target. Not here:
means of windows (`source`), which every source has.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped

from data_zarr.cube import Cube
from data_zarr.sampling import WindowTable
from data_zarr.splits.tiles import cover
from rsvlm_jax.config import DataError, TargetConfig

from .specs import target_spec
from .windows import turned


@dataclasses.dataclass(frozen=True)
class TargetMaps:
    """Layers of the targets on the grid of a cube."""

    layers: Float[np.ndarray, "K H W"]

    def read(
        self, table: WindowTable, rows: Shaped[np.ndarray, " B"], turns: list[int]
    ) -> Float[np.ndarray, "B K S S"]:
        """Windows by row of a table, each under an element of the square's symmetry group."""
        size = table.size
        out = np.empty((len(rows), len(self.layers), size, size), np.float32)
        for i, row in enumerate(rows):
            y, x = table.y[row], table.x[row]
            out[i] = turned(self.layers[:, y : y + size, x : x + size], turns[i])
        return out

    def known(
        self, table: WindowTable, rows: Int[np.ndarray, " B"], k: int
    ) -> Float[np.ndarray, " m"]:
        """The known values of target `k` under windows of a table."""
        under = cover(table.take(rows), *self.layers.shape[1:])
        values = self.layers[k][under].astype(np.float64)
        return values[np.isfinite(values)]


def target_maps(cube: Cube, target: TargetConfig) -> TargetMaps:
    """The layers of all targets.

    Raises:
      DataError: sites, which have no pixels around them; no such target.
    """
    if cube.points:
        raise DataError(
            "a site is no map",
            where=f"{cube.path}: HeadConfig.dense",
            expected='HeadConfig.dense "no" on a cube of sites, or a raster',
            found="sites",
        )
    layers = [cube.target(target_spec(cube, target, name).name) for name in target.names]
    values = np.stack([np.asarray(layer, np.float32) for layer in layers])
    return TargetMaps(np.where(np.isfinite(values), values, np.float32(np.nan)))
