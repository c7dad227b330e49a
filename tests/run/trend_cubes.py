"""A small cube with known trends, and a point cube; what the tests of `rsvlm trend` read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.sites import Sites
from data_zarr.write import BandSetData, create_cube

SIDE, DATES = 32, 12
SCALE, OFFSET = (2.75e-5, 1e-4), (-0.2, 0.0)
"""Of red and nir08: every band has its own."""
ALL_MASKED, THREE, CONSTANT = (0, 0), (0, 1), (0, 2)
"""Pixels with no answer, row and column."""

ROW = BANDSETS["landsat_sr6"]
BANDS = tuple(b for b in ROW.bands if b.common_name in ("red", "nir08"))


def dates() -> np.ndarray:
    """One a year in July; in 2015 two platforms on one day."""
    years = [f"20{y:02d}-07-01T10:00" for y in range(10, 21)]
    return np.sort(np.array([*years, "2015-07-01T10:00"], "datetime64[s]"))


def platforms() -> list[str]:
    return ["landsat-8"] * 6 + ["landsat-9"] * 6


def grid() -> Grid:
    return Grid.from_epsg(32633, (30.0, 0.0, 500000.0, 0.0, -30.0, 5080000.0), SIDE, SIDE)


@dataclasses.dataclass(frozen=True)
class Known:
    """A cube and its NDVI [T, H, W], float64, NaN where not valid."""

    path: Path
    ndvi: np.ndarray


def optical(**changes: Any) -> BandSetData:
    data = BandSetData(
        "landsat", "optical", BANDS, dates(), platforms(), scale=SCALE, offset=OFFSET, dtype="int32"
    )
    return dataclasses.replace(data, **changes)


def make(path: Path, **changes: Any) -> Known:
    """Red falls and near infrared rises from west to east; a fifth is cloudy."""
    rng = np.random.default_rng(3)
    shape = (DATES, SIDE, SIDE)
    years = (dates() - dates()[0]).astype(float)[:, None, None] / (365.25 * 86400)
    drift = np.linspace(-0.004, 0.004, SIDE)[None, None] * years
    red = 0.10 - drift + rng.normal(0, 0.004, shape)
    nir = 0.35 + 2 * drift + rng.normal(0, 0.01, shape)
    valid = rng.random(shape) > 0.2
    valid[:, *ALL_MASKED] = False
    valid[:, *THREE] = np.arange(DATES) < 3
    valid[:, *CONSTANT] = True
    red[:, *CONSTANT], nir[:, *CONSTANT] = 0.1, 0.3
    physical = np.stack([red, nir], 1)
    scale, offset = (np.array(v)[:, None, None] for v in (SCALE, OFFSET))
    stored = np.rint((physical - offset) / scale).astype(np.int32)
    with create_cube(
        path,
        grid=grid(),
        bandsets=[optical(**changes)],
        title="twelve Julys",
        license="none",
        provenance="made by the tests",
    ) as writer:
        writer.write("landsat", 0, 0, stored, valid)
    known = stored * scale + offset
    ndvi = (known[:, 1] - known[:, 0]) / (known[:, 1] + known[:, 0])
    return Known(path, np.where(valid, ndvi, np.nan))


def make_points(path: Path) -> np.ndarray:
    """Five sites with dates of their own, [T, S]; the last has two. Returns nir08 [T, S]."""
    rng = np.random.default_rng(4)
    when = dates()[:, None] + np.arange(5) * np.timedelta64(1, "D")
    when[2:, 4] = np.datetime64("NaT")
    stored = rng.integers(1000, 3000, (DATES, 2, 5, 1)).astype(np.int32)
    stored[:, 1, :, 0] += 100 * np.arange(DATES, dtype=np.int32)[:, None]
    valid = ~np.isnat(when)[..., None]
    places = Sites([f"tower {i}" for i in range(5)], 10 + 0.5 * np.arange(5), [46.0] * 5)
    names = np.repeat(np.array(platforms(), object)[:, None], 5, axis=1)
    bands = optical(dates=when, platform=names, scale=1e-4, offset=0.0)
    with create_cube(
        path, grid=places, bandsets=[bands], title="towers", license="none", provenance="tests"
    ) as writer:
        writer.write("landsat", 0, 0, stored, valid)
    return np.where(valid[..., 0], stored[:, 1, :, 0] * 1e-4, np.nan)
