"""From the numbers of a layer to those of the cube: exactly, where they are whole steps apart.

    same scale, offsets a whole number of steps apart    integers are shifted: nothing is rounded
    a float cube                                         physical values, float64 -> float32 once
    else                                                 physical values to the nearest step

So Sentinel-2 scenes of several baselines (offset 0 and -0.1) come to one offset without loss.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from data_zarr.atmosphere import surface_from_curve
from data_zarr.errors import CubeError
from data_zarr.ingest.scene import Layer
from data_zarr.radiometry import linear_to_db
from data_zarr.sensors import Number

Overflow = Literal["refuse", "invalid"]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a band of the cube is stored; `overflow` says what happens to what it cannot hold."""

    dtype: str
    scale: Number
    offset: Number
    nodata: Number
    overflow: Overflow = "refuse"


def shift(layer: Layer, to: Encoding) -> int | None:
    """Whole steps to add to a stored number, or None where it must be computed."""
    dtype, out = np.dtype(layer.dtype), np.dtype(to.dtype)
    if layer.curve or layer.units == "linear" or "f" in (dtype.kind, out.kind):
        return None
    if abs(layer.scale - to.scale) > 1e-9 * abs(to.scale):
        return None
    steps = (layer.offset - to.offset) / to.scale
    return round(steps) if abs(steps - round(steps)) < 1e-6 else None


def physical(numbers: np.ndarray, layer: Layer) -> np.ndarray:
    """Physical values, float64; backscatter in dB (NaN where the power is not positive)."""
    values = numbers.astype(np.float64) * layer.scale + layer.offset
    if layer.units == "linear":
        return linear_to_db(values).astype(np.float64)
    if layer.curve is not None:
        return surface_from_curve(values, *layer.curve)
    return values


def encode(
    numbers: np.ndarray, valid: np.ndarray, layer: Layer, to: Encoding, where: object
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [h, w] as the cube stores them, nodata where `valid` is False, and the new mask.

    Raises:
      CubeError: a valid value that the dtype cannot hold, unless `to.overflow` is "invalid".
    """
    out = np.dtype(to.dtype)
    steps = shift(layer, to)
    if steps is not None:
        wide = np.rint(numbers) if numbers.dtype.kind == "f" else numbers.astype(np.int64)
        wide = wide + steps
    else:
        values = physical(numbers, layer)
        valid = valid & np.isfinite(values)
        if out.kind == "f":
            plain = (values - to.offset) / to.scale
            return np.where(valid, plain, to.nodata).astype(out), valid
        wide = np.rint((np.where(valid, values, 0.0) - to.offset) / to.scale)
    limits = np.iinfo(out)
    bad = valid & ((wide < limits.min) | (wide > limits.max) | (wide == to.nodata))
    if bad.any():
        if to.overflow == "refuse":
            worst = float(wide[bad].ravel()[0]) * to.scale + to.offset
            raise CubeError(
                "value cannot be stored",
                where=where,
                expected=f"{out} at scale {to.scale:g}, offset {to.offset:g}, other than "
                f"{to.nodata:g}",
                found=f"{worst:.6g} and {int(bad.sum()) - 1} more in {layer.name}",
                remedy='state a wider dtype, or overflow = "invalid" to mask such pixels',
            )
        valid = valid & ~bad
    return np.where(valid, wide, to.nodata).astype(out), valid
