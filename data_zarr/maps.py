"""Georeferenced outputs: a map as Zarr (`write_map`) or GeoTIFF (`write_geotiff`).

Not cubes: no dates, no manifest. Both are written beside their place and moved there whole, so a
killed run leaves the old map or the new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.errors import CubeError, OutputError
from data_zarr.grid import Grid
from data_zarr.sites import Sites

EDGE = 256


def write_map(
    path: str | os.PathLike[str],
    grid: Grid | Sites,
    variables: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]],
    attrs: Mapping[str, Any] | None = None,
) -> Path:
    """Writes layers as one Zarr v3 group that xarray, rioxarray and GDAL open in place.

    Args:
      grid: of every layer. Layers of sites, [S, 1], are written as [S].
      variables: name -> (array [H, W], attributes such as `units`, `long_name`); floats have NaN
        as fill.
      attrs: attributes of the group.

    Raises:
      CubeError: a layer of another shape than the grid.
      OutputError: not writable.
    """
    import zarr

    from data_zarr.template import codecs, placed, write_axes

    _check_shapes(path, grid, {k: v for k, (v, _) in variables.items()})
    with _moved_into_place(path) as part:
        group: Any = zarr.create_group(
            part, zarr_format=3, attributes={**grid.attributes(), **(attrs or {})}
        )
        write_axes(group, grid)
        dims = ("site",) if isinstance(grid, Sites) else ("y", "x")
        for name, (layer, extra) in variables.items():
            values = layer.reshape(layer.shape[: len(dims)])
            floating = values.dtype.kind == "f"
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=tuple(min(EDGE, n) for n in values.shape),
                fill_value=np.nan if floating else values.dtype.type(0),
                compressors=codecs(values.dtype),
                dimension_names=dims,
                attributes={**extra, **placed(grid)},
                config={"write_empty_chunks": True},
            )
            array[...] = values
    return Path(path)


def write_geotiff(
    path: str | os.PathLike[str],
    grid: Grid | Sites,
    bands: Mapping[str, np.ndarray],
    nodata: int | float | None = np.nan,
    unit: str = "",
    description: str = "",
) -> Path:
    """Writes layers [H, W] as the bands of one tiled, deflated GeoTIFF with CRS.

    Args:
      bands: name -> layer; the name becomes the band's description. One common dtype.

    Raises:
      CubeError: rasterio is not installed; a layer of another shape; sites, which are no raster.
      OutputError: not writable.
    """
    if isinstance(grid, Sites):
        raise CubeError(
            "sites are no raster", where=path, expected="a grid", remedy="write them as Zarr"
        )
    try:
        import rasterio
    except ImportError as error:
        raise CubeError(
            "cannot write GeoTIFF without rasterio",
            where=path,
            remedy="pip install 'rsvlm-jax[geo]'",
        ) from error
    _check_shapes(path, grid, bands)
    layers = [np.asarray(v) for v in bands.values()]
    dtype = np.result_type(*layers)
    large = min(grid.height, grid.width) >= EDGE
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": len(layers),
        "dtype": dtype,
        "crs": f"EPSG:{grid.epsg}" if grid.epsg else grid.crs_wkt,
        "transform": rasterio.Affine(*grid.transform),
        "nodata": nodata,
        "compress": "deflate",
        "predictor": 3 if dtype.kind == "f" else 2,
        **({"tiled": True, "blockxsize": EDGE, "blockysize": EDGE} if large else {}),
    }
    with _moved_into_place(path) as part, rasterio.open(part, "w", **profile) as file:
        for i, (name, layer) in enumerate(zip(bands, layers, strict=True), 1):
            file.write(layer.astype(dtype), i)
            file.set_band_description(i, name)
            if unit:
                file.set_band_unit(i, unit)
        if description:
            file.update_tags(TIFFTAG_IMAGEDESCRIPTION=description)
    return Path(path)


def _check_shapes(path: Any, grid: Grid | Sites, layers: Mapping[str, np.ndarray]) -> None:
    for name, values in layers.items():
        if values.shape != (grid.height, grid.width):
            raise CubeError(
                "layer does not fit the grid",
                where=f"{path}: {name}",
                expected=[grid.height, grid.width],
                found=list(values.shape),
            )


@contextlib.contextmanager
def _moved_into_place(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to; it replaces `path` when the block ends well."""
    target = Path(path).absolute()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(part, target)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            "cannot write the map",
            where=target,
            expected="a writable place",
            found=error.strerror or str(error),
            remedy="choose another output path, or free space and rights",
        ) from error
