"""The empty cube: groups, coordinates and attributes, written before any pixel.

Not a writer of pixels: `data_zarr.write` fills what this lays out. Chunks are compressed by
blosc (zstd or lz4, byte shuffle) and then carry a CRC32C, inside shards whose index carries
another: default Zarr codecs have none around the data, and let a flipped bit through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.format import (
    FORMAT,
    FORMAT_VERSION,
    LABELS,
    PIXELS,
    TARGETS,
    TIME_UNITS,
    VALID,
    BandSetInfo,
    band_set_attributes,
)
from data_zarr.grid import Grid
from data_zarr.journal import LEVEL, Codec, Plan
from data_zarr.layout import fitting
from data_zarr.sensors import PLATFORMS
from data_zarr.sites import Sites

NO_DATE = np.iinfo(np.int64).min
"""NaT as it is stored: xarray decodes it to NaT."""


def codecs(dtype: np.dtype, level: int = LEVEL, codec: Codec = "zstd") -> list[Any]:
    """Compression and checksum of a chunk. The checksum is last: it covers what lies on disk.

    "lz4" is written by its slow compressor: at `LEVEL` as fast as zstd, the files 10 % larger than
    zstd's instead of 50 %, and read 2.5 times as fast (Sentinel-2 samples). Masks compress so well
    that only the time to decode them counts: always lz4.
    """
    from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

    shuffle = BloscShuffle.shuffle if dtype.itemsize > 1 else BloscShuffle.noshuffle
    name = "lz4hc" if codec == "lz4" else "lz4" if dtype.kind == "b" else codec
    blosc = BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=dtype.itemsize)
    return [blosc, Crc32cCodec()]


def write(root: Path, plan: Plan) -> None:
    """Lays out the groups, coordinates and empty arrays of a cube below `root`."""
    import zarr

    store: Any = zarr.create_group(
        root,
        zarr_format=3,
        overwrite=False,
        attributes={
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **plan.attrs,
            "bandsets": [b.name for b in plan.bandsets],
            "targets": [t.name for t in plan.targets],
            **plan.grid.attributes(),
        },
    )
    for info in plan.bandsets:
        _write_band_set(store, info, plan)
    dims = ("site",) if isinstance(plan.grid, Sites) else ("y", "x")
    if plan.targets:
        group = store.create_group(TARGETS, attributes=plan.grid.attributes())
        write_axes(group, plan.grid)
        shard = (fitting(plan.shard, plan.grid),) * len(dims)
        for target in plan.targets:
            group.create_array(
                target.name,
                shape=(plan.grid.height, plan.grid.width)[: len(dims)],
                dtype="float32",
                chunks=tuple(min(64, n) for n in shard),
                shards=shard,
                fill_value=np.nan,
                compressors=codecs(np.dtype("float32"), plan.level, plan.codec),
                dimension_names=dims,
                attributes={**target.to_attributes(), **placed(plan.grid)},
            )
    if isinstance(plan.grid, Sites):
        group = store.create_group(LABELS, attributes=plan.grid.attributes())
        write_axes(group, plan.grid)
        for name, values in plan.grid.labels.items():
            kind = "str" if values.dtype == object else None
            coordinate(group, name, values, ("site",), placed(plan.grid), dtype=kind)


def _write_band_set(store: Any, info: BandSetInfo, plan: Plan) -> None:
    grid = plan.grid if isinstance(plan.grid, Sites) else plan.grid.coarse(info.factor)
    group = store.create_group(
        info.name, attributes={**band_set_attributes(info), **grid.attributes()}
    )
    write_axes(group, grid)
    names = np.asarray(info.band_names, object)
    coordinate(group, "band", names, ("band",), {"long_name": "band"}, dtype="str")
    coordinates = ["band", *(("site", "lon", "lat") if info.points else ())]
    if not info.static:
        own = info.dates.ndim == 2
        dims = ("time", "site") if own else ("time",)
        if own:
            coordinates.append("time")
        write_times(group, info.dates, dims)
        flags = {
            "long_name": "platform",
            "flag_values": list(range(len(PLATFORMS))),
            "flag_meanings": " ".join(PLATFORMS),
        }
        coordinate(group, "platform", info.platform, dims, flags)
        coordinates.append("platform")
    scales = {(b.scale, b.offset) for b in info.bands}
    packing: dict[str, Any] = {}
    if len(scales) == 1 and scales != {(1.0, 0.0)}:
        packing = {"scale_factor": info.bands[0].scale, "add_offset": info.bands[0].offset}
    if info.nodata is not None and info.dtype.kind != "f":
        packing["_FillValue"] = int(info.nodata)
    units = {b.unit for b in info.bands}
    mapping = {} if info.points else {"grid_mapping": "spatial_ref"}
    group.create_array(
        PIXELS,
        shape=info.stored(info.shape),
        dtype=info.dtype,
        chunks=info.stored(info.chunks),
        shards=info.stored(info.shards),
        fill_value=info.dtype.type(info.nodata),
        compressors=codecs(info.dtype, plan.level, plan.codec),
        dimension_names=info.dims,
        attributes={
            **packing,
            **({"units": units.pop()} if len(units) == 1 else {}),
            **mapping,
            "coordinates": " ".join(coordinates),
            "ancillary_variables": VALID,
        },
    )
    group.create_array(
        VALID,
        shape=info.stored(info.shape, mask=True),
        dtype="bool",
        chunks=info.stored(info.chunks, mask=True),
        shards=info.stored(info.shards, mask=True),
        fill_value=False,
        compressors=codecs(np.dtype("bool"), plan.level, plan.codec),
        dimension_names=[d for d in info.dims if d != "band" or info.valid_per_band],
        attributes={"long_name": "value may be used", **mapping},
    )


def placed(grid: Grid | Sites) -> dict[str, str]:
    """The attribute by which CF says where a variable lies."""
    return (
        {"coordinates": "lon lat"} if isinstance(grid, Sites) else {"grid_mapping": "spatial_ref"}
    )


def write_axes(group: Any, grid: Grid | Sites, *, checked: bool = True) -> None:
    """Coordinates: y, x (pixel centres) and the CF grid mapping, or site, lon and lat."""
    if isinstance(grid, Sites):
        names = {"cf_role": "timeseries_id", "long_name": "site"}
        coordinate(group, "site", grid.ids, ("site",), names, dtype="str", checked=checked)
        for name, unit in (("lon", "degrees_east"), ("lat", "degrees_north")):
            attrs = {"standard_name": {"lon": "longitude", "lat": "latitude"}[name], "units": unit}
            coordinate(group, name, getattr(grid, name), ("site",), attrs, checked=checked)
        return
    coordinate(group, "y", grid.y, ("y",), grid.axis_attributes("y"), checked=checked)
    coordinate(group, "x", grid.x, ("x",), grid.axis_attributes("x"), checked=checked)
    group.create_array(
        "spatial_ref", shape=(), dtype="int64", fill_value=0, attributes=grid.cf_attributes()
    )


def write_times(
    group: Any, dates: np.ndarray, dims: tuple[str, ...], *, checked: bool = True
) -> None:
    """The coordinate "time": datetime64 [T], or [T, S] where sites have dates of their own."""
    attrs: dict[str, Any] = {
        "standard_name": "time",
        "units": TIME_UNITS,
        "calendar": "proleptic_gregorian",
    }
    if len(dims) > 1:
        attrs["_FillValue"] = NO_DATE
    seconds = dates.astype("datetime64[s]").astype("int64")
    coordinate(group, "time", seconds, dims, attrs, checked=checked)


def coordinate(
    group: Any,
    name: str,
    values: np.ndarray,
    dims: tuple[str, ...],
    attrs: dict[str, Any],
    *,
    dtype: Any = None,
    checked: bool = True,
) -> None:
    """A small array in one chunk; with a checksum, which GDAL does not read, unless told not."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    array = group.create_array(
        name,
        shape=values.shape,
        dtype=dtype or values.dtype,
        chunks=values.shape,
        fill_value="" if values.dtype == object else 0,
        compressors=[ZstdCodec(), *([Crc32cCodec()] if checked else [])],
        dimension_names=dims,
        attributes=attrs,
        config={"write_empty_chunks": True},
    )
    array[...] = values
