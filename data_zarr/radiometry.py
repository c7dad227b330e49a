"""Stored numbers to physical ones and back, and what quality bands say of them.

Pure functions on arrays (NumPy, dask or xarray). Scale and offset come from the cube or the
product, never from a guess: whether a Sentinel-2 product carries the -1000 offset is in its
metadata, not in its date.

    stored int16 [..., C, H, W]  --to_physical-->  float32, NaN where stored == nodata
    QA_PIXEL uint16 [..., H, W]  --clear_mask--->  bool, True where it may be used
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.sensors import BANDSETS, BandSet, Number


def to_physical(
    stored: np.ndarray,
    scale: Number | Sequence[Number] = 1.0,
    offset: Number | Sequence[Number] = 0.0,
    nodata: Number | None = None,
    axis: int = -3,
) -> np.ndarray:
    """stored * scale + offset as float32, NaN where `stored` is nodata.

    Args:
      scale, offset: one number, or one a band along `axis`.
    """

    def along(value: Any) -> np.ndarray:
        value = np.asarray(value, np.float64)
        if value.ndim == 0:
            return value
        shape = [1] * stored.ndim
        shape[axis] = value.size
        return value.reshape(shape)

    # In float64 before the one rounding to float32: 0.0000275 * DN - 0.2 cancels near zero.
    physical = (stored * along(scale) + along(offset)).astype(np.float32)
    if nodata is None or np.isnan(nodata):
        return physical
    return np.where(stored == nodata, np.float32(np.nan), physical)


def to_stored(
    physical: np.ndarray, scale: Number, offset: Number, nodata: int, dtype: Any = np.int16
) -> np.ndarray:
    """The nearest stored number; NaN becomes nodata.

    Raises:
      CubeError: a value that `dtype` cannot hold, or that would become nodata by accident.
    """
    limits = np.iinfo(dtype)
    numbers = np.rint((np.asarray(physical, np.float64) - offset) / scale)
    known = np.isfinite(numbers)
    bad = known & ((numbers < limits.min) | (numbers > limits.max) | (numbers == nodata))
    if bad.any():
        worst = float(np.asarray(physical)[bad].ravel()[0])
        raise CubeError(
            "value cannot be stored",
            expected=f"{np.dtype(dtype)} at scale {scale}, offset {offset}, other than {nodata}",
            found=f"{worst:.6g} and {int(bad.sum()) - 1} more",
        )
    return np.where(known, numbers, nodata).astype(dtype)


def linear_to_db(power: np.ndarray) -> np.ndarray:
    """10 log10(power) as float32; NaN where power is not positive (border noise, nodata)."""
    positive = np.asarray(power) > 0
    db = 10 * np.log10(np.where(positive, power, 1.0))
    return np.where(positive, db, np.nan).astype(np.float32)


def db_to_linear(db: np.ndarray) -> np.ndarray:
    """10 ** (db / 10) as float32."""
    return (10.0 ** (np.asarray(db, np.float64) / 10)).astype(np.float32)


def has_bits(qa: np.ndarray, bits: Sequence[int]) -> np.ndarray:
    """True where any of the bits is set.

    >>> has_bits(np.array([0b00000, 0b01000, 0b10010]), [3, 4])
    array([False,  True,  True])
    """
    word = sum(1 << b for b in bits)
    return (qa & np.asarray(word, qa.dtype)) != 0


def clear_mask(
    qa: np.ndarray, bandset: str | BandSet, reject: Sequence[str] | None = None
) -> np.ndarray:
    """True where the quality band lets a pixel be used.

    Works on whichever quality band the product of `bandset` has: bits (Landsat QA_PIXEL, HLS
    Fmask) or classes (Sentinel-2 SCL). Worked example for QA_PIXEL of "landsat_sr6", rejecting
    bits 0-4 (fill, dilated cloud, cirrus, cloud, cloud shadow):

        21824 = 0b101010101000000   clear                  -> True
        22280 = 0b101011100001000   bit 3, cloud           -> False
        23888 = 0b101110101010000   bit 4, cloud shadow    -> False

    Args:
      qa: integers.
      reject: names from the product's table; its usual ones by default.

    Raises:
      CubeError: a band set without quality band, or a name that its table has not.
    """
    row = BANDSETS[bandset] if isinstance(bandset, str) else bandset
    if row.qa is None:
        raise CubeError("no quality band", where=row.name)
    table: Mapping[str, int] = row.qa.get("bits") or row.qa["classes"]
    names = row.qa["reject"] if reject is None else reject
    for name in names:
        if name not in table:
            raise CubeError(
                "no such quality flag",
                where=f"{row.name} {row.qa['band']}",
                expected="one of " + ", ".join(table),
                found=repr(name),
                remedy=near_miss(name, table),
            )
    numbers = [table[n] for n in names]
    if "bits" in row.qa:
        return ~has_bits(qa, numbers)
    return ~np.isin(qa, numbers)


def unsaturated_mask(radsat: np.ndarray, bits: Sequence[int] = ()) -> np.ndarray:
    """True where Landsat QA_RADSAT says that no band (or none of `bits`) is saturated."""
    return ~has_bits(radsat, bits) if bits else radsat == 0
