"""A point cube and a cube of two resolutions, small and of known numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_zarr.cube import Cube, open_cube
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.sites import Sites
from data_zarr.write import BandSetData, create_cube

S, T = 60, 8


def places(path: Path) -> Cube:
    """Sixty places in six clusters, dates of their own, a radar series in a nominal year."""
    rng = np.random.default_rng(0)
    cluster = np.arange(S) % 6
    middle = rng.uniform([5, 42], [20, 50], (6, 2))
    lon, lat = (middle[cluster] + rng.normal(0, 0.2, (S, 2))).T
    days = rng.integers(0, 4 * 365 * 86400, (T, S)).astype("m8[s]")
    dates = np.sort(np.datetime64("2016-01-01", "s") + days, axis=0)
    dates[np.arange(T)[:, None] >= 4 + cluster[None] % 5] = np.datetime64("NaT")
    labels = {"region": [f"region {c}" for c in cluster], "year": 2016 + np.arange(S) // 15}
    optical, radar = BANDSETS["s2_l2a"], BANDSETS["s1_db"]
    months = np.arange("2001-01", "2002-01", dtype="M8[M]").astype("M8[s]")
    bandsets = [
        BandSetData("s2_l2a", optical.kind, optical.bands[:4], dates, "sentinel-2a", scale=1e-4),
        BandSetData(
            "s1_db",
            radar.kind,
            radar.bands,
            months,
            dtype="float32",
            nodata=np.nan,
            year_known=False,
        ),
    ]
    y = (60 + 8 * cluster + rng.normal(0, 3, S)).astype(np.float32)
    y[0] = np.nan
    with create_cube(
        path,
        grid=Sites([f"plot-{i}" for i in range(S)], lon, lat, labels),
        bandsets=bandsets,
        targets=[TargetInfo("moisture", "live fuel moisture", "%", (0.0, 500.0))],
        title="Fuel moisture",
        license="CC0-1.0",
        provenance="made by the tests",
    ) as writer:
        pixels = rng.integers(300, 4000, (T, 4, S, 1)).astype(np.int16)
        writer.write("s2_l2a", 0, 0, pixels, rng.random((T, S, 1)) < 0.7)
        writer.write("s1_db", 0, 0, rng.normal(-12, 2, (12, 2, S, 1)).astype(np.float32))
        writer.write_target("moisture", 0, 0, y)
    return open_cube(path)


def two_resolutions(path: Path) -> Cube:
    """Ten- and twenty-metre bands of one sensor, 48 x 40 and 24 x 20 pixels."""
    row = BANDSETS["s2_l2a"]
    fine = [b for b in row.bands if b.name in ("B02", "B03", "B04", "B08")]
    coarse = [b for b in row.bands if b.name in ("B05", "B06", "B07", "B8A", "B11", "B12")]
    dates = ["2020-03-01", "2020-06-01"]
    rng = np.random.default_rng(0)
    with create_cube(
        path,
        grid=Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5.1e6), 48, 40),
        bandsets=[
            BandSetData("s2_l2a", row.kind, fine, dates, "sentinel-2a", scale=1e-4),
            BandSetData("s2_20m", row.kind, coarse, dates, "sentinel-2a", scale=1e-4, factor=2),
        ],
        targets=[TargetInfo("agb", "above-ground biomass", "Mg/ha", (0.0, 500.0))],
        title="Two resolutions",
        license="CC0-1.0",
        provenance="made by the tests",
    ) as writer:
        writer.write("s2_l2a", 0, 0, rng.integers(300, 4000, (2, 4, 48, 40)).astype(np.int16))
        writer.write("s2_20m", 0, 0, rng.integers(300, 4000, (2, 6, 24, 20)).astype(np.int16))
        writer.write_target("agb", 0, 0, rng.uniform(0, 300, (48, 40)).astype(np.float32))
    return open_cube(path)
