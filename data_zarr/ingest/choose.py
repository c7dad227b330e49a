"""How the bands of a band set are stored, where its recipe does not say it.

Integers of one scale keep their dtype and scale, and take the lowest of their offsets: so nothing
is rounded and nothing falls below zero. What is computed (TOA, corrections, mixed scales) becomes
int16 steps of 0.0001 where it is reflectance. Everything else is float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.ingest.encode import Encoding
from data_zarr.ingest.recipe import BandSetRecipe
from data_zarr.ingest.scene import Layer


def encoding_of(item: BandSetRecipe, layers: Sequence[Layer], where: str) -> Encoding:
    """How a band is stored: as the recipe says, else as all its layers are."""
    scales = {x.scale for x in layers}
    whole = all(np.dtype(x.dtype).kind in "iub" for x in layers)
    computed = any(x.curve or x.dark or x.units == "linear" for x in layers) or len(scales) > 1
    if item.dtype is not None:
        dtype = str(np.dtype(item.dtype))
    elif whole and not computed:
        dtype = str(np.result_type(*(x.dtype for x in layers)))
        dtype = "int16" if dtype in ("uint8", "int8", "bool") else dtype
    elif computed and item.row.kind == "optical":
        dtype = "int16"
    else:
        dtype = "float32"
    if np.dtype(dtype).kind == "f":
        if (item.scale or 1.0, item.offset or 0.0) != (1.0, 0.0):
            raise CubeError("scale of a float band set", where=where, expected="1 and 0: physical")
        return Encoding(dtype, 1.0, 0.0, math.nan, item.overflow)
    default = (1e-4, 0.0)
    if whole and not computed:
        default = (scales.pop(), min(x.offset for x in layers))
    elif item.row.kind != "optical" and item.scale is None:
        raise CubeError(
            "scale of the cube is not stated",
            where=where,
            expected=f"`scale` and `offset` for {dtype}",
            found="sources that are floats, or differ",
        )
    scale = default[0] if item.scale is None else item.scale
    offset = default[1] if item.offset is None else item.offset
    return Encoding(dtype, float(scale), float(offset), 0, item.overflow)


def nodata_of(item: BandSetRecipe, dtype: str) -> float:
    """The stored number that marks what is missing: never 0, which may be a value."""
    if np.dtype(dtype).kind == "f":
        return math.nan
    if item.nodata is not None:
        return float(item.nodata)
    limits = np.iinfo(dtype)
    return -9999.0 if limits.min <= -9999 else float(limits.max)
