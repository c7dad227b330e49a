"""Tiny data sets in the documented layouts of BioMassters and AGBD, numbers made up.

Written from the documents that the readers name, and without them: `python layouts.py FOLDER`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import rasterio

CHIP = 16
S2_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def tif(path: Path, values: np.ndarray) -> None:
    """A GeoTIFF [C, s, s] without a position."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=len(values), height=values.shape[1],
            width=values.shape[2], dtype=values.dtype,
        ) as file:  # fmt: skip
            file.write(values)


def biomassters(root: Path, chips: int = 4, split: str = "train") -> dict[str, np.ndarray]:
    """Chips whose near infrared follows biomass; the biomass by chip.

    Of the first chip Sentinel-2 lacks in December (03); one pixel of radar has no number, one
    corner of month 05 is cloudy.
    """
    rng = np.random.default_rng(0)
    found = {}
    for i in range(chips):
        name = f"{i:04x}beef"
        agb = (40 * (i + 1) + rng.uniform(0, 20, (CHIP, CHIP))).astype(np.float32)
        found[name] = agb
        tif(root / f"{split}_agbm" / f"{name}_agbm.tif", agb[None])
        for month in range(12):
            radar = np.stack([-12 + agb / 50, -18 + agb / 50, -11 + agb / 50, -17 + agb / 50])
            if i == 0:
                radar[0, 3, 5] = -9999
            folder = root / f"{split}_features"
            tif(folder / f"{name}_S1_{month:02d}.tif", radar.astype(np.float32))
            if i == 0 and month == 3:
                continue
            # Every band varies: a constant one has no statistics.
            optical = rng.integers(450, 550, (11, CHIP, CHIP)).astype(np.uint16)
            optical[6] = 1000 + 20 * agb  # B8
            optical[10] = 5
            if month == 5:
                optical[10, :4, :4] = 90
            tif(folder / f"{name}_S2_{month:02d}.tif", optical)
    return found


def agbd(path: Path, footprints: int = 6) -> np.ndarray:
    """Two tiles; the biomass of their footprints in order. The second has an offset of 1."""
    rng = np.random.default_rng(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = []
    with h5py.File(path, "w") as file:
        for t, tile in enumerate(("30NXM", "31NBJ")):
            agb = rng.uniform(10, 300, footprints).astype(np.float32)
            truth.append(agb)
            group = file.create_group(tile)
            s2 = np.full((footprints, 25, 25, 12), 800 + 1000 * t, np.uint16)
            s2 += np.arange(25, dtype=np.uint16)[:, None, None]  # a slope to the south
            s2[..., 7] += (10 * agb).astype(np.uint16)[:, None, None]  # B08
            s2[0, 0, 0] = 0
            group["S2_bands"] = s2
            group["S2_bands"].attrs["order"] = list(S2_ORDER)
            alos = np.full((footprints, 25, 25, 2), 3000, np.uint16)
            alos += np.arange(25, dtype=np.uint16)[:, None]
            alos[..., 0] -= 1500  # HV comes first: the order is read, not supposed
            alos[1, 2, 3] = 0
            group["ALOS_bands"] = alos
            group["ALOS_bands"].attrs["order"] = ["HV", "HH"]
            group["CH/ch"] = np.full((footprints, 25, 25), 21.4, np.float32)
            std = np.full((footprints, 25, 25), 3.0, np.float32)
            std[2, 1, 1] = 255
            group["CH/std"] = std
            group["DEM"] = np.full((footprints, 25, 25), 412.0, np.float32)
            group["GEDI/agbd"] = agb
            if t:
                group["Sentinel_metadata/S2_boa_offset"] = np.full(footprints, t, np.int32)
            else:
                group.create_group("Sentinel_metadata")
    return np.concatenate(truth)


if __name__ == "__main__":
    biomassters(Path(sys.argv[1]) / "biomassters")
    agbd(Path(sys.argv[1]) / "agbd" / "data_subset-2019-v4_0-20.h5")
