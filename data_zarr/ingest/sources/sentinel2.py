"""Sentinel-2 SAFE products, level 1C and 2A, of every processing baseline, as folders or archives.

Quantification and offsets come from MTD_MSIL1C.xml or MTD_MSIL2A.xml and from nowhere else: not
from the date (Collection 1 was reprocessed, so old scenes carry the offset too), not from a
default. A product of baseline 04.00 or later without offsets in its metadata is refused. Scenes
with and without offset are brought to one by `data_zarr.ingest.encode`, exactly.

    reflectance = (DN + offset of the band) / quantification         DN 0 is nodata

Validity: SCL classes (2A), MSK_CLASSI opaque and cirrus (1C, baseline 04.00 on).
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.ingest.bundle import Bundle
from data_zarr.ingest.native import grid_of, open_raster
from data_zarr.ingest.scene import Dark, Found, Layer, Mask, Scene, Wanted
from data_zarr.ingest.sources.files import channel, files, missing_band, quality
from data_zarr.ingest.times import utc
from data_zarr.sensors import BANDSETS

ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""`band_id` of the metadata."""
FIRST_OFFSET = 4.0
"""Processing baseline from which every product states its offsets."""


@dataclasses.dataclass(frozen=True)
class Product:
    """What the metadata of one product say.

    Attributes:
      scale: reflectance a step.
      offsets: of the reflectance, by band; 0 where the product states none.
      cosine: of the solar zenith angle, NaN where unknown.
    """

    level: Literal["1C", "2A"]
    baseline: float
    date: np.datetime64
    platform: str
    scale: float
    offsets: dict[str, float]
    zone: str
    cosine: float = math.nan


@dataclasses.dataclass(frozen=True)
class Sentinel2:
    """SAFE products.

    Attributes:
      path: glob of .SAFE folders, or of .zip or .tar archives of them.
      reject: SCL classes that make a pixel invalid; the table's usual ones by default.
      radiometry: level 1C only: "toa" as it is delivered, or dark-object subtraction.
      dark_share: of the pixels that may be darker than the dark object.
    """

    path: str
    reject: tuple[str, ...] | None = None
    radiometry: Literal["", "toa", "dos1", "cost"] = ""
    dark_share: float = 0.01

    def inspect(self, wanted: Wanted) -> Found:
        scenes, baselines = [], set()
        for path in files(self.path, wanted.where):
            bundle = Bundle(path)
            product = read_product(bundle)
            baselines.add(product.baseline)
            scenes.append(self._scene(bundle, product, wanted))
        notes = []
        if len(baselines) > 1:
            notes.append(
                "processing baselines " + ", ".join(f"{b:05.2f}" for b in sorted(baselines))
            )
        for c, band in enumerate(wanted.bands):
            coarse = [s for s in scenes if band.gsd and s.layers[c].grid.gsd > 1.5 * band.gsd]
            if coarse:
                notes.append(
                    f"{band.name} has no file of {band.gsd:g} m in {len(coarse)} of {len(scenes)} "
                    f"products: that of {coarse[0].layers[c].grid.gsd:g} m is taken"
                )
        return Found(tuple(scenes), tuple(notes))

    def _scene(self, bundle: Bundle, product: Product, wanted: Wanted) -> Scene:
        where = f"{wanted.where}: {bundle.path}"
        if product.level == "2A" and self.radiometry:
            raise CubeError(
                "surface reflectance is corrected already",
                where=where,
                expected="a level-1C product for radiometry",
                found=f"level 2A with radiometry {self.radiometry!r}",
            )
        images = _images(bundle)
        layers = []
        for band in wanted.bands:
            names = list(images)
            at = channel(band, names)
            if at is None:
                raise missing_band(band, names, where)
            if names[at] not in product.offsets:
                raise CubeError(
                    "offset missing in the metadata",
                    where=where,
                    expected=f"one for {names[at]}",
                    found=", ".join(product.offsets),
                )
            layers.append(self._layer(bundle, images[names[at]], names[at], product, where))
        masks = tuple(self._masks(bundle, product, wanted))
        return Scene(bundle.name, product.date, product.platform, tuple(layers), masks)

    def _layer(self, bundle: Bundle, member: str, band: str, product: Product, where: str) -> Layer:
        layer = _layer(bundle, member, product.zone, where)
        layer = dataclasses.replace(
            layer, scale=product.scale, offset=product.offsets[band], nodata=0
        )
        if self.radiometry not in ("dos1", "cost"):
            return layer
        if math.isnan(product.cosine):
            raise CubeError("no sun angle", where=where, expected="Mean_Sun_Angle in MTD_TL.xml")
        # Numbers are TOA reflectance: with E = pi / cos and d = 1 they are radiance too.
        dark = Dark(
            self.radiometry, math.pi / product.cosine, product.cosine, 1.0, share=self.dark_share
        )
        return dataclasses.replace(layer, dark=dark)

    def _masks(self, bundle: Bundle, product: Product, wanted: Wanted) -> list[Mask]:
        if product.level == "2A":
            found = _finest(
                bundle.find(lambda n: re.search(r"SCL(_\d+m)?\.(jp2|tif)$", n) is not None)
            )
            if found is None:
                raise CubeError(
                    "scene classification is missing",
                    where=bundle.path,
                    expected="*_SCL_20m.jp2",
                    found="none in the product",
                )
            layer = _layer(bundle, found, product.zone, wanted.where)
            return [quality(layer, BANDSETS["s2_l2a"], self.reject, wanted.where)]
        found = _finest(bundle.find(lambda n: n.startswith("MSK_CLASSI_B00.")))
        if found is None or found.endswith(".gml"):
            return []  # before baseline 04.00 the cloud mask is a polygon
        masks = []
        for index in (1, 2):  # opaque cloud, cirrus; 3 is snow
            layer = _layer(bundle, found, product.zone, wanted.where, index)
            masks.append(Mask(layer, values=(1,)))
        return masks


def read_product(bundle: Bundle) -> Product:
    """The metadata of a SAFE product.

    Raises:
      CubeError: not a Sentinel-2 SAFE, a field that is missing, or a baseline that states offsets
        without any.
    """
    found = bundle.find(lambda n: n in ("MTD_MSIL1C.xml", "MTD_MSIL2A.xml"))
    where = str(bundle.path)
    if len(found) != 1:
        raise CubeError(
            "not a Sentinel-2 product",
            where=where,
            expected="one MTD_MSIL1C.xml or MTD_MSIL2A.xml",
            found=f"{len(found)} of them",
        )
    level: Literal["1C", "2A"] = "1C" if "L1C" in found[0] else "2A"
    root = bundle.xml(found[0])
    prefix, quantification = ("RADIO", "QUANTIFICATION_VALUE") if level == "1C" else (
        "BOA", "BOA_QUANTIFICATION_VALUE")  # fmt: skip
    baseline = _number(_text(root, "PROCESSING_BASELINE", where), "PROCESSING_BASELINE", where)
    steps = _number(_text(root, quantification, where), quantification, where)
    stated = {
        ORDER[int(e.attrib["band_id"])]: _number(e.text, f"{prefix}_ADD_OFFSET", where)
        for e in _all(root, f"{prefix}_ADD_OFFSET")
        if e.attrib.get("band_id", "").isdigit() and int(e.attrib["band_id"]) < len(ORDER)
    }
    if not stated and baseline >= FIRST_OFFSET:
        raise CubeError(
            "offset missing in the metadata",
            where=f"{where}: {found[0]}",
            expected=f"{prefix}_ADD_OFFSET for every band from baseline 04.00 on",
            found=f"none at baseline {baseline:05.2f}",
            remedy="fetch the product again: the offset is not guessed",
        )
    # Level 2A states 13 offsets, though it has no B10.
    offsets = {b: o / steps for b, o in stated.items()} or dict.fromkeys(ORDER, 0.0)
    platform = _text(root, "SPACECRAFT_NAME", where).lower()
    tag = "DATATAKE_SENSING_START" if _all(root, "DATATAKE_SENSING_START") else "PRODUCT_START_TIME"
    date = utc([_text(root, tag, where)], where)[0]
    tile = re.search(r"_T(\d{2})([C-X])[A-Z]{2}_", f"{bundle.name}_")
    zone = "" if tile is None else ("326" if tile[2] >= "N" else "327") + tile[1]
    return Product(level, baseline, date, platform, 1 / steps, offsets, zone, _cosine(bundle))


def _cosine(bundle: Bundle) -> float:
    for member in bundle.find(lambda n: n == "MTD_TL.xml"):
        for element in _all(bundle.xml(member), "Mean_Sun_Angle"):
            zenith = [e for e in element if e.tag.endswith("ZENITH_ANGLE")]
            if zenith:
                return math.cos(math.radians(float(zenith[0].text or "nan")))
    return math.nan


def _all(root: Any, tag: str) -> list[Any]:
    """Elements by name, whatever their namespace."""
    return [e for e in root.iter() if e.tag.rpartition("}")[2] == tag]


def _text(root: Any, tag: str, where: str) -> str:
    found = _all(root, tag)
    if not found or not (found[0].text or "").strip():
        raise CubeError("metadata without a field", where=where, expected=tag, found="nothing")
    return str(found[0].text).strip()


def _number(text: str | None, tag: str, where: str) -> float:
    try:
        return float(text or "")
    except ValueError as error:
        raise CubeError(
            "metadata without a number", where=where, expected=tag, found=repr(text)
        ) from error


def _images(bundle: Bundle) -> dict[str, str]:
    """Band -> member, at its finest resolution."""
    out: dict[str, str] = {}
    pattern = re.compile(r"_(B\d{2}|B8A)(_\d+m)?\.(jp2|tif|tiff)$")
    found: dict[str, list[str]] = {}
    for member in bundle.members:
        if "IMG_DATA" in member and (hit := pattern.search(PurePosixPath(member).name)):
            found.setdefault(hit[1], []).append(member)
    for band, members in found.items():
        if (finest := _finest(members)) is not None:
            out[band] = finest
    return out


def _finest(members: list[str]) -> str | None:
    def step(member: str) -> int:
        hit = re.search(r"_(\d+)m\.", member)
        return int(hit[1]) if hit else 0

    return min(members, key=lambda m: (step(m), m), default=None)


def _layer(bundle: Bundle, member: str, zone: str, where: str, index: int = 1) -> Layer:
    path = bundle.raster(member)
    with open_raster(path, where) as file:
        grid = grid_of(file, path)
        if zone and grid.epsg is not None and str(grid.epsg) != zone:
            raise CubeError(
                "wrong UTM zone",
                where=path,
                expected=f"EPSG:{zone}, as the tile in the product's name says",
                found=f"EPSG:{grid.epsg}",
            )
        return Layer(path=path, grid=grid, dtype=file.dtypes[index - 1], index=index)
