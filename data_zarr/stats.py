"""Normalisation statistics of a training split: exact, one pass, valid pixels only.

Windows are read one after another and merged by the pairwise update of Chan, Golub and LeVeque
(1983), so memory is that of one window and no digits are lost to a sum of squares. Statistics
belong to the windows given: call this with training windows only. Pixels that lie in several
windows count as often as a training epoch sees them.

    pixels [T,C,h,w], valid [T,1|C,h,w]  per window  -->  count, mean, std, min, max  [C]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from data_zarr.errors import CubeError
from data_zarr.grid import aligned

if TYPE_CHECKING:
    from data_zarr.cube import Cube


@dataclass(frozen=True, eq=False)
class BandStats:
    """Per band, in physical units.

    Attributes:
      count: int64 [C], valid values seen.
      mean, std: float64 [C]; `std` divides by the count.
      min, max: float64 [C].
    """

    count: Int[np.ndarray, " C"]
    mean: Float[np.ndarray, " C"]
    std: Float[np.ndarray, " C"]
    min: Float[np.ndarray, " C"]
    max: Float[np.ndarray, " C"]


def band_stats(cube: Cube, bandset: str, windows: Int[np.ndarray, "n 2"], size: int) -> BandStats:
    """Statistics of a band set over windows and all of its dates.

    Args:
      cube: an open cube.
      bandset: its name there.
      windows: upper left pixels (y, x) of the training windows, on the cube's grid.
      size: edge of a window, in pixels of that grid.

    Raises:
      CubeError: no windows, a window outside the cube or across larger pixels, or a band without
        a valid value.
    """
    if not len(windows):
        raise CubeError("no windows to take statistics of", where=f"band set {bandset!r}")
    reader, info = cube.reader(bandset, preload=cube.points), cube.bandsets[bandset]
    bands = info.bands
    rows, columns = np.asarray(windows).T
    y, x, edge = aligned(rows, columns, size, info.factor, f"band set {bandset!r}")
    places = zip(y.tolist(), x.tolist(), strict=True)
    stored = merge(reader.read(*place, edge, edge) for place in places)
    for band, count in zip(bands, stored.count, strict=True):
        if count == 0:
            raise CubeError(
                "a band has no valid value in the training windows",
                where=f"band {band.name!r} of {bandset!r}",
                expected="at least one",
                found="none",
            )
    # Scaling is linear, so statistics of stored numbers are taken exactly and scaled once.
    scale = np.array([b.scale for b in bands], np.float64)
    offset = np.array([b.offset for b in bands], np.float64)
    ends = np.stack([stored.min, stored.max]) * scale + offset
    return BandStats(
        count=stored.count,
        mean=stored.mean * scale + offset,
        std=stored.std * np.abs(scale),
        min=ends.min(axis=0),
        max=ends.max(axis=0),
    )


def merge(
    windows: Iterable[tuple[Shaped[np.ndarray, "T C h w"], Bool[np.ndarray, "T _ h w"]]],
) -> BandStats:
    """Statistics of a stream of (pixels, valid), in the units of the pixels.

    Bands without a valid value have count 0, mean and std 0, min +inf and max -inf.
    """
    state: _State | None = None
    for pixels, valid in windows:
        new = _moments(pixels, valid)
        state = new if state is None else _chan(state, new)
    if state is None:
        raise CubeError("no windows to take statistics of", expected="at least one", found="none")
    std = np.sqrt(state.m2 / np.maximum(state.count, 1))
    return BandStats(state.count, state.mean, std, state.low, state.high)


class _State(NamedTuple):
    """[C] each; `m2` is the sum of squared deviations from `mean`."""

    count: Int[np.ndarray, " C"]
    mean: Float[np.ndarray, " C"]
    m2: Float[np.ndarray, " C"]
    low: Float[np.ndarray, " C"]
    high: Float[np.ndarray, " C"]


def _moments(pixels: Shaped[np.ndarray, "T C h w"], valid: Bool[np.ndarray, "T _ h w"]) -> _State:
    bands = pixels.shape[1]
    mask = np.moveaxis(np.broadcast_to(valid, pixels.shape), 1, 0).reshape(bands, -1)
    x = np.moveaxis(pixels, 1, 0).reshape(bands, -1).astype(np.float64)
    count = mask.sum(axis=1)
    mean = np.where(mask, x, 0.0).sum(axis=1) / np.maximum(count, 1)
    m2 = (np.where(mask, x, mean[:, None]) - mean[:, None]) ** 2
    low, high = np.where(mask, x, np.inf).min(axis=1), np.where(mask, x, -np.inf).max(axis=1)
    return _State(count, mean, m2.sum(axis=1), low, high)


def _chan(a: _State, b: _State) -> _State:
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    delta = b.mean - a.mean
    return _State(
        count,
        a.mean + delta * share,
        a.m2 + b.m2 + delta**2 * a.count * share,
        np.minimum(a.low, b.low),
        np.maximum(a.high, b.high),
    )
