"""The dark object of a level-1 layer: with it, a correction is a scale and an offset.

rho = pi d^2 (gain DN + bias - Lp) / (E cos Tz) is linear in DN: once the haze Lp of a scene and
band is known, each of its pixels is as quick as any other. The dark number is looked up in the
whole layer, not in the part that the cube covers, so that it does not depend on the cube.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_zarr.atmosphere import downward, haze, to_reflectance
from data_zarr.errors import CubeError
from data_zarr.ingest import native
from data_zarr.ingest.scene import Layer, Scene
from data_zarr.ingest.warp import known
from data_zarr.sensors import Number

ROWS = 1024


def resolved(scene: Scene) -> Scene:
    """The scene with the haze of its layers in their scale and offset."""
    return dataclasses.replace(scene, layers=tuple(_resolved(x) for x in scene.layers))


def dark_number(layer: Layer, share: Number) -> float:
    """The smallest stored number that at least `share` of the known pixels do not exceed.

    Raises:
      CubeError: a layer of fill, or of floats (which have no histogram).
    """
    counts: dict[int, int] = {}
    if np.dtype(layer.dtype).kind not in "iu":
        raise CubeError("no histogram of floats", where=layer.name, expected="integers",
                        remedy="state the dark number")  # fmt: skip
    height, width = layer.grid.height, layer.grid.width
    for y in range(0, height, ROWS):
        values = native.read(layer, y, 0, min(ROWS, height - y), width)
        numbers, times = np.unique(values[known(values, layer.nodata)], return_counts=True)
        for number, n in zip(numbers.tolist(), times.tolist(), strict=True):
            counts[number] = counts.get(number, 0) + n
    total, seen = sum(counts.values()), 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= share * total:
            return float(number)
    raise CubeError("no dark object", where=layer.name, expected="known pixels", found="fill only")


def _resolved(layer: Layer) -> Layer:
    dark = layer.dark
    if dark is None:
        return layer
    number = dark_number(layer, dark.share) if dark.number is None else dark.number
    sun = (dark.sun, dark.cosine, dark.distance)
    path = haze(layer.scale * number + layer.offset, *sun, dark.method)
    factor = to_reflectance(*sun, downward(dark.method, dark.cosine))
    return dataclasses.replace(
        layer, scale=layer.scale * factor, offset=(layer.offset - path) * factor, dark=None
    )
