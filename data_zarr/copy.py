"""Copies of a cube in another layout or codec: `copy_cube(src, dst, layout="series", codec="lz4")`.

Shard by shard, so memory is that of one shard; stopped and called again, it goes on. Stored
numbers, masks, dates, platforms, labels, targets and attributes are those of the source, bit for
bit; a line about the copy is added to the provenance. Not a resampler and not a subset.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError
from data_zarr.format import PIXELS, TARGETS, BandSetInfo
from data_zarr.journal import Codec
from data_zarr.layout import CHUNK, BandSetData, Layout
from data_zarr.write import CubeWriter, create_cube

OWN = ("format", "format_version", "title", "license", "provenance", "bandsets", "targets")


def copy_cube(
    src: str | os.PathLike[str] | Cube,
    dst: str | os.PathLike[str],
    layout: Layout | None = None,
    codec: Codec | str | None = None,
    shard: int | None = None,
    *,
    level: int = 3,
    overwrite: bool = False,
) -> Cube:
    """Copies a cube and opens the copy.

    Args:
      src: a cube, its path or URL.
      dst: path of the copy; an unfinished copy of the same arguments is resumed.
      layout, codec, shard: as in `create_cube`; None keeps that of the source.
      level: of the codec.

    Raises:
      CubeError: a damaged chunk of the source; what `create_cube` refuses.
      OutputError: not writable.
    """
    source = src if isinstance(src, Cube) else open_cube(src)
    layout, codec = layout or layout_of(source), codec or codec_of(source)
    shard = shard or max(i.shards[2] for i in source.bandsets.values())
    words = f"copied from {source.path} ({source.digest()[:16]}), layout {layout}, codec {codec}"
    places = source.grid.attributes()
    # Attributes of the place are written anew; the others are the source's own.
    rest = {k: v for k, v in source.attrs.items() if k not in OWN and k not in places}
    with create_cube(
        dst,
        grid=source.grid,
        bandsets=[_described(i) for i in source.bandsets.values()],
        targets=list(source.targets.values()),
        layout=layout,
        shard=shard,
        title=source.title,
        license=str(source.attrs.get("license", "")),
        provenance=f"{source.attrs.get('provenance', '')}\n{words}".strip(),
        attrs=rest,
        codec=codec,
        level=level,
        overwrite=overwrite,
    ) as writer:
        for name in source.bandsets:
            _copy_band_set(source, writer, name)
        for name in source.targets:
            _copy_target(source, writer, name)
    return open_cube(dst)


def layout_of(cube: Cube) -> Layout:
    """The layout by which the chunks of a cube were cut."""
    infos = cube.bandsets.values()
    if any(i.chunks[0] > 1 for i in infos):
        return "series"
    whole = [i for i in infos if i.chunks[2] == i.shards[2]]
    return "image" if any(i.chunks[2] > CHUNK for i in whole) else "balanced"


def codec_of(cube: Cube) -> Codec:
    """The compressor of the pixels."""
    array = json.loads(cube.manifest.raw(f"{next(iter(cube.bandsets))}/{PIXELS}/zarr.json"))
    for step in array["codecs"][0]["configuration"]["codecs"]:
        if step["name"] == "blosc" and step["configuration"]["cname"] in ("zstd", "lz4"):
            return step["configuration"]["cname"]
    raise CubeError("a cube of an unknown codec", where=cube.path, remedy="name the codec")


def _described(info: BandSetInfo) -> BandSetData:
    return BandSetData(
        info.name,
        info.kind,
        info.bands,
        dates=None if info.static else info.dates,
        platform=0 if info.static else info.platform,
        scale=[b.scale for b in info.bands],
        offset=[b.offset for b in info.bands],
        nodata=-9999 if info.nodata is None else info.nodata,
        static=info.static,
        dtype=info.dtype,
        valid_per_band=info.valid_per_band,
        source=info.source,
        factor=info.factor,
        year_known=info.year_known,
    )


def _copy_band_set(source: Cube, writer: CubeWriter, name: str) -> None:
    reader, (height, width) = source.reader(name), writer.size_of(name)
    edge = writer.shard_of(name)
    for y, x in writer.regions(name):
        if not writer.done(name, y, x):
            h, w = min(edge, height - y), min(edge, width - x)
            writer.write(name, y, x, *reader.read(y, x, h, w))


def _copy_target(source: Cube, writer: CubeWriter, name: str) -> None:
    import zarr

    from data_zarr.store import ManifestStore

    stored: Any = zarr.open_array(
        ManifestStore(source.manifest), path=f"{TARGETS}/{name}", mode="r"
    )
    for y, x in writer.regions(name):
        if not writer.done(name, y, x):
            rows, columns = slice(y, y + writer.shard), slice(x, x + writer.shard)
            place = (rows,) if source.points else (rows, columns)
            writer.write_target(name, y, x, np.asarray(stored[place]))
