"""The one grid of a cube: as the recipe says, or that of the first scene; and what overlaps it."""

from __future__ import annotations

import math

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.ingest.native import grid_of, open_raster
from data_zarr.ingest.recipe import GridSpec
from data_zarr.ingest.scene import Scene
from data_zarr.ingest.warp import same_crs, window_in

WHERE = "recipe: grid"


def target_grid(spec: GridSpec, scenes: tuple[Scene, ...]) -> Grid:
    """The grid of the cube.

    What the recipe leaves out is that of the finest layer of the first scene. Bounds that are not
    given and no longer fit are grown to whole pixels.

    Raises:
      CubeError: bounds that are no whole number of pixels; another CRS without a resolution.
    """
    if spec.like is not None:
        if (spec.crs, spec.resolution, spec.bounds) != (None, None, None):
            raise CubeError(
                "grid given twice", where=WHERE, expected="`like` alone, or the others without it"
            )
        with open_raster(spec.like, WHERE) as file:
            return grid_of(file, spec.like)
    base = min((x.grid for x in scenes[0].layers), key=lambda g: g.gsd)
    if (spec.crs, spec.resolution, spec.bounds) == (None, None, None):
        return base
    code, wkt = _crs(spec.crs) if spec.crs else (base.epsg, base.crs_wkt)
    other = Grid(wkt, code, base.transform, base.height, base.width)
    moved = not same_crs(base, other)
    if moved and spec.resolution is None:
        raise CubeError(
            "no resolution",
            where=WHERE,
            expected=f"pixel size in units of {spec.crs}",
            found="another CRS than that of the first source, without one",
        )
    step = base.transform[0] if spec.resolution is None else float(spec.resolution)
    if step <= 0:
        raise CubeError("resolution", where=WHERE, expected="> 0", found=step)
    if spec.bounds is not None:
        left, bottom, right, top = map(float, spec.bounds)
        width, height = (right - left) / step, (top - bottom) / step
        if min(width, height) < 0.5 or max(
            abs(width - round(width)), abs(height - round(height))
        ) > 1e-6 * max(width, height, 1.0):
            raise CubeError(
                "bounds are no whole number of pixels",
                where=WHERE,
                expected="xmin < xmax, ymin < ymax, and multiples of the resolution apart",
                found=f"{width:.6g} x {height:.6g} pixels of {step:g}",
            )
        width, height = round(width), round(height)
    else:
        left, bottom, right, top = base.bounds
        if moved:
            from rasterio.warp import transform_bounds

            left, bottom, right, top = transform_bounds(
                base.crs_wkt, wkt, *base.bounds, densify_pts=21
            )
            left, top = math.floor(left / step) * step, math.ceil(top / step) * step
        width = math.ceil(round((right - left) / step, 6))
        height = math.ceil(round((top - bottom) / step, 6))
    grid = Grid(wkt, code, (step, 0.0, left, 0.0, -step, top), height, width)
    grid.check(WHERE)
    return grid


def _crs(text: str) -> tuple[int | None, str]:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise CubeError(
            "unreadable CRS", where=WHERE, expected="EPSG:code or WKT", found=repr(text)[:80]
        ) from error
    return crs.to_epsg(), crs.to_wkt()


def overlapping(
    scenes: tuple[Scene, ...], grid: Grid, where: str
) -> tuple[tuple[Scene, ...], tuple[str, ...]]:
    """The scenes that touch the grid, and a note of those that do not.

    Raises:
      CubeError: none does; a wrong zone or swapped axes are the usual reasons.
    """
    inside = tuple(s for s in scenes if window_in(s.layers[0].grid, grid) is not None)
    if inside:
        outside = len(scenes) - len(inside)
        return inside, (f"{where}: {outside} scenes lie outside the grid",) if outside else ()
    other = scenes[0].layers[0].grid
    remedy = "check the CRS and the bounds"
    if _utm(other) and _utm(grid) and other.epsg != grid.epsg and _numbers_meet(other, grid):
        remedy = "the numbers would meet in one zone: one of the two UTM zones is wrong"
    raise CubeError(
        "sources and grid do not overlap",
        where=where,
        expected=f"something in {_place(grid)}",
        found=f"{scenes[0].name} in {_place(other)}",
        remedy=remedy,
    )


def _utm(grid: Grid) -> bool:
    return grid.epsg is not None and grid.epsg // 100 in (326, 327)


def _numbers_meet(a: Grid, b: Grid) -> bool:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.bounds, b.bounds
    return ax0 < bx1 and bx0 < ax1 and ay0 < by1 and by0 < ay1


def _place(grid: Grid) -> str:
    west, south, east, north = grid.lonlat_bounds
    name = f"EPSG:{grid.epsg}" if grid.epsg else "its CRS"
    return f"{name}, {west:.3f}..{east:.3f} E, {south:.3f}..{north:.3f} N"
