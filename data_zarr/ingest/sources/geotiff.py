"""Stacks of GeoTIFF or COG: one file a date with all bands, or one file a date and band.

    GeoTiffs("ndvi_*.tif", date="%Y%m%d")
    GeoTiffs("HLS.S30.*.{band}.tif", date="%Y%jT%H%M%S", platform="sentinel-2a", quality="Fmask")

Channels are known by the file's band descriptions, or by `channels`; never by their number alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.ingest.native import open_raster
from data_zarr.ingest.scene import Found, Layer, Mask, Scene, Units, Wanted
from data_zarr.ingest.sources.files import (
    channel,
    files,
    layer,
    missing_band,
    platform_of,
    quality,
)
from data_zarr.ingest.times import date_in_name, utc
from data_zarr.sensors import Number


@dataclasses.dataclass(frozen=True)
class GeoTiffs:
    """GeoTIFF or COG files.

    Attributes:
      path: glob; with `{band}` in it, one file holds one band.
      date: where the date stands: a form of `strptime` found in the name (of the file, or of a
        folder below the first wildcard), or "tag:NAME".
      table: CSV of `file,date` or `file,date,platform`, in place of `date`.
      channels: names of the channels, in the order of the file, where it does not name them.
      platform: STAC name for every file, or "product": what the names begin with (S2A_, LC08_).
      scale, offset, nodata: where the file does not say them.
      quality: name of the quality band, a channel or a `{band}`; read as the sensor's table says.
      reject: its flags that make a pixel invalid; the sensor's usual ones by default.
    """

    path: str
    date: str = ""
    table: str = ""
    channels: tuple[str, ...] = ()
    platform: str = "unknown"
    scale: Number | None = None
    offset: Number | None = None
    nodata: Number | None = None
    quality: str = ""
    reject: tuple[str, ...] | None = None

    def inspect(self, wanted: Wanted) -> Found:
        scenes = read_stack(self, wanted)
        return Found(tuple(scenes))


def read_stack(source: GeoTiffs, wanted: Wanted, units: Units = "") -> list[Scene]:
    """The scenes of a stack."""
    groups = _groups(source, wanted)
    dates, platforms = _dates(source, groups, wanted)
    scenes = []
    for (name, members), date, platform in zip(groups.items(), dates, platforms, strict=True):
        layers, masks = _layers(source, wanted, members, units)
        place = platform_of(name, platform, wanted.where)
        scenes.append(Scene(name, date, place, tuple(layers), tuple(masks)))
    return scenes


def _groups(source: GeoTiffs, wanted: Wanted) -> dict[str, dict[str, str]]:
    """Scene name -> {band as it is spelled: file}; {"": file} where a file holds all bands.

    A scene is named by its path below the first wildcard of the pattern, without the band: dates
    may stand in folders, and two folders may hold files of one name.
    """
    parts = Path(source.path).expanduser().parts
    wild = next((i for i, p in enumerate(parts) if any(c in p for c in "*?[{")), len(parts) - 1)
    root, tail = Path(*parts[:wild]), "/".join(parts[wild:])
    found = {
        Path(f).relative_to(root).as_posix(): f
        for f in files(source.path.replace("{band}", "*"), wanted.where)
    }
    if "{band}" not in source.path:
        return {name: {"": file} for name, file in found.items()}
    # Escaped first, so that the dots of a name stay dots: what is left are the signs of a glob.
    pattern = re.escape(tail)
    for sign, meaning in ((r"\*\*/", "(?:.*/)?"), (r"\*", "[^/]*"), (r"\?", "[^/]")):
        pattern = pattern.replace(sign, meaning)
    matcher = re.compile(pattern.replace(re.escape("{band}"), "(?P<band>[A-Za-z0-9]+)") + "$")
    groups: dict[str, dict[str, str]] = {}
    for name, file in found.items():
        if hit := matcher.match(name):
            start, stop = hit.span("band")
            groups.setdefault(name[:start].rstrip("._-") + name[stop:], {})[hit["band"]] = file
    return groups


def _dates(
    source: GeoTiffs, groups: Mapping[str, Mapping[str, str]], wanted: Wanted
) -> tuple[list[np.datetime64], list[str]]:
    where = f"{wanted.where}: {source.path}"
    names = list(groups)
    platforms = [source.platform] * len(names)
    if source.table:
        rows = _read_table(source.table, where)
        for name in names:
            if name not in rows:
                raise CubeError("file without a date", where=source.table, found=name)
        platforms = [rows[n][1] or source.platform for n in names]
        return list(utc([rows[n][0] for n in names], where)), platforms
    if source.date.startswith("tag:"):
        tags = [_tag(source.date[4:], next(iter(g.values())), where) for g in groups.values()]
        return list(utc(tags, where)), platforms
    if source.date:
        texts = [date_in_name(n, source.date, where) for n in names]
        return list(utc(texts, where)), platforms
    if wanted.static:
        return [np.datetime64("NaT", "s")] * len(names), platforms
    raise CubeError(
        "no dates",
        where=where,
        expected="`date` or `table` in the source, or static = true",
        found="neither",
    )


def _tag(key: str, path: str, where: str) -> str:
    with open_raster(path, where) as file:
        tags = file.tags()
    if key not in tags:
        raise CubeError("no such tag", where=path, expected=key, found=", ".join(tags) or "no tag")
    # TIFF writes 2019:09:18 10:00:00.
    return re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", tags[key])


def _read_table(path: str, where: object) -> dict[str, tuple[str, str]]:
    import csv

    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise CubeError("no such table", where=where, found=f"{path}: {error.strerror}") from error
    if not rows or not {"file", "date"} <= rows[0].keys():
        raise CubeError(
            "not a table of dates",
            where=path,
            expected="columns file, date[, platform]",
            found=", ".join(rows[0]) if rows else "no row",
        )
    return {r["file"]: (r["date"], r.get("platform") or "") for r in rows}


def _layers(
    source: GeoTiffs, wanted: Wanted, members: dict[str, str], units: Units
) -> tuple[list[Layer], list[Mask]]:
    """The layers of one scene, in the order of the bands, and its quality mask."""
    stated = {"scale": source.scale, "offset": source.offset, "nodata": source.nodata}
    names, places = [], []
    if "" in members:
        path = members[""]
        with open_raster(path, wanted.where) as file:
            names = _channels(source, wanted, file, path)
        places = [(path, i + 1) for i in range(len(names))]
    else:
        names = list(members)
        places = [(path, 1) for path in members.values()]
    layers, masks = [], []
    for band in wanted.bands:
        at = channel(band, names)
        if at is None:
            raise missing_band(band, names, f"{wanted.where}: {places[0][0]}")
        path, index = places[at]
        with open_raster(path, wanted.where) as file:
            layers.append(layer(file, index, wanted, path=path, units=units, **stated))
    if source.quality:
        if source.quality not in names:
            raise CubeError(
                "quality band is missing in the source",
                where=f"{wanted.where}: {places[0][0]}",
                expected=source.quality,
                found=", ".join(names),
            )
        path, index = places[names.index(source.quality)]
        with open_raster(path, wanted.where) as file:
            flags = layer(file, index, wanted, path=path, scale=1.0, offset=0.0)
        masks.append(quality(flags, wanted.row, source.reject, wanted.where))
    return layers, masks


def _channels(source: GeoTiffs, wanted: Wanted, file: Any, path: str) -> list[str]:
    """The names of the channels of a file, from its descriptions and from the recipe."""
    written = [d or "" for d in file.descriptions]
    count = len(written)
    if not source.channels:
        if not any(written) and count == len(wanted.bands) == 1:
            return [wanted.bands[0].name]
        if not all(written):
            raise CubeError(
                "which channel is which band is not known",
                where=f"{wanted.where}: {path}",
                expected=f"{count} names in `channels`, or band descriptions in the file",
                found="neither",
                remedy="take them from the product's document",
            )
        return written
    if len(source.channels) != count:
        raise CubeError(
            "channels and file differ",
            where=f"{wanted.where}: {path}",
            expected=f"{count} names",
            found=f"{len(source.channels)}: {', '.join(source.channels)}",
        )
    for i, band in enumerate(wanted.bands):
        at, there = channel(band, source.channels), channel(band, written)
        if there is not None and at is not None and there != at:
            raise CubeError(
                "bands permuted",
                where=f"{wanted.where}: {path}",
                expected=f"{wanted.bands[i].name} in channel {there + 1}, as the file says",
                found=f"channel {at + 1} in the recipe",
                remedy="leave `channels` out, or correct the file",
            )
    return list(source.channels)
