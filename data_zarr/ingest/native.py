"""The only reader of source pixels: windows of a `Layer`, as they are stored.

Rasters by rasterio, arrays of NetCDF, Zarr, HDF5 and NumPy files by their own libraries. Nothing
is scaled here. Rows that are stored south-up come out north-up, as the layer's grid says.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.ingest.scene import Layer


def rasterio_module(where: object) -> Any:
    """rasterio, or one line that says how to get it."""
    try:
        import rasterio
    except ImportError as error:
        raise CubeError(
            "cannot read rasters without rasterio",
            where=where,
            remedy="pip install 'rsvlm-jax[geo]'",
        ) from error
    return rasterio


def open_raster(path: str, where: object) -> Any:
    """An open rasterio dataset; CubeError when it is no raster."""
    rasterio = rasterio_module(where)
    try:
        with warnings.catch_warnings():
            # A raster without a position is refused by name in `grid_of`.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise CubeError(
            "unreadable raster", where=where, expected="a raster", found=f"{path}: {error}"[:160]
        ) from error


def grid_of(file: Any, where: object) -> Grid:
    """The grid of an open raster.

    Raises:
      CubeError: ground control points in place of a grid (raw radar), no CRS, or not north-up.
    """
    if file.crs is None:
        points = bool(file.gcps[0])
        raise CubeError(
            "raster is not geocoded" if points else "raster without CRS",
            where=where,
            expected="a CRS and an affine transform",
            found=f"{len(file.gcps[0])} ground control points" if points else "none",
            remedy="geocode it first (e.g. terrain correction)" if points else "assign its CRS",
        )
    a, b, c, d, e, f = tuple(file.transform)[:6]
    code = file.crs.to_epsg()
    if code:
        grid = Grid.from_epsg(code, (a, b, c, d, e, f), file.height, file.width)
    else:
        grid = Grid(file.crs.to_wkt(), None, (a, b, c, d, e, f), file.height, file.width)
    grid.check(where)
    return grid


def read(layer: Layer, y: int, x: int, h: int, w: int) -> np.ndarray:
    """Stored numbers [h, w] of a window that lies inside `layer.grid`.

    Raises:
      CubeError: unreadable, or no longer what it was when it was inspected.
    """
    if not layer.variable:
        return _read_raster([layer], y, x, h, w)[0]
    rows = slice(y, y + h)
    if layer.flip:
        n = layer.grid.height
        rows = slice(n - y - h, n - y)
    values = np.asarray(_read_variable(layer, rows, slice(x, x + w)))
    return values[::-1] if layer.flip else values


def read_all(layers: Sequence[Layer], y: int, x: int, h: int, w: int) -> list[np.ndarray]:
    """`read` of several layers of one grid; channels of one raster are read together."""
    out: list[Any] = [None] * len(layers)
    rasters: dict[str, list[int]] = {}
    for i, layer in enumerate(layers):
        if layer.variable:
            out[i] = read(layer, y, x, h, w)
        else:
            rasters.setdefault(layer.path, []).append(i)
    for members in rasters.values():
        values = _read_raster([layers[i] for i in members], y, x, h, w)
        for i, plane in zip(members, values, strict=True):
            out[i] = plane
    return out


def _read_raster(layers: Sequence[Layer], y: int, x: int, h: int, w: int) -> np.ndarray:
    """Channels [n, h, w] of one raster."""
    first = layers[0]
    rasterio = rasterio_module(first.name)
    with open_raster(first.path, first.path) as file:
        if (file.height, file.width) != (first.grid.height, first.grid.width):
            raise CubeError(
                "source has changed",
                where=first.path,
                expected=f"{first.grid.height} x {first.grid.width} pixels, as inspected",
                found=f"{file.height} x {file.width}",
            )
        try:
            return file.read([layer.index for layer in layers], window=((y, y + h), (x, x + w)))
        except rasterio.errors.RasterioIOError as error:
            raise CubeError(
                "damaged raster",
                where=first.name,
                expected=f"rows {y}..{y + h}, columns {x}..{x + w}",
                found=str(error.__cause__ or error)[:120],
                remedy="fetch the file again",
            ) from error


def _read_variable(layer: Layer, rows: slice, columns: slice) -> Any:
    from data_zarr.ingest.stores import open_array

    window: dict[str, Any] = dict(layer.select)
    window[layer.axes[0]], window[layer.axes[1]] = rows, columns
    with open_array(layer.path, layer.variable) as (array, dims):
        values = array[tuple(window[d] for d in dims)]
    keep = [d for d in dims if d in layer.axes]
    return values if tuple(keep) == layer.axes else np.asarray(values).T


def exists(path: str) -> bool:
    """True for a path that is there; archives and remote rasters are asked when opened."""
    return path.startswith("/vsi") or "://" in path or Path(path).exists()
