"""What the sources share: globs, bands by any of their names, layers and masks of rasters."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.ingest.native import grid_of
from data_zarr.ingest.scene import Layer, Mask, Units, Wanted
from data_zarr.sensors import Band, BandSet, Number, canonical_band

_LANDSATS = (("T", 4), ("T", 5), ("E", 7), ("C", 8), ("C", 9), ("O", 8), ("O", 9))
PRODUCTS = {
    **{f"S1{x}": f"sentinel-1{x.lower()}" for x in "ABC"},
    **{f"S2{x}": f"sentinel-2{x.lower()}" for x in "ABC"},
    **{f"L{s}0{n}": f"landsat-{n}" for s, n in _LANDSATS},
}
"""Beginnings of product names."""


def platform_of(name: str, given: str, where: object) -> str:
    """The platform that a recipe gives; with "product", the one that begins a product's name.

    Raises:
      CubeError: a name that begins otherwise.
    """
    if given != "product":
        return given
    found = PRODUCTS.get(re.split(r"[_.]", name)[0])
    if found is None:
        raise CubeError(
            "platform is not in the name",
            where=where,
            expected="a product that begins with one of " + ", ".join(PRODUCTS),
            found=name,
            remedy="name the platform",
        )
    return found


def files(pattern: str, where: object) -> list[str]:
    """The files and folders that a glob finds, sorted; a path without wildcard must be there."""
    found = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
    if not found:
        raise CubeError(
            "no sources match",
            where=where,
            expected="at least one file",
            found=f"none at {pattern}",
            remedy="check the pattern; relative paths start at the folder of the recipe",
        )
    return found


def channel(band: Band, names: Sequence[str]) -> int | None:
    """Where a band stands among names of any spelling, or None; native names go first."""
    spelled = [(n.lower(), canonical_band(n)) for n in names]
    for known in (band.name, band.common_name):
        if known is None:
            continue
        hits = [i for i, s in enumerate(spelled) if known.lower() in (s[0], s[1].lower())]
        if len(hits) == 1:
            return hits[0]
    return None


def missing_band(band: Band, names: Sequence[str], where: object) -> CubeError:
    """The error for a band that a source has not."""
    label = band.name if band.common_name is None else f"{band.name} ({band.common_name})"
    return CubeError(
        "band is missing in the source",
        where=where,
        expected=label,
        found=", ".join(n or "?" for n in names) or "no band at all",
        remedy=near_miss(band.name, [n for n in names if n]) or "state `bands` without it",
    )


def layer(
    file: Any,
    index: int,
    wanted: Wanted,
    *,
    path: str,
    scale: Number | None = None,
    offset: Number | None = None,
    nodata: Number | None = None,
    units: Units = "",
) -> Layer:
    """A channel of an open raster, with the scale that the file and the recipe agree on.

    Args:
      scale, offset, nodata: as the recipe states them; None where it leaves them to the file.

    Raises:
      CubeError: integers as reflectance without any scale; a scale in the file and another in the
        recipe.
    """
    dtype = file.dtypes[index - 1]
    own = float(file.scales[index - 1]), float(file.offsets[index - 1])
    stated = own != (1.0, 0.0)
    asked = scale is not None or offset is not None
    given = (1.0 if scale is None else scale, 0.0 if offset is None else offset)
    if stated and asked and own != tuple(map(float, given)):
        raise CubeError(
            "two scales",
            where=f"{wanted.where}: {path}",
            expected=f"scale, offset = {own}, as in the file",
            found=f"{given} in the recipe",
            remedy="leave them out of the recipe, or correct the file",
        )
    if not stated and not asked and wanted.reflectance and dtype[0] in "iu":
        raise CubeError(
            "scale is not stated",
            where=f"{wanted.where}: {path}",
            expected="`scale` and `offset` in the recipe, or in the file",
            found=f"{dtype} without either",
            remedy="they are in the product's metadata; neither is guessed",
        )
    use = own if stated else given
    own_nodata = file.nodatavals[index - 1]
    return Layer(
        path=path,
        grid=grid_of(file, path),
        dtype=dtype,
        index=index,
        scale=use[0],
        offset=use[1],
        nodata=own_nodata if nodata is None else nodata,
        units=units,
    )


def quality(layer: Layer, row: BandSet, reject: Sequence[str] | None, where: object) -> Mask:
    """The mask of a quality layer, by the names of its sensor's table.

    Raises:
      CubeError: a sensor without quality band, or a flag that its table has not.
    """
    if row.qa is None:
        raise CubeError("no quality band in the sensor table", where=where, found=row.name)
    table: dict[str, int] = row.qa.get("bits") or row.qa["classes"]
    names = row.qa["reject"] if reject is None else reject
    for name in names:
        if name not in table:
            raise CubeError(
                "no such quality flag",
                where=where,
                expected="one of " + ", ".join(table),
                found=repr(name),
                remedy=near_miss(name, table),
            )
    numbers = tuple(table[n] for n in names)
    return Mask(layer, bits=numbers) if "bits" in row.qa else Mask(layer, values=numbers)
