"""A small cube of known numbers, and ways to damage a copy of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    data = BandSetData(
        "s1_db", row.kind, row.bands, ["2019-05-02"], dtype="float32", nodata=np.nan
    )
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


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Small:
    rng = np.random.default_rng(0)
    pixels = rng.integers(200, 5000, (3, 13, HEIGHT, WIDTH)).astype(np.int16)
    pixels[0, 3, 0, 0] = -9999
    valid = rng.random((3, HEIGHT, WIDTH)) < 0.7
    valid[0, 0, 0] = True
    backscatter = rng.normal(-12, 3, (1, 2, HEIGHT, WIDTH)).astype(np.float32)
    backscatter[0, 1, 5, 6] = np.nan
    target = rng.random((HEIGHT, WIDTH)).astype(np.float32) * 300
    target[0, 0] = np.nan
    path = tmp_path_factory.mktemp("cube") / "small.zarr"
    with create(path) as writer:
        writer.write("s2_l1c", 0, 0, pixels, valid)
        writer.write("s1_db", 0, 0, backscatter)
        writer.write_target("agb", 0, 0, target)
    return Small(path, pixels, valid, backscatter, target)


@pytest.fixture()
def small(_template: Small, tmp_path: Path) -> Small:
    """A private copy, free to be damaged."""
    path = tmp_path / "small.zarr"
    shutil.copytree(_template.path, path)
    return dataclasses.replace(_template, path=path)


@pytest.fixture(scope="session")
def intact(_template: Small) -> Small:
    """The shared cube, for tests that only read."""
    return _template
