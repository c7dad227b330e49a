"""A small cube of known numbers, and ways to damage a copy of it; its fixtures are in conftest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube, seal

DATES = ("2019-05-01T10:00", "2019-06-01T10:00", "2019-06-01T10:00")
PLATFORMS = ("sentinel-2a", "sentinel-2a", "sentinel-2b")
HEIGHT, WIDTH, SHARD = 100, 70, 64


@dataclasses.dataclass(frozen=True)
class Small:
    """A cube and the arrays that it was made of."""

    path: Path
    pixels: np.ndarray  # int16 [3, 13, 100, 70]
    valid: np.ndarray  # bool [3, 100, 70]
    radar: np.ndarray  # float32 [1, 2, 100, 70], one NaN
    target: np.ndarray

    def edit(self, node: str, change: Callable[[dict[str, Any]], None], *, sealed: bool) -> None:
        """Changes the metadata of a node, with or without a new manifest."""
        path = self.path / node / "zarr.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        if sealed:
            seal(self.path)

    def file(self, key: str) -> Path:
        return self.path / key


def grid() -> Grid:
    return Grid.from_epsg(32633, (10.0, 0.0, 500000.0, 0.0, -10.0, 5080000.0), HEIGHT, WIDTH)


def optical(**changes: Any) -> BandSetData:
    row = BANDSETS["s2_l1c"]
    data = BandSetData("s2_l1c", row.kind, row.bands, DATES, PLATFORMS, scale=1e-4)
    return dataclasses.replace(data, **changes)


def radar(**changes: Any) -> BandSetData:
    row = BANDSETS["s1_db"]
    data = BandSetData("s1_db", row.kind, row.bands, ["2019-05-02"], dtype="float32", nodata=np.nan)
    return dataclasses.replace(data, **changes)


def create(path: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "grid": grid(),
        "bandsets": [optical(), radar()],
        "targets": [TargetInfo("agb", "above-ground biomass", "Mg ha-1", (0.0, 500.0))],
        "shard": SHARD,
        "title": "small",
        "license": "none",
        "provenance": "made by the tests",
    }
    return create_cube(path, **{**arguments, **changes})
