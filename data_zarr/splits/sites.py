"""Spatial folds of places: blocks on the ground, and training places kept away from test ones.

    lon, lat [S] --site_blocks(metres)--> block [S] --group_folds--> fold [S] --site_split--> Split

Blocks are bands of latitude, cut into pieces of the same length along each band, so that a block
is as wide in the north as at the equator and none is cut by the date line.
"""

from __future__ import annotations

import types

import numpy as np
from jaxtyping import Int, Shaped

from data_zarr.errors import CubeError
from data_zarr.ground import RADIUS, chord, earth_points
from data_zarr.sensors import Number
from data_zarr.splits.tiles import Split, checked

EARTH = types.SimpleNamespace(geographic=True)
"""What `data_zarr.ground` must know of places: they are in degrees."""


def site_blocks(
    lon: Shaped[np.ndarray, " S"], lat: Shaped[np.ndarray, " S"], metres: Number
) -> Int[np.ndarray, " S"]:
    """The block of every place, numbered from 0.

    Args:
      metres: edge of a block on the ground.

    Raises:
      CubeError: a place without a position, or an impossible edge.
    """
    earth_points(lon, lat)
    if not 0 < metres <= np.pi * RADIUS:
        raise CubeError("impossible blocks", expected="an edge in metres", found=metres)
    band = np.floor((np.asarray(lat, np.float64) + 90) * np.radians(1) * RADIUS / metres)
    middle = np.clip((band + 0.5) * metres / RADIUS - np.pi / 2, -np.pi / 2, np.pi / 2)
    around = np.maximum(np.round(2 * np.pi * RADIUS * np.cos(middle) / metres), 1)
    piece = np.floor((np.asarray(lon, np.float64) + 180) % 360 / 360 * around)
    pairs = np.stack([band, piece], axis=1).astype(np.int64)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def site_split(
    fold_of: Int[np.ndarray, " S"],
    fold: int,
    lon: Shaped[np.ndarray, " S"] | None = None,
    lat: Shaped[np.ndarray, " S"] | None = None,
    *,
    buffer_metres: Number = 0,
) -> Split:
    """Test on one fold of places, train on those further than `buffer_metres` from all of it.

    Args:
      fold_of: from `group_folds`.
      lon, lat: degrees; needed with a buffer.

    Raises:
      CubeError: no such fold, a buffer without positions, or nothing left to train on.
    """
    if not (fold_of == fold).any():
        raise CubeError(
            "no such fold", expected=f"one of {np.unique(fold_of).tolist()}", found=fold
        )
    test = np.flatnonzero(fold_of == fold)
    train = np.flatnonzero(fold_of != fold)
    missing = lon is None or lat is None
    if not 0 <= buffer_metres < np.inf or (buffer_metres > 0 and missing):
        raise CubeError(
            "impossible buffer",
            expected="metres >= 0, and longitudes and latitudes",
            found=f"{buffer_metres}, positions {'given' if lon is not None else 'missing'}",
        )
    if buffer_metres > 0 and lon is not None and lat is not None:
        from scipy.spatial import KDTree

        at = earth_points(lon, lat)
        reach = float(chord(buffer_metres, EARTH))
        near = KDTree(at[test]).query(at[train], distance_upper_bound=np.nextafter(reach, np.inf))
        train = train[np.isinf(near[0])]
    return checked(train, test, f"fold {fold}")
