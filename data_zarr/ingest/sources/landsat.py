"""Landsat Collection-2 bundles (4, 5, 7, 8, 9), as folders or .tar archives, with their MTL.

Level 2: surface reflectance 0.0000275 DN - 0.2 and surface temperature, whose scale is read from
the MTL and checked. Level 1 is not reflectance: it is taken only with `radiometry`, and becomes
that of the top of the atmosphere (TOA), or is corrected by its dark object (DOS1, COST) or by the
user's own curve. Bands are found by common name, whichever the instrument: B4 is red on Landsat 8
and near infrared on Landsat 5. Validity: QA_PIXEL by flag names, and QA_RADSAT (saturation).
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from data_zarr.atmosphere import (
    Method,
    curve_of,
    read_curves,
    solar_irradiance,
    to_reflectance,
)
from data_zarr.errors import CubeError
from data_zarr.ingest.bundle import Bundle
from data_zarr.ingest.mtl import Mtl, field, number, read_mtl
from data_zarr.ingest.native import grid_of, open_raster
from data_zarr.ingest.scene import Dark, Found, Layer, Mask, Scene, Wanted
from data_zarr.ingest.sources.files import files, missing_band, quality
from data_zarr.ingest.times import utc
from data_zarr.sensors import BANDSETS, Band

REFLECTANCE = (2.75e-5, -0.2)
ROWS = {"landsat-4": "landsat5_sr", "landsat-5": "landsat5_sr", "landsat-7": "landsat7_sr",
        "landsat-8": "landsat8_sr", "landsat-9": "landsat9_sr"}  # fmt: skip
"""Whose band numbers a platform has."""


@dataclasses.dataclass(frozen=True)
class Landsat:
    """Collection-2 products.

    Attributes:
      path: glob of folders or .tar archives, one product each.
      radiometry: level 1 only: "toa", "dos1", "cost" or "curve".
      curves: CSV or JSON of the coefficients a, b, c by band, for "curve".
      reject: flags of QA_PIXEL that make a pixel invalid; the table's usual ones by default.
      saturated: keep pixels that QA_RADSAT calls saturated in any band.
      dark_share: of the pixels that may be darker than the dark object.
    """

    path: str
    radiometry: Literal["", "toa", "dos1", "cost", "curve"] = ""
    curves: str = ""
    reject: tuple[str, ...] | None = None
    saturated: bool = False
    dark_share: float = 0.01

    def inspect(self, wanted: Wanted) -> Found:
        scenes = []
        for path in files(self.path, wanted.where):
            bundle = Bundle(path)
            scenes.append(self._scene(bundle, read_mtl(bundle), wanted))
        return Found(tuple(scenes))

    def _scene(self, bundle: Bundle, mtl: Mtl, wanted: Wanted) -> Scene:
        where = f"{wanted.where}: {bundle.path}"
        content = mtl["PRODUCT_CONTENTS"]
        level = content.get("PROCESSING_LEVEL", "")
        if content.get("COLLECTION_NUMBER", "").lstrip("0") != "2":
            raise CubeError("another collection", where=where, expected="Collection 2",
                            found=content.get("COLLECTION_NUMBER", "none"))  # fmt: skip
        surface = level.startswith("L2")
        if surface and self.radiometry:
            raise CubeError(
                "surface reflectance is corrected already",
                where=where,
                expected="a level-1 product for radiometry",
                found=f"{level} with radiometry {self.radiometry!r}",
            )
        if not surface and not self.radiometry:
            raise CubeError(
                "level 1 is not surface reflectance",
                where=where,
                expected="level 2 (L2SP or L2SR)",
                found=level or "no PROCESSING_LEVEL",
                remedy='order level 2, or state radiometry = "toa", "dos1", "cost" or "curve"',
            )
        platform = field(mtl, "IMAGE_ATTRIBUTES", "SPACECRAFT_ID", where).lower().replace("_", "-")
        if platform not in ROWS:
            raise CubeError("no such Landsat", where=where, expected=", ".join(ROWS),
                            found=platform)  # fmt: skip
        date = (
            field(mtl, "IMAGE_ATTRIBUTES", "DATE_ACQUIRED", where)
            + "T"
            + field(mtl, "IMAGE_ATTRIBUTES", "SCENE_CENTER_TIME", where)
        )
        layers = tuple(self._layer(bundle, mtl, b, platform, surface, where) for b in wanted.bands)
        masks = self._masks(bundle, mtl, wanted, where)
        return Scene(bundle.name, utc([date], where)[0], platform, layers, masks)

    def _layer(
        self, bundle: Bundle, mtl: Mtl, band: Band, platform: str, surface: bool, where: str
    ) -> Layer:
        if band.name.startswith("ST"):
            return _temperature(bundle, mtl, band, where)
        native = _native(band, platform)
        if native is None:
            known = BANDSETS[ROWS[platform]].bands
            raise missing_band(band, [str(b.common_name) for b in known], f"{where} ({platform})")
        digits = native.removeprefix("SR_B")
        if not surface:
            return self._level1(bundle, mtl, digits, (band.name, str(band.common_name)), where)
        layer = _layer(bundle, mtl, rf"_SR_B{digits}\.tif$", band, where)
        group = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"
        scale = (
            number(mtl, group, f"REFLECTANCE_MULT_BAND_{digits}", where),
            number(mtl, group, f"REFLECTANCE_ADD_BAND_{digits}", where),
        )
        if not all(
            math.isclose(a, b, rel_tol=1e-6) for a, b in zip(scale, REFLECTANCE, strict=True)
        ):
            raise CubeError(
                "unexpected scale",
                where=f"{where}, {native}",
                expected=f"{REFLECTANCE[0]:g} DN {REFLECTANCE[1]:g}, as of Collection 2",
                found=f"{scale[0]:g} DN {scale[1]:+g} in the MTL",
            )
        return dataclasses.replace(layer, scale=scale[0], offset=scale[1])

    def _level1(
        self, bundle: Bundle, mtl: Mtl, digits: str, names: tuple[str, str], where: str
    ) -> Layer:
        """A level-1 band: TOA reflectance by the product's own numbers, or radiance to correct."""
        layer = _layer(bundle, mtl, rf"_B{digits}\.tif$", Band(names[0]), where)
        group = "LEVEL1_RADIOMETRIC_RESCALING"
        cosine = math.sin(math.radians(number(mtl, "IMAGE_ATTRIBUTES", "SUN_ELEVATION", where)))
        if self.radiometry == "toa":
            gain = number(mtl, group, f"REFLECTANCE_MULT_BAND_{digits}", where)
            bias = number(mtl, group, f"REFLECTANCE_ADD_BAND_{digits}", where)
            # E = pi and d = 1: the product's reflectance wants nothing but the sun's angle.
            factor = to_reflectance(math.pi, cosine, 1.0)
            return dataclasses.replace(layer, scale=gain * factor, offset=bias * factor)
        gain = number(mtl, group, f"RADIANCE_MULT_BAND_{digits}", where)
        bias = number(mtl, group, f"RADIANCE_ADD_BAND_{digits}", where)
        layer = dataclasses.replace(layer, scale=gain, offset=bias)
        if self.radiometry == "curve":
            if not self.curves:
                raise CubeError("no coefficients", where=where, expected="`curves`", found="none")
            return dataclasses.replace(
                layer, curve=curve_of(read_curves(self.curves), names, where)
            )
        distance = number(mtl, "IMAGE_ATTRIBUTES", "EARTH_SUN_DISTANCE", where)
        sun = solar_irradiance(
            number(mtl, "LEVEL1_MIN_MAX_RADIANCE", f"RADIANCE_MAXIMUM_BAND_{digits}", where),
            number(mtl, "LEVEL1_MIN_MAX_REFLECTANCE", f"REFLECTANCE_MAXIMUM_BAND_{digits}", where),
            distance,
        )
        method: Method = "dos1" if self.radiometry == "dos1" else "cost"
        dark = Dark(method, sun, cosine, distance, share=self.dark_share)
        return dataclasses.replace(layer, dark=dark)

    def _masks(self, bundle: Bundle, mtl: Mtl, wanted: Wanted, where: str) -> tuple[Mask, ...]:
        flags = _layer(bundle, mtl, r"_QA_PIXEL\.tif$", Band("QA_PIXEL"), where)
        masks = [quality(flags, BANDSETS["landsat_sr6"], self.reject, where)]
        if not self.saturated:
            radsat = _layer(bundle, mtl, r"_QA_RADSAT\.tif$", Band("QA_RADSAT"), where)
            masks.append(Mask(radsat, allowed=(0,)))
        return tuple(masks)


def _native(band: Band, platform: str) -> str | None:
    """The platform's own name of a band: by common name, or as it is named already."""
    for own in BANDSETS[ROWS[platform]].bands:
        if band.common_name is not None and own.common_name == band.common_name:
            return own.name
    return None


def _temperature(bundle: Bundle, mtl: Mtl, band: Band, where: str) -> Layer:
    """Surface temperature in kelvin: ST_B6 of Landsat 4 to 7, ST_B10 of 8 and 9."""
    layer = _layer(bundle, mtl, r"_ST_B(6|10)\.tif$", band, where)
    group = "LEVEL2_SURFACE_TEMPERATURE_PARAMETERS"
    hit = re.search(r"_ST_B(6|10)\.", layer.path, re.I)
    key = f"BAND_ST_B{hit[1] if hit else 10}"
    return dataclasses.replace(
        layer,
        scale=number(mtl, group, f"TEMPERATURE_MULT_{key}", where),
        offset=number(mtl, group, f"TEMPERATURE_ADD_{key}", where),
    )


def _layer(bundle: Bundle, mtl: Mtl, pattern: str, band: Band, where: str) -> Layer:
    """The raster of a band; 0 is fill. Its zone must be that of the MTL."""
    found = bundle.find(lambda n: re.search(pattern, n, re.I) is not None)
    if len(found) != 1:
        names = [m.rpartition("_")[2] for m in bundle.find(lambda n: n.lower().endswith(".tif"))]
        raise missing_band(band, names, where)
    path = bundle.raster(found[0])
    with open_raster(path, where) as file:
        grid = grid_of(file, path)
        zone = mtl.get("PROJECTION_ATTRIBUTES", {}).get("UTM_ZONE")
        # Collection 2 keeps northern zones south of the equator too.
        if zone and grid.epsg not in (32600 + int(zone), 32700 + int(zone)):
            raise CubeError(
                "wrong UTM zone",
                where=path,
                expected=f"zone {zone}, as in the MTL",
                found=f"EPSG:{grid.epsg}",
            )
        return Layer(path=path, grid=grid, dtype=file.dtypes[0], nodata=0)
