"""Exact percentiles of bands over training windows, in the memory of a few histograms.

A stored number becomes an unsigned key of the same order; the order statistics wanted are found
digit by digit, 16 bits at a time, each pass counting only the keys that begin with the digits
found so far. 8- and 16-bit numbers take one pass over the windows, 32-bit ones (decibels) two.

    int16 -9999 -> key 22769        float32 -12.5 -> key 0x3eb7ffff        keys sort as numbers do
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from data_zarr.errors import CubeError
from data_zarr.sensors import Number
from data_zarr.stats import blind, windows_of

if TYPE_CHECKING:
    from data_zarr.cube import Cube

Windows = Iterable[tuple[np.ndarray, np.ndarray]]


def band_percentiles(
    cube: Cube,
    bandset: str,
    windows: Int[np.ndarray, "n 2"],
    size: int,
    q: Sequence[Number] = (1, 99),
) -> Float[np.ndarray, "C Q"]:
    """Percentiles of each band over windows and all of their dates, in physical units.

    As `numpy.percentile` (linear between neighbours) of all valid pixels at once; a pixel of
    several windows counts as often as it is seen.

    Args:
      windows: upper left pixels (y, x) of the training windows, on the cube's grid.
      size: edge of a window, in pixels of the cube's grid.
      q: in 0 .. 100.

    Returns:
      float64 [C, Q]; a row ascends with q also where the scale is negative.

    Raises:
      CubeError: no windows, a window outside the cube, a band without a valid value, q beyond
        0 .. 100, or 64-bit numbers.
    """
    info = cube.bandset(bandset)
    wanted = np.asarray(q, np.float64)
    if wanted.ndim != 1 or not ((wanted >= 0) & (wanted <= 100)).all():
        raise CubeError("no such percentile", where=bandset, expected="0 .. 100", found=list(q))
    if info.dtype.itemsize > 4:
        raise CubeError(
            "percentiles of 64-bit numbers",
            where=f"{cube.path}: {bandset}",
            expected="at most 32 bits",
            found=str(info.dtype),
            remedy="store float32",
        )
    scale = np.array([b.scale for b in info.bands], np.float64)
    offset = np.array([b.offset for b in info.bands], np.float64)
    # A negative scale turns the order around: the lowest value is the highest stored number.
    ranks = np.where(scale[:, None] < 0, 100 - wanted, wanted)
    stored, count = percentiles(
        lambda: windows_of(cube, bandset, windows, size), info.dtype, len(info.bands), ranks
    )
    blind(bandset, info.bands, count)
    return stored * scale[:, None] + offset[:, None]


def percentiles(
    windows: Callable[[], Windows], dtype: np.dtype, bands: int, q: Float[np.ndarray, "C Q"]
) -> tuple[Float[np.ndarray, "C Q"], Int[np.ndarray, " C"]]:
    """Percentiles of a stream of (pixels [T,C,h,w], valid [T,1|C,h,w]) and how many were valid.

    Args:
      windows: starts the stream; called once for every 16 bits of `dtype`.
      q: in 0 .. 100, for each band.
    """
    bits = 8 * dtype.itemsize
    step = min(bits, 16)
    low = np.zeros(q.shape, np.int64)
    prefix = [np.zeros((bands, 1), np.uint64)] * 2
    share = np.zeros(q.shape)
    left: list[np.ndarray] = []
    count = np.zeros(bands, np.int64)
    for shift in range(bits - step, -1, -step):
        counts = _count(windows, dtype, bands, shift, step, prefix)
        if not left:  # the first pass counts everything
            count = counts[0][:, 0].sum(axis=-1)
            place = q / 100 * np.maximum(count - 1, 0)[:, None]
            low = np.floor(place).astype(np.int64)
            share = place - low
            left = [low, np.minimum(low + 1, np.maximum(count - 1, 0)[:, None])]
            counts = [np.broadcast_to(c, (*q.shape, c.shape[-1])) for c in counts]
            prefix = [np.zeros(q.shape, np.uint64)] * 2
        for side in (0, 1):
            above = np.cumsum(counts[side], axis=-1)
            digit = (above <= left[side][..., None]).sum(axis=-1)
            digit = np.minimum(digit, counts[side].shape[-1] - 1)
            before = np.take_along_axis(above - counts[side], digit[..., None], axis=-1)[..., 0]
            left[side] = left[side] - before
            prefix[side] = (prefix[side] << np.uint64(step)) | digit.astype(np.uint64)
    a, b = (_value(p, dtype) for p in prefix)
    return a + (b - a) * share, count


def _count(
    windows: Callable[[], Windows],
    dtype: np.dtype,
    bands: int,
    shift: int,
    step: int,
    prefix: list[np.ndarray],
) -> list[np.ndarray]:
    """Histograms of the next digit, [C, Q, 2^step], of keys that begin with each prefix [C, Q]."""
    found = [np.zeros((bands, p.shape[1], 1 << step), np.int64) for p in prefix]
    for pixels, valid in windows():
        mask = np.broadcast_to(valid, pixels.shape)
        for c in range(bands):
            key = _key(pixels[:, c][mask[:, c]], dtype) >> np.uint64(shift)
            begin = key >> np.uint64(step)
            digit = (key & np.uint64((1 << step) - 1)).astype(np.int64)
            # Neighbouring order statistics mostly share their first digits: count those once.
            done: dict[int, np.ndarray] = {}
            for side, p in enumerate(prefix):
                for j, start in enumerate(p[c].tolist()):
                    if start not in done:
                        done[start] = np.bincount(digit[begin == start], minlength=1 << step)
                    found[side][c, j] += done[start]
    return found


def _key(x: Shaped[np.ndarray, " n"], dtype: np.dtype) -> Shaped[np.ndarray, " n"]:
    """Unsigned keys that sort as the numbers do."""
    bits = 8 * dtype.itemsize
    top = np.uint64(1 << (bits - 1))
    raw = np.ascontiguousarray(x).view(f"u{dtype.itemsize}").astype(np.uint64)
    if dtype.kind in "ub":
        return raw
    if dtype.kind == "i":
        return raw ^ top
    # IEEE 754: negative numbers sort backwards, so all of their bits are turned.
    full = np.uint64((1 << bits) - 1)
    return np.where(raw & top != 0, raw ^ full, raw ^ top)


def _value(key: Shaped[np.ndarray, "*n"], dtype: np.dtype) -> Float[np.ndarray, "*n"]:
    """Inverse of `_key`, as float64."""
    bits = 8 * dtype.itemsize
    top, full = np.uint64(1 << (bits - 1)), np.uint64((1 << bits) - 1)
    if dtype.kind == "i":
        key = key ^ top
    elif dtype.kind == "f":
        key = np.where(key & top != 0, key ^ top, key ^ full)
    return key.astype(f"u{dtype.itemsize}").view(dtype).astype(np.float64)
