"""Distances on the ground in metres: for a CRS in metres or feet, in degrees, and for places.

Positions become points in space whose straight distances can be searched by a KD-tree:

    projected CRS   x, y of the CRS, in metres                      [n, 2]
    degrees         earth-centred coordinates on WGS 84, in metres  [n, 3]

A chord through the earth is brought back to an arc by `arc`. Not for a projection that stretches:
distances in web Mercator are those of its plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from data_zarr.errors import CubeError

if TYPE_CHECKING:
    from data_zarr.grid import Grid

RADIUS = 6_371_008.8
"""Mean radius of the earth, metres."""
_AXIS, _FLAT = 6_378_137.0, 1 / 298.257223563


def earth_points(
    lon: Shaped[np.ndarray, " n"], lat: Shaped[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Earth-centred coordinates of degrees on the WGS 84 ellipsoid, in metres.

    Raises:
      CubeError: a place without a position, or a latitude beyond the poles.
    """
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    bad = ~(np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90))
    if bad.any():
        i = int(np.argmax(bad))
        raise CubeError(
            "a place has no position",
            where=f"row {i}",
            expected="longitude and latitude in degrees",
            found=f"{lon[i]}, {lat[i]}",
        )
    x, y = np.radians(lon), np.radians(lat)
    square = _FLAT * (2 - _FLAT)
    normal = _AXIS / np.sqrt(1 - square * np.sin(y) ** 2)
    return np.stack(
        [
            normal * np.cos(y) * np.cos(x),
            normal * np.cos(y) * np.sin(x),
            normal * (1 - square) * np.sin(y),
        ],
        axis=-1,
    )


def points(grid: Any, row: Any, col: Any) -> Float[np.ndarray, "n d"]:
    """Positions of continuous pixel coordinates in metres, [n, 2] or [n, 3]; +0.5 is a centre.

    Args:
      grid: a `Grid`, or the places of a point cube (`lonlat`, `geographic`).
    """
    row, col = np.asarray(row, np.float64), np.asarray(col, np.float64)
    if grid.geographic:
        return earth_points(*grid.lonlat(row, col))
    a, _, _, _, e, _ = grid.transform
    unit = metres_a_unit(grid)
    return np.stack([col * a * unit, row * e * unit], axis=-1)


def metres_a_unit(grid: Grid) -> float:
    """Metres in a unit of a projected CRS."""
    a, _, _, _, e, _ = grid.transform
    return grid.gsd / float(np.sqrt(abs(a * e)))


def pixel_metres(grid: Any) -> tuple[float, float]:
    """Height and width of a pixel in metres, the smallest of the first, middle and last row."""
    sizes = []
    for row in (0.0, grid.height / 2, grid.height - 1.0):
        middle = grid.width / 2
        at = points(grid, [row, row + 1, row], [middle, middle, middle + 1])
        sizes.append(np.linalg.norm(at[1:] - at[0], axis=1))
    down, across = np.min(sizes, axis=0)
    return float(down), float(across)


def arc(straight: Any, grid: Any) -> Any:
    """Metres along the ground for straight distances between `points`."""
    if not grid.geographic:
        return straight
    return 2 * RADIUS * np.arcsin(np.minimum(np.asarray(straight) / (2 * RADIUS), 1))


def chord(metres: Any, grid: Any) -> Any:
    """Inverse of `arc`: the straight distance of so many metres along the ground."""
    if not grid.geographic:
        return metres
    return 2 * RADIUS * np.sin(np.minimum(np.asarray(metres) / (2 * RADIUS), np.pi / 2))
