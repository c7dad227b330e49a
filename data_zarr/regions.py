"""Where to look: a box or polygons in degrees, as pixels of a grid or as sites.

Not a geometry library: nothing is cut or joined. A pixel belongs to a region when its centre does;
a site on an edge belongs to it.
Edges are straight in degrees, and there the centres of pixels are looked for: a projection may not
know the corners of a large region. Which rows and columns a small one reaches is told beforehand,
by its edges in the grid's own coordinates.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.sensors import Number
from data_zarr.sites import Sites

PIECES = 16
"""Of an edge."""
SMALL = 5.0
"""Degrees up to which such pieces of edges are straight in any projection, to a hundredth of what
they enclose."""
ROWS = 256
"""Of a grid that are looked at together."""

Ring = tuple[tuple[Number, Number], ...]


@dataclasses.dataclass(frozen=True)
class Region:
    """Polygons in degrees (WGS 84).

    Attributes:
      polygons: of each its outer ring and its holes; of a ring (lon, lat) corners.
      name: what people call it: the numbers of a box, or a file.
    """

    polygons: tuple[tuple[Ring, ...], ...]
    name: str

    @classmethod
    def box(cls, west: Number, south: Number, east: Number, north: Number) -> Region:
        """Of four numbers in degrees; CubeError where they enclose nothing."""
        name = " ".join(f"{v:g}" for v in (west, south, east, north))
        if not (-180 <= west < east <= 360 and -90 <= south < north <= 90):
            raise CubeError(
                "no box",
                where=name,
                expected="WEST SOUTH EAST NORTH in degrees, WEST < EAST and SOUTH < NORTH",
                remedy="write longitudes first",
            )
        ring = ((west, south), (east, south), (east, north), (west, north))
        return cls(((ring,),), name)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Region:
        """Of the Polygon and MultiPolygon geometries of a GeoJSON file.

        Raises:
          CubeError: no such file, no GeoJSON, or none of these geometries in it.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text())
            polygons = [tuple(_ring(r) for r in p) for p in _polygons(content)]
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CubeError(
                "unreadable region", where=path, expected="a GeoJSON file", found=str(reason)[:120]
            ) from error
        if not polygons:
            raise CubeError(
                "no polygon", where=path, expected="Polygon or MultiPolygon", found="none of them"
            )
        return cls(tuple(polygons), path.name)

    def window(self, grid: Grid) -> tuple[int, int, int, int]:
        """(y, x, h, w) of the rows and columns of a grid that the region reaches.

        Raises:
          CubeError: no centre of a pixel is inside.
        """
        y0, x0, y1, x1 = 0, 0, grid.height, grid.width
        if self._extent() <= SMALL and not self._beyond():
            y0, x0, y1, x1 = self._near(grid)
        found = np.zeros((0, 0), bool)
        if x0 < x1 and y0 < y1:
            found = self.mask(grid.window(y0, x0, y1 - y0, x1 - x0))
        if not found.any():
            west, south, east, north = grid.lonlat_bounds
            raise CubeError(
                "the region and the cube do not meet",
                where=self.name,
                expected=f"{west:.4f}..{east:.4f} E, {south:.4f}..{north:.4f} N",
                found="no centre of a pixel in the region",
            )
        rows, columns = (np.flatnonzero(found.any(k)) for k in (1, 0))
        h, w = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        return y0 + int(rows[0]), x0 + int(columns[0]), h, w

    def _extent(self) -> float:
        """Degrees, of the longer side of the box around it."""
        corners = np.concatenate([np.asarray(r) for polygon in self.polygons for r in polygon])
        return float(np.ptp(corners, axis=0).max())

    def _beyond(self) -> bool:
        """Whether longitudes go on beyond 180: on both sides of a grid in degrees."""
        return any(lon > 180 for polygon in self.polygons for ring in polygon for lon, _ in ring)

    def _near(self, grid: Grid) -> tuple[int, int, int, int]:
        """(y0, x0, y1, x1) around a small region, a little more than it reaches."""
        a, _, c, _, e, f = grid.transform
        corners = np.concatenate([r for polygon in self._projected(grid.crs_wkt) for r in polygon])
        x, y = (corners[:, 0] - c) / a, (corners[:, 1] - f) / e
        wide, high = (1 + np.ptp(v) / 100 for v in (x, y))
        y0, x0 = max(int(y.min() - high), 0), max(int(x.min() - wide), 0)
        y1 = min(int(np.ceil(y.max() + high)), grid.height)
        return y0, x0, y1, min(int(np.ceil(x.max() + wide)), grid.width)

    def mask(self, grid: Grid) -> np.ndarray:
        """bool [H, W]: whether the centre of a pixel is inside."""
        from pyproj import Transformer

        change = Transformer.from_crs(grid.crs_wkt, "EPSG:4326", always_xy=True)
        found = np.empty((grid.height, grid.width), bool)
        for start in range(0, grid.height, ROWS):
            x, y = np.meshgrid(grid.x, grid.y[start : start + ROWS])
            lon, lat = change.transform(x.ravel(), y.ravel())
            found[start : start + ROWS] = self._holds(lon, lat).reshape(x.shape)
        return found

    def of_sites(self, sites: Sites) -> np.ndarray:
        """bool [S]: whether a site is inside or on an edge; one of an unknown place is not."""
        found = self._holds(sites.lon, sites.lat)
        rings = [np.asarray(ring, np.float64) for polygon in self.polygons for ring in polygon]
        for turn in (0, 360) if self._beyond() else (0,):
            found |= _on_edge(rings, np.asarray(sites.lon) + turn, np.asarray(sites.lat))
        return found

    def _holds(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """bool [n]: which places are inside. Longitudes of a region may go on beyond 180."""
        shapes = [[np.asarray(ring, np.float64) for ring in p] for p in self.polygons]
        found = _inside(shapes, np.stack([lon, lat], axis=1))
        if self._beyond():
            found |= _inside(shapes, np.stack([np.asarray(lon) + 360, lat], axis=1))
        return found

    @functools.lru_cache(maxsize=4)  # noqa: B019  (frozen, and few)
    def _projected(self, wkt: str) -> list[list[np.ndarray]]:
        """Rings with divided edges, [n, 2] each, in a CRS."""
        from pyproj import Transformer

        change = Transformer.from_crs("EPSG:4326", wkt, always_xy=True)
        share = np.arange(PIECES)[:, None] / PIECES
        shapes = []
        for polygon in self.polygons:
            rings = []
            for ring in polygon:
                ends = np.asarray(ring, np.float64)
                there = np.roll(ends, -1, axis=0)
                fine = (ends[:, None] + share * (there - ends)[:, None]).reshape(-1, 2)
                x, y = fine.T
                rings.append(np.stack(change.transform(x, y), axis=1))
            shapes.append(rings)
        return shapes


def _inside(shapes: list[list[np.ndarray]], points: np.ndarray) -> np.ndarray:
    """bool [n]: in any polygon, that is in an odd number of its rings."""
    from matplotlib.path import Path as Outline

    found = np.zeros(len(points), bool)
    for rings in shapes:
        odd = np.zeros(len(points), bool)
        for ring in rings:
            odd ^= Outline(ring, closed=False).contains_points(points)
        found |= odd
    return found


def _on_edge(rings: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool [n]: exactly on a side or a corner, where a box in round numbers often has its sites."""
    found = np.zeros(len(x), bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            along = (x - x0) * (y1 - y0) == (y - y0) * (x1 - x0)
            found |= along & (min(x0, x1) <= x) & (x <= max(x0, x1)) & (
                min(y0, y1) <= y) & (y <= max(y0, y1))  # fmt: skip
    return found


def _polygons(node: Any) -> list[Any]:
    """Coordinates of all polygons in a GeoJSON object."""
    kind = node["type"]
    if kind == "FeatureCollection":
        return [p for feature in node["features"] for p in _polygons(feature)]
    if kind == "Feature":
        return _polygons(node["geometry"]) if node["geometry"] else []
    if kind == "GeometryCollection":
        return [p for geometry in node["geometries"] for p in _polygons(geometry)]
    return {"Polygon": lambda c: [c], "MultiPolygon": list}.get(kind, lambda _: [])(
        node.get("coordinates")
    )


def _ring(corners: Any) -> Ring:
    ring = tuple((float(c[0]), float(c[1])) for c in corners)
    outside = [c for c in ring if not (-180 <= c[0] <= 360 and -90 <= c[1] <= 90)]
    if len(ring) < 3 or outside:
        raise ValueError(f"corner {outside[0]} is not in degrees" if outside else "a ring of 2")
    return ring
