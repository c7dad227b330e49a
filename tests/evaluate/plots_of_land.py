"""A small raster whose target is a known sum of its bands, for the benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_zarr.cube import Cube, open_cube
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube

SIZE = 48


def land(path: Path, target: np.ndarray | None = None, *, unit: str = "Mg/ha") -> Cube:
    """48 x 48 pixels, red, green, blue and near infrared on three dates; biomass by their sum."""
    row = BANDSETS["s2_l2a"]
    bands = [b for b in row.bands if b.name in ("B02", "B03", "B04", "B08")]
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 1, (4, SIZE // 4, SIZE // 4))
    field = np.kron(coarse, np.ones((4, 4)))
    pixels = np.stack([300 + 3000 * field + rng.normal(0, 60, field.shape) for _ in range(3)])
    values = 40 + 120 * field[0] + 80 * field[3]
    dates = ["2020-03-01", "2020-06-01", "2020-09-01"]
    with create_cube(
        path,
        grid=Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5.1e6), SIZE, SIZE),
        bandsets=[BandSetData("s2_l2a", row.kind, bands, dates, "sentinel-2a", scale=1e-4)],
        targets=[TargetInfo("agb", "above-ground biomass", unit, (0.0, 400.0))],
        title="Plots of land",
        license="CC0-1.0",
        provenance="made by the tests",
    ) as writer:
        writer.write("s2_l2a", 0, 0, np.clip(pixels, 1, 9999).astype(np.int16))
        values = values if target is None else target
        writer.write_target("agb", 0, 0, values.astype(np.float32))
    return open_cube(path)
