"""Tiny Sentinel-2 SAFE trees and Landsat bundles, laid out as their providers do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from archives import raster

S2 = {"B02": 10, "B04": 10, "B08": 10, "B11": 20}
IDS = {"B02": 1, "B04": 3, "B08": 7, "B11": 11}
SIZE = 240
"""Metres a side."""

MTD = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/MSI">
 <n1:General_Info><Product_Info>
  <PRODUCT_START_TIME>{date}</PRODUCT_START_TIME>
  <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
  <Datatake><SPACECRAFT_NAME>{spacecraft}</SPACECRAFT_NAME>
   <DATATAKE_SENSING_START>{date}</DATATAKE_SENSING_START></Datatake>
 </Product_Info><Product_Image_Characteristics>
  <{quantity} unit="none">10000</{quantity}>
  {offsets}
 </Product_Image_Characteristics></n1:General_Info>
</n1:Level-{level}_User_Product>
"""
TILE = """<n1:Level-1C_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/tile">
 <Mean_Sun_Angle><ZENITH_ANGLE unit="deg">{zenith}</ZENITH_ANGLE></Mean_Sun_Angle>
</n1:Level-1C_Tile_ID>
"""


def safe(
    folder: Path,
    numbers: dict[str, np.ndarray],
    *,
    level: str = "2A",
    baseline: str = "04.00",
    offset: int | None = -1000,
    date: str = "2022-06-01T10:00:31.024Z",
    spacecraft: str = "Sentinel-2A",
    tile: str = "33TVM",
    scl: np.ndarray | None = None,
    suffix: str = ".jp2",
    **place: Any,
) -> Path:
    """A SAFE tree of some bands (DN by band name) with its metadata."""
    stamp = date[:19].replace("-", "").replace(":", "")
    name = (
        f"S2{spacecraft[-1]}_MSIL{level}_{stamp}_N{baseline.replace('.', '')}_R122_T{tile}_{stamp}"
    )
    root = folder / f"{name}.SAFE"
    images = root / "GRANULE" / f"L{level}_T{tile}_A000001_{stamp}" / "IMG_DATA"
    for band, step in S2.items():
        where = images / f"R{step}m" if level == "2A" else images
        tail = f"_{step}m" if level == "2A" else ""
        raster(where / f"T{tile}_{stamp}_{band}{tail}{suffix}", numbers[band], step=step, **place)
        if level == "2A" and step == 10:  # L2A also ships the fine bands coarse
            coarse = numbers[band][::2, ::2]
            raster(
                images / "R20m" / f"T{tile}_{stamp}_{band}_20m{suffix}", coarse, step=20, **place
            )
    if level == "2A":
        classes = np.full((SIZE // 20,) * 2, 4, np.uint8) if scl is None else scl
        raster(images / "R20m" / f"T{tile}_{stamp}_SCL_20m{suffix}", classes, step=20, **place)
    short, quantity = ("BOA", "BOA_QUANTIFICATION_VALUE")
    if level == "1C":
        short, quantity = "RADIO", "QUANTIFICATION_VALUE"
    offsets = "" if offset is None else "".join(
        f'<{short}_ADD_OFFSET band_id="{i}">{offset}</{short}_ADD_OFFSET>' for i in range(13)
    )  # fmt: skip
    (root / f"MTD_MSIL{level}.xml").write_text(
        MTD.format(level=level, date=date, baseline=baseline, spacecraft=spacecraft,
                   quantity=quantity, offsets=offsets)
    )  # fmt: skip
    (images.parent / "MTD_TL.xml").write_text(TILE.format(zenith="60.0"))
    return root


def numbers(seed: int = 0, low: int = 1200, high: int = 5000) -> dict[str, np.ndarray]:
    """DN of every band of `S2`."""
    rng = np.random.default_rng(seed)
    return {
        b: rng.integers(low, high, (SIZE // step,) * 2).astype(np.uint16) for b, step in S2.items()
    }


LANDSAT = {
    "LANDSAT_8": {"blue": 2, "green": 3, "red": 4, "nir08": 5, "swir16": 6, "swir22": 7},
    "LANDSAT_5": {"blue": 1, "green": 2, "red": 3, "nir08": 4, "swir16": 5, "swir22": 7},
}
EDGE = 16
GAIN, BIAS = 0.012, -60.0
RADIANCE_MAXIMUM, REFLECTANCE_MAXIMUM = 700.0, 1.2
ELEVATION, DISTANCE = 30.0, 1.01


def landsat(
    folder: Path,
    values: dict[str, np.ndarray],
    *,
    spacecraft: str = "LANDSAT_8",
    date: str = "2021-07-01",
    level: str = "L2SP",
    qa: np.ndarray | None = None,
    radsat: np.ndarray | None = None,
    kind: str = "json",
    scale: tuple[str, str] = ("2.75e-05", "-0.2"),
    elevation: float = ELEVATION,
    zone: int = 33,
) -> Path:
    """A bundle of the six common bands (DN by common name) with its MTL."""
    letter = {"LANDSAT_8": "LC08", "LANDSAT_5": "LT05"}[spacecraft]
    name = f"{letter}_{level}_190028_{date.replace('-', '')}_20211231_02_T1"
    root = folder / name
    part = "SR_B" if level.startswith("L2") else "B"
    for common, digit in LANDSAT[spacecraft].items():
        raster(root / f"{name}_{part}{digit}.TIF", values[common], step=30, nodata=0)
    clear = np.full((EDGE, EDGE), 21824, np.uint16)
    raster(root / f"{name}_QA_PIXEL.TIF", clear if qa is None else qa, step=30)
    raster(
        root / f"{name}_QA_RADSAT.TIF",
        np.zeros((EDGE, EDGE), np.uint16) if radsat is None else radsat,
        step=30,
    )
    digits = LANDSAT[spacecraft].values()
    mtl: dict[str, dict[str, str]] = {
        "PRODUCT_CONTENTS": {"COLLECTION_NUMBER": "02", "PROCESSING_LEVEL": level},
        "IMAGE_ATTRIBUTES": {
            "SPACECRAFT_ID": spacecraft,
            "DATE_ACQUIRED": date,
            "SCENE_CENTER_TIME": "09:43:12.5312340Z",
            "SUN_ELEVATION": str(elevation),
            "EARTH_SUN_DISTANCE": str(DISTANCE),
        },
        "PROJECTION_ATTRIBUTES": {"UTM_ZONE": str(zone)},
    }
    if level.startswith("L2"):
        temperature = "ST_B10" if spacecraft == "LANDSAT_8" else "ST_B6"
        raster(root / f"{name}_{temperature}.TIF", values["st"], step=30, nodata=0)
        mtl["LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"] = {
            **{f"REFLECTANCE_MULT_BAND_{d}": scale[0] for d in digits},
            **{f"REFLECTANCE_ADD_BAND_{d}": scale[1] for d in digits},
        }
        mtl["LEVEL2_SURFACE_TEMPERATURE_PARAMETERS"] = {
            f"TEMPERATURE_MULT_BAND_{temperature}": "0.00341802",
            f"TEMPERATURE_ADD_BAND_{temperature}": "149.0",
        }
    else:
        mtl["LEVEL1_RADIOMETRIC_RESCALING"] = {
            **{f"RADIANCE_MULT_BAND_{d}": str(GAIN) for d in digits},
            **{f"RADIANCE_ADD_BAND_{d}": str(BIAS) for d in digits},
            **{f"REFLECTANCE_MULT_BAND_{d}": "2.0E-05" for d in digits},
            **{f"REFLECTANCE_ADD_BAND_{d}": "-0.1" for d in digits},
        }
        mtl["LEVEL1_MIN_MAX_RADIANCE"] = {
            f"RADIANCE_MAXIMUM_BAND_{d}": str(RADIANCE_MAXIMUM) for d in digits
        }
        mtl["LEVEL1_MIN_MAX_REFLECTANCE"] = {
            f"REFLECTANCE_MAXIMUM_BAND_{d}": str(REFLECTANCE_MAXIMUM) for d in digits
        }
    (root / f"{name}_MTL.{kind}").write_text(_mtl(mtl, kind))
    return root


def _mtl(groups: dict[str, dict[str, str]], kind: str) -> str:
    if kind == "json":
        return json.dumps({"LANDSAT_METADATA_FILE": groups})
    if kind == "txt":
        lines = ["GROUP = LANDSAT_METADATA_FILE"]
        for group, rows in groups.items():
            lines.append(f"  GROUP = {group}")
            for key, value in rows.items():
                quoted = (
                    value if value.replace(".", "").replace("-", "").isdigit() else f'"{value}"'
                )
                lines.append(f"    {key} = {quoted}")
            lines.append(f"  END_GROUP = {group}")
        return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""])
    body = "".join(
        f"<{g}>" + "".join(f"<{k}>{v}</{k}>" for k, v in rows.items()) + f"</{g}>"
        for g, rows in groups.items()
    )
    return f"<LANDSAT_METADATA_FILE>{body}</LANDSAT_METADATA_FILE>"


def dn(seed: int = 0) -> dict[str, np.ndarray]:
    """DN of the six common bands and of the temperature."""
    rng = np.random.default_rng(seed)
    names = (*LANDSAT["LANDSAT_8"], "st")
    return {n: rng.integers(8000, 40000, (EDGE, EDGE)).astype(np.uint16) for n in names}
