"""AGBD: biomass of GEDI footprints over the world, with 25 x 25 pixels of imagery around each.

    data_subset-2019-v4_0-20.h5
      TILE/                                            a tile of Sentinel-2's grid, N footprints
        S2_bands    [N, 25, 25, 12] u16  attrs order   numbers; 0: none
        ALOS_bands  [N, 25, 25, 2]  u16  attrs order   PALSAR-2 mosaic HH, HV; 0: none
        CH/ch, CH/std [N, 25, 25]                      canopy height and its spread, m; 255: none
        DEM         [N, 25, 25]                        m; -9999: none
        GEDI/agbd   [N]                                Mg/ha, of the central pixel
        Sentinel_metadata/S2_boa_offset [N]            in thousands of numbers; may lack

Layout and meaning: Sialelli et al. 2024 (arXiv 2406.04928) and the data set's own reader
(github.com/ghjuliasialelli/AGBD, Models/dataset.py): reflectance = (number - 1000 offset) / 10000,
gamma0 in dB = 10 log10(number^2) - 83. Which tiles train and which test is a file of the data set
(`biomes_splits_to_name.pkl`, a pickle, which is not read here): name the tiles, and make a cube a
split. Land cover, the days of acquisition (a cube has one time axis, each footprint has its own
day) and positions are left out. The label belongs to the central pixel; elsewhere it is unknown, so
train with window 25, stride 25 and `TargetConfig(min_valid=0)`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.ingest.stores import hdf5_module
from data_zarr.sensors import BANDSETS, Band
from data_zarr.write import BandSetData

from .atlas import Patch, write_atlas

SIZE, CENTRE = 25, 12
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
NODATA = -9999
HEIGHT_NODATA = 255

HEIGHT = (Band("height", unit="m"), Band("height_std", unit="m"))


def agbd(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    tiles: Sequence[str] | None = None,
    footprints: int | None = None,
    overwrite: bool = False,
) -> str:
    """A cube of footprints: `s2_l2a`, `palsar2_db`, `canopy_height`, `dem`, target `agb`.

    Args:
      files: HDF5, in order.
      tiles: those to take, in all files; None: all.
      footprints: the first so many; None: all.

    Returns:
      The path of the cube.

    Raises:
      CubeError: not AGBD's layout (the array that lacks is named), no such tile, no footprint.
    """
    if not files:
        raise CubeError("no files of AGBD", expected="data_subset-YEAR-v4_I-20.h5", found="none")
    index, known = _index([str(f) for f in files], tiles)
    lacking = sorted(set(tiles or ()) - known)
    if lacking:
        raise CubeError(
            "no such tile",
            where=", ".join(map(str, files)),
            expected=", ".join(sorted(known)[:20]),
            found=", ".join(lacking),
        )
    index = index[:footprints]
    optical, radar, terrain = (BANDSETS[n] for n in ("s2_l2a", "palsar2_db", "dem"))
    static: dict[str, Any] = {"static": True, "nodata": NODATA}

    return write_atlas(
        out,
        [f"{tile}/{row}" for _, tile, row in index],
        lambda i: _footprint(*index[i]),
        size=SIZE,
        gsd=10.0,
        bandsets=[
            BandSetData(
                "s2_l2a",
                "optical",
                [next(b for b in optical.bands if b.name == name) for name in S2_BANDS],
                scale=1e-4,
                source="S2_bands less 1000 x S2_boa_offset; each footprint has a day of its own",
                **static,
            ),
            BandSetData(
                "palsar2_db",
                "sar",
                radar.bands,
                scale=0.01,
                source="ALOS_bands: 10 log10(DN^2) - 83, rounded to 0.01 dB; a mosaic of the year",
                **static,
            ),
            BandSetData("canopy_height", "covariate", HEIGHT, source="CH/ch and CH/std", **static),
            BandSetData("dem", "covariate", terrain.bands, source="DEM", **static),
        ],
        targets=[
            TargetInfo(
                "agb",
                "above-ground biomass",
                "Mg/ha",
                description="GEDI/agbd (L4A) of the central pixel",
            )
        ],
        title=f"AGBD, {len(index)} footprints",
        license="CC-BY-NC-4.0",
        provenance="Sialelli et al. 2024, AGBD (huggingface.co/datasets/prs-eth/AGBD): GEDI L4A, "
        "Sentinel-2 L2A, PALSAR-2 mosaics, Lang et al.'s canopy height, JAXA's elevation model. "
        "Patches laid side by side, without positions",
        overwrite=overwrite,
    )


def _index(
    files: Sequence[str], tiles: Sequence[str] | None
) -> tuple[list[tuple[str, str, int]], set[str]]:
    """(file, tile, row) of every footprint; and all tiles there are."""
    h5py = hdf5_module(files[0])
    index, known = [], set()
    for path in files:
        try:
            with h5py.File(path, "r") as file:
                for tile in sorted(file):
                    known.add(tile)
                    if tiles is None or tile in tiles:
                        rows = len(_array(file[tile], "GEDI/agbd", path))
                        index += [(path, tile, row) for row in range(rows)]
        except OSError as error:
            raise CubeError(
                "unreadable file", where=path, expected="HDF5", found=str(error)[:120]
            ) from error
    return index, known


def _footprint(path: str, tile: str, row: int) -> Patch:
    h5py = hdf5_module(path)
    with h5py.File(path, "r") as file:
        group = file[tile]
        s2 = _ordered(group, "S2_bands", S2_BANDS, row, path)
        alos = _ordered(group, "ALOS_bands", ("HH", "HV"), row, path)
        offsets = group.get("Sentinel_metadata/S2_boa_offset")
        offset = 0 if offsets is None else int(offsets[row])
        height = np.stack([_array(group, f"CH/{k}", path)[row] for k in ("ch", "std")])
        dem = _array(group, "DEM", path)[row]
        agb = float(_array(group, "GEDI/agbd", path)[row])
    reflectance = np.where(s2 == 0, NODATA, np.clip(s2.astype(np.int64) - 1000 * offset, 0, 32767))
    with np.errstate(divide="ignore"):
        decibel = 10 * np.log10(np.square(alos.astype(np.float64))) - 83.0
    gamma = np.where(alos == 0, NODATA, np.rint(100 * np.where(alos == 0, 0.0, decibel)))
    target = np.full((SIZE, SIZE), np.nan, np.float32)
    target[CENTRE, CENTRE] = agb
    return Patch(
        pixels={
            "s2_l2a": reflectance.astype(np.int16)[None],
            "palsar2_db": gamma.astype(np.int16)[None],
            "canopy_height": _whole(height, HEIGHT_NODATA)[None],
            "dem": _whole(dem, NODATA)[None, None],
        },
        valid={},
        targets={"agb": target},
    )


def _whole(values: np.ndarray, none: int) -> np.ndarray:
    """Whole metres, `NODATA` where there are none."""
    there = np.isfinite(values) & (values != none)
    return np.where(there, np.rint(np.where(there, values, 0)), NODATA).astype(np.int16)


def _ordered(group: Any, name: str, wanted: Sequence[str], row: int, path: str) -> np.ndarray:
    """Bands [C, 25, 25] of a footprint in the wanted order, which the file's `order` names."""
    array = _array(group, name, path)
    order = [_text(b) for b in array.attrs.get("order", ())]
    missing = [b for b in wanted if b not in order]
    if missing:
        raise CubeError(
            "bands that are not there",
            where=f"{path}: {group.name}/{name}",
            expected=f"attribute order with {', '.join(wanted)}",
            found=", ".join(order) or "none",
        )
    return np.moveaxis(array[row], -1, 0)[[order.index(b) for b in wanted]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _array(group: Any, name: str, path: str) -> Any:
    found = group.get(name)
    if found is None or not hasattr(found, "shape"):
        raise CubeError(
            "not a file of AGBD",
            where=f"{path}: {group.name}",
            expected=name,
            found=", ".join(group) or "nothing",
        )
    return found
