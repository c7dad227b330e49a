"""Georeferenced outputs: a map as Zarr (`write_map`) or GeoTIFF (`write_geotiff`).

Not cubes: no dates, no manifest. Both are written beside their place and moved there whole, so a
killed run leaves the old map or the new one. Layers are read by strips of rows: an array, or
whatever has a shape, a dtype and such slices.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from data_zarr.errors import CubeError, OutputError
from data_zarr.grid import Grid
from data_zarr.sites import Sites

EDGE = 256
"""Of chunks and of the tiles of a GeoTIFF."""

GDAL_CACHE_MB = 64


@runtime_checkable
class Layer(Protocol):
    """What is written: [H, W], a NumPy array or larger than memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def write_map(
    path: str | os.PathLike[str],
    grid: Grid | Sites,
    variables: Mapping[str, tuple[Layer | Sequence[Layer], Mapping[str, Any]]],
    attrs: Mapping[str, Any] | None = None,
    *,
    times: np.ndarray | None = None,
) -> Path:
    """Writes layers as one Zarr v3 group that xarray, rioxarray and GDAL (3.12) open in place.

    Chunks have no checksums, unlike those of a cube: GDAL does not know them. Its older versions
    read no Zarr v3 that is written today; for them there is the GeoTIFF.

    Args:
      grid: of every layer. Layers of sites, [S, 1], are written as [S].
      variables: name -> (array [H, W], attributes such as `units`, `long_name`); floats have NaN
        as fill. With `times`, T arrays of one type, which become [T, H, W].
      attrs: attributes of the group.
      times: datetime64 [T], ascending: the axis "time" of every variable.

    Raises:
      CubeError: a layer of another shape than the grid.
      OutputError: not writable.
    """
    import zarr

    from data_zarr.template import codecs, placed, write_axes, write_times

    layers: dict[str, list[Layer]] = {}
    for name, (given, _) in variables.items():
        layers[name] = [given] if isinstance(given, Layer) else list(given)
        for layer in layers[name]:
            _check_shapes(path, grid, {name: layer})
    with _moved_into_place(path) as part:
        group: Any = zarr.create_group(
            part, zarr_format=3, attributes={**grid.attributes(), **(attrs or {})}
        )
        write_axes(group, grid, checked=False)
        place = ("site",) if isinstance(grid, Sites) else ("y", "x")
        dims, first = place, ()
        if times is not None:
            write_times(group, times, ("time",), checked=False)
            dims, first = ("time", *place), (len(times),)
        # As a coordinate, xarray hands the grid mapping on to rioxarray without being told to.
        mapped = {"coordinates": "spatial_ref", **placed(grid)}
        for name, dated in layers.items():
            shape, dtype = dated[0].shape[: len(place)], np.dtype(dated[0].dtype)
            array = group.create_array(
                name,
                shape=(*first, *shape),
                dtype=dtype,
                chunks=(*(1 for _ in first), *(min(EDGE, n) for n in shape)),
                fill_value=np.nan if dtype.kind == "f" else dtype.type(0),
                compressors=codecs(dtype)[:1],
                dimension_names=dims,
                attributes={**variables[name][1], **mapped},
                config={"write_empty_chunks": True},
            )
            for i, layer in enumerate(dated):
                for rows in _strips(shape[0]):
                    strip = layer[rows]
                    at = (i, rows) if first else (rows,)
                    array[at] = strip.reshape(strip.shape[: len(place)])
    return Path(path)


def write_geotiff(
    path: str | os.PathLike[str],
    grid: Grid | Sites,
    bands: Mapping[str, Layer],
    nodata: int | float | None = np.nan,
    unit: str | Mapping[str, str] = "",
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Writes layers [H, W] as the bands of one deflated, cloud-optimised GeoTIFF with CRS.

    Args:
      bands: name -> layer; the name becomes the band's description. One common dtype.
      unit: of all bands, or of each by its name.
      tags: more metadata of the file.

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
        from rasterio.shutil import copy
        from rasterio.windows import Window
    except ImportError as error:
        raise CubeError(
            "cannot write GeoTIFF without rasterio",
            where=path,
            remedy="pip install 'rsvlm-jax[geo]'",
        ) from error
    _check_shapes(path, grid, bands)
    dtype = np.result_type(*(v.dtype for v in bands.values()))
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": len(bands),
        "dtype": dtype,
        "crs": f"EPSG:{grid.epsg}" if grid.epsg else grid.crs_wkt,
        "transform": rasterio.Affine(*grid.transform),
        "nodata": nodata,
        "interleave": "band",
        "bigtiff": "if_safer",
    }
    # GDAL would keep a twentieth of the machine's memory in blocks that nobody reads again.
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), _moved_into_place(path) as part:
        plain = part.with_suffix(".plain")  # the driver of COGs only copies
        try:
            with rasterio.open(plain, "w", **profile) as file:
                for i, (name, layer) in enumerate(bands.items(), 1):
                    for rows in _strips(grid.height):
                        place = Window(0, rows.start, grid.width, rows.stop - rows.start)  # type: ignore[call-arg]
                        file.write(layer[rows].astype(dtype), i, window=place)
                    file.set_band_description(i, name)
                    if word := unit if isinstance(unit, str) else unit.get(name, ""):
                        file.set_band_unit(i, word)
                if description:
                    file.update_tags(TIFFTAG_IMAGEDESCRIPTION=description)
                file.update_tags(**(tags or {}))
            # A mean of codes, or of pixels with and without an answer, would be nobody's: nearest.
            copy(
                plain, part, driver="COG", compress="deflate", blocksize=EDGE, bigtiff="if_safer",
                predictor="floating_point" if dtype.kind == "f" else "standard",
                overview_resampling="nearest",
            )  # fmt: skip
        finally:
            plain.unlink(missing_ok=True)
    return Path(path)


def _strips(height: int) -> Iterator[slice]:
    """Rows, `EDGE` at a time."""
    for y in range(0, height, EDGE):
        yield slice(y, min(y + EDGE, height))


def _check_shapes(path: Any, grid: Grid | Sites, layers: Mapping[str, Layer]) -> None:
    for name, values in layers.items():
        if tuple(values.shape) != (grid.height, grid.width):
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
