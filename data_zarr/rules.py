"""The rules about metadata, one `Row` each: what opening has checked, and what it has not.

    OPENING      rules that `open_cube` enforces: a cube that is open keeps them
    metadata     names, scales, codecs, georeference: what another reader would trip on

`data_zarr.schema` adds the rules about files and numbers and makes the report.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from data_zarr.cube import Cube
from data_zarr.errors import CubeError
from data_zarr.format import PIXELS, VALID, BandSetInfo
from data_zarr.grid import same_crs
from data_zarr.sensors import BANDSETS

Level = Literal["ok", "warn", "error"]

OPTICAL_RANGE = (0.2, 20.0)
"""Micrometres from ultraviolet to thermal: nanometres and gigahertz are outside."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One rule at one place."""

    rule: str
    level: Level
    where: str
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        tail = f": expected {self.expected}, found {self.found}" if self.level != "ok" else ""
        return f"{self.level:5s} {self.rule} ({self.where}){tail}"


OPENING = (
    "format and version are known",
    "the manifest is there: the writing was finished",
    "metadata is as it was sealed",
)
OPENING_RASTER = (
    "CRS is given and agrees with its code and the stated position",
    "transform is north-up and y, x agree with it",
)
OPENING_PLACES = (
    "each site has one id and a position on the earth",
    "site, lon and lat of every band set agree with the cube's sites",
)
OPENING_BANDSET = (
    "pixels fill the grid",
    "bands are in the order of the band coordinate",
)
OPENING_DATED = (
    "dates are there, ascending, and no platform repeats an instant",
    "platforms are in the cube's table",
)


def opening(cube: Cube) -> Iterator[Row]:
    """What an open cube keeps."""
    points = cube.points
    for rule in (*OPENING, *(OPENING_PLACES if points else OPENING_RASTER)):
        yield Row(rule, "ok", "cube")
    for info in cube.bandsets.values():
        for rule in (*OPENING_BANDSET, *(() if info.static else OPENING_DATED)):
            yield Row(rule, "ok", info.name)


def metadata(cube: Cube) -> Iterator[Row]:
    """Rules that opening does not need."""
    points = cube.points
    for info in cube.bandsets.values():
        yield from _bands(info)
        yield from _packing(cube, info)
        yield from _checksums(cube, info)
        if not points:
            yield from _georeference(cube, info)
    for key in ("title", "license", "provenance"):
        if not cube.attrs.get(key):
            yield Row(key, "warn", "cube", "a text", "none")


def _attributes(cube: Cube, node: str) -> dict[str, Any]:
    return json.loads(cube.manifest.raw(f"{node}/zarr.json"))


def _bands(info: BandSetInfo) -> Iterator[Row]:
    """Bands against the table of sensors, by name; wavelengths within half a band width."""
    table = {b.name: b for b in BANDSETS[info.name].bands} if info.name in BANDSETS else {}
    bad = False
    for band in info.bands:
        where = f"{info.name}/{band.name}"
        if info.kind == "optical" and band.wavelength is None:
            bad = True
            yield Row("optical band has a wavelength", "error", where, "micrometres", "none")
        low, high = OPTICAL_RANGE
        if band.wavelength is not None and not low <= band.wavelength <= high:
            bad = True
            yield Row(
                "wavelength is in micrometres",
                "error",
                where,
                f"{low:g} .. {high:g}",
                f"{band.wavelength:g}: nanometres, or the frequency of a radar?",
            )
            continue
        if table and band.name not in table:
            bad = True
            yield Row("band is in the sensor table", "warn", where, ", ".join(table), band.name)
        row = table.get(band.name)
        if row is None or row.wavelength is None or band.wavelength is None:
            continue
        if abs(row.wavelength - band.wavelength) > max(row.fwhm or 0.0, 0.02) / 2:
            bad = True
            yield Row(
                "wavelength belongs to the band",
                "error",
                where,
                f"{row.wavelength} um",
                f"{band.wavelength} um",
            )
    if not table:
        yield Row("band set is in the sensor table", "warn", info.name, "a known name", info.name)
    elif not bad:
        yield Row("bands and wavelengths", "ok", info.name)


def _packing(cube: Cube, info: BandSetInfo) -> Iterator[Row]:
    """What xarray and GDAL would decode must be what our reader does, and 0 must be a value."""
    rule = "scale, offset and fill of CF are those of the bands"
    attrs = _attributes(cube, f"{info.name}/{PIXELS}").get("attributes", {})
    pairs = {(b.scale, b.offset) for b in info.bands}
    expected = pairs.pop() if len(pairs) == 1 else (1.0, 0.0)
    found = float(attrs.get("scale_factor", 1.0)), float(attrs.get("add_offset", 0.0))
    fill, whole = attrs.get("_FillValue"), info.dtype.kind != "f"
    bad_fill = whole and info.nodata is not None and fill is not None and fill != info.nodata
    if not np.allclose(found, expected, rtol=1e-12, atol=0) or bad_fill:
        nodata = f", fill {info.nodata:g}" if bad_fill and info.nodata is not None else ""
        yield Row(
            rule,
            "error",
            info.name,
            f"scale {expected[0]:g}, offset {expected[1]:g}{nodata}",
            f"scale {found[0]:g}, offset {found[1]:g}" + (f", fill {fill}" if nodata else ""),
        )
    else:
        yield Row(rule, "ok", info.name)
    if any(b.scale == 0 or not np.isfinite([b.scale, b.offset]).all() for b in info.bands):
        yield Row("scales are numbers other than 0", "error", info.name, "a number", "0 or NaN")
    if whole and info.nodata == 0:
        yield Row("nodata is not a plausible value", "error", info.name, "not 0", "0")


def _checksums(cube: Cube, info: BandSetInfo) -> Iterator[Row]:
    rule, bad = "chunks carry a checksum", False
    for array in (PIXELS, VALID):
        codecs = _attributes(cube, f"{info.name}/{array}")["codecs"]
        inner = codecs[0].get("configuration", {}).get("codecs", codecs)
        if not any(c["name"] == "crc32c" for c in inner):
            bad = True
            names = ", ".join(c["name"] for c in inner)
            yield Row(rule, "error", f"{info.name}/{array}", "crc32c", names)
    if not bad:
        yield Row(rule, "ok", info.name)


def _georeference(cube: Cube, info: BandSetInfo) -> Iterator[Row]:
    """CF's GeoTransform and CRS, which GDAL reads, against those of GeoZarr, which we read."""
    rule = "CF and GeoZarr give the same place"
    grid: Any = cube.grid_of(info.name)
    a, b, c, d, e, f = grid.transform
    expected = (c, a, b, f, d, e)
    try:
        attrs = _attributes(cube, f"{info.name}/spatial_ref")["attributes"]
        found = tuple(float(v) for v in str(attrs["GeoTransform"]).split())
        same = len(found) == 6 and np.allclose(found, expected, rtol=0, atol=abs(a) / 100)
        wkt = same_crs(str(attrs.get("crs_wkt")), grid.crs_wkt)
    except (CubeError, KeyError, ValueError) as error:
        yield Row(rule, "error", info.name, "spatial_ref with a GeoTransform", f"{error}")
        return
    if not same:
        yield Row(rule, "error", info.name, _numbers(expected), _numbers(found))
    elif not wkt:
        yield Row(rule, "error", info.name, "one CRS", "another crs_wkt in spatial_ref")
    else:
        yield Row(rule, "ok", info.name)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.10g}" for v in values)
