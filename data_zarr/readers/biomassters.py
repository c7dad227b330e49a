"""BioMassters: biomass of Finnish forest from a year of Sentinel-1 and Sentinel-2, by month.

    SOURCE/train_features/CHIP_S1_00.tif .. _11.tif    4 bands: VV, VH ascending, VV, VH descending
    SOURCE/train_features/CHIP_S2_00.tif .. _11.tif    11 bands: B2 .. B8A, B11, B12, cloud share
    SOURCE/train_agbm/CHIP_agbm.tif                    Mg/ha, peak of the year

Layout and meaning: Nascetti et al. 2023 (NeurIPS Datasets and Benchmarks), the competition's pages
(drivendata.org, number 99) and its winners' readers (github.com/drivendataorg/the-biomassters):
chips of 256 x 256 pixels of 10 m, months from September (00) to August (11), backscatter in dB with
-9999 where there is none, Sentinel-2 at 10,000 a unit of reflectance with the probability of cloud
in per cent (255: none) as its last band; months of Sentinel-2 may lack. Positions were removed, and
which year it was is not said: dates are the middles of months in a nominal year. The competition
calls the target tonnes, papers Mg/ha, which alone its values allow. The protocol scores the mean
over chips of the RMSE over their pixels (`rsvlm_jax.evaluate.protocols`).
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.ingest.native import rasterio_module
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData

from .atlas import Patch, write_atlas

MONTHS = (9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8)
"""Of the files 00 .. 11."""

YEAR = 2019
"""Nominal: of the file 11."""

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
CLOUDY, NO_CLOUD = 50, 255
"""Per cent from which a pixel is not valid; and what stands where no cloud share is known."""

SCALE = 0.01
"""Of stored backscatter: int16 hundredths of a dB."""

NODATA = -9999


def biomassters(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: Literal["train", "test"] = "train",
    chips: int | None = None,
    overwrite: bool = False,
) -> str:
    """A cube of the chips of a split: `s2_l2a`, `s1_asc_db`, `s1_desc_db`, target `agb`.

    Args:
      source: folder with `{split}_features` and `{split}_agbm`.
      chips: the first so many by name; None: all.

    Returns:
      The path of the cube.

    Raises:
      CubeError: nothing there, a raster of another shape, or a chip without any image.
    """
    root = Path(source)
    features, labels = root / f"{split}_features", root / f"{split}_agbm"
    names = sorted(
        m[1] for p in labels.glob("*_agbm.tif") if (m := re.fullmatch(r"(\w+)_agbm\.tif", p.name))
    )
    if not names:
        raise CubeError(
            "no chips of BioMassters",
            where=labels,
            expected="CHIP_agbm.tif, one a chip",
            found="a folder without any" if labels.is_dir() else "no such folder",
            remedy="point at the folder that holds train_features and train_agbm",
        )
    names = names[:chips]
    size = _read(labels / f"{names[0]}_agbm.tif", 1).shape[-1]
    dates = [f"{YEAR - (month >= 9)}-{month:02d}-15" for month in MONTHS]
    optical, radar = BANDSETS["s2_l2a"], BANDSETS["s1_db"]
    s2_bands = [b for b in optical.bands if b.name in S2_BANDS]
    s2 = BandSetData(
        "s2_l2a",
        "optical",
        s2_bands,
        dates,
        scale=1e-4,
        nodata=NODATA,
        year_known=False,
        source="CHIP_S2_MM.tif, monthly; not valid where the cloud share is 50 % or more",
    )
    s1 = [
        BandSetData(
            name,
            "sar",
            radar.bands,
            dates,
            scale=SCALE,
            nodata=NODATA,
            year_known=False,
            source=f"CHIP_S1_MM.tif, {orbit}, monthly, rounded to 0.01 dB",
        )
        for name, orbit in (("s1_asc_db", "ascending"), ("s1_desc_db", "descending"))
    ]

    def read(i: int) -> Patch:
        return _chip(features, labels, names[i], size)

    return write_atlas(
        out,
        names,
        read,
        size=size,
        gsd=10.0,
        bandsets=[s2, *s1],
        targets=[
            TargetInfo(
                "agb",
                "above-ground biomass",
                "Mg/ha",
                description="CHIP_agbm.tif: peak of the year, from lidar",
            )
        ],
        title=f"BioMassters, {split}, {len(names)} chips",
        license="CC-BY-4.0",
        provenance="Nascetti et al. 2023, BioMassters (huggingface.co/datasets/nascetti-a/"
        "BioMassters). Contains modified Copernicus Sentinel data. Chips laid side by side: "
        "positions and years were removed at the source",
        overwrite=overwrite,
    )


def _chip(features: Path, labels: Path, name: str, size: int) -> Patch:
    s2 = np.full((12, len(S2_BANDS), size, size), NODATA, np.int16)
    clear = np.zeros((12, size, size), bool)
    s1 = np.full((12, 4, size, size), NODATA, np.int16)
    found = 0
    for month in range(12):
        optical = features / f"{name}_S2_{month:02d}.tif"
        if optical.is_file():
            found += 1
            raw = _read(optical, len(S2_BANDS) + 1, size)
            cloud = raw[-1]
            s2[month] = np.clip(raw[:-1], -9998, 32767).astype(np.int16)
            clear[month] = ((cloud < CLOUDY) | (cloud == NO_CLOUD)) & (raw[:-1] > 0).any(0)
        radar = features / f"{name}_S1_{month:02d}.tif"
        if radar.is_file():
            found += 1
            raw = _read(radar, 4, size).astype(np.float64)
            there = np.isfinite(raw) & (raw > NODATA)
            stored = np.rint(np.where(there, raw, 0.0) / SCALE)
            s1[month] = np.where(there, np.clip(stored, -9998, 32767), NODATA).astype(np.int16)
    if not found:
        raise CubeError(
            "a chip without any image",
            where=features,
            expected=f"{name}_S1_00.tif .. {name}_S2_11.tif",
            found="none",
        )
    target = _read(labels / f"{name}_agbm.tif", 1, size)[0].astype(np.float32)
    return Patch(
        pixels={"s2_l2a": s2, "s1_asc_db": s1[:, :2], "s1_desc_db": s1[:, 2:]},
        valid={"s2_l2a": clear},
        targets={"agb": np.where(np.isfinite(target) & (target >= 0), target, np.nan)},
    )


def _read(path: Path, bands: int, size: int | None = None) -> np.ndarray:
    """All bands [C, s, s] of a raster without a position; CubeError for another count or shape."""
    rasterio = rasterio_module(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                values = file.read()
    except rasterio.errors.RasterioIOError as error:
        raise CubeError(
            "unreadable raster", where=path, expected="a GeoTIFF", found=str(error)[:120]
        ) from error
    size = values.shape[1] if size is None else size
    if values.shape != (bands, size, size):
        raise CubeError(
            "not a raster of BioMassters",
            where=path,
            expected=f"{bands} bands, {size} x {size} pixels",
            found=list(values.shape),
        )
    return values
