"""A small real cube on disk: 40 x 36 pixels, optical series, radar, terrain, two targets."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_zarr.cube import Cube, open_cube
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sampling import WindowTable, window_table
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube
from rsvlm_jax.config import DataConfig, HeadConfig, InputConfig, VLMConfig, nano
from rsvlm_jax.data import CubeSource, Processor, Tokenizer, bandset_specs, facts, target_spec

HEIGHT, WIDTH, SHARD, WINDOW, VISUAL = 40, 36, 8, 8, 8
DATES = ["2016-03-01T10:00:00", "2016-07-05T10:00:00", "2017-01-02T10:00:00"]
INPUTS = (InputConfig("s2_l1c"), InputConfig("dem", front="pixel"))


def write_cube(
    path: Path, *, target: np.ndarray | None = None, reverse: bool = False, scale: float = 1e-4
) -> Path:
    """Every pixel of "s2_l1c" tells its date, band, row and column; `reverse` stores bands last
    to first. The first date is invalid in the upper left quarter.
    """
    grid = Grid.from_epsg(32633, (10.0, 0.0, 500000.0, 0.0, -10.0, 5100000.0), HEIGHT, WIDTH)
    bands = BANDSETS["s2_l1c"].bands
    c = len(bands)
    sets = [
        BandSetData(
            "s2_l1c",
            "optical",
            bands[::-1] if reverse else bands,
            DATES,
            platform="sentinel-2a",
            scale=scale,
        ),
        BandSetData("s1_db", "sar", BANDSETS["s1_db"].bands, DATES[:1], scale=0.01),
        BandSetData("dem", "covariate", BANDSETS["dem"].bands, static=True),
    ]
    targets = [
        TargetInfo("tree_cover", "tree cover", bounds=(0.0, 1.0)),
        TargetInfo("land_cover", kind="category", categories=((1, "forest"), (2, "water"))),
    ]
    writer = create_cube(
        path,
        grid=grid,
        bandsets=sets,
        targets=targets,
        shard=SHARD,
        title="test",
        license="CC0-1.0",
        provenance="tests",
    )
    t, b, y, x = np.meshgrid(
        np.arange(3), np.arange(c), np.arange(HEIGHT), np.arange(WIDTH), indexing="ij"
    )
    pixels = (t * 8000 + b * 600 + y * 14 + x % 14).astype(np.int16)
    valid = np.ones((3, HEIGHT, WIDTH), bool)
    valid[0, : HEIGHT // 2, : WIDTH // 2] = False
    writer.write("s2_l1c", 0, 0, pixels[:, ::-1] if reverse else pixels, valid)
    writer.write("s1_db", 0, 0, np.full((1, 2, HEIGHT, WIDTH), -1200, np.int16))
    terrain = np.full((1, len(sets[2].bands), HEIGHT, WIDTH), 300, np.int16)
    writer.write("dem", 0, 0, terrain)
    if target is None:
        target = np.random.default_rng(0).random((HEIGHT, WIDTH))
        target[:8, :8] = np.nan
    writer.write_target("tree_cover", 0, 0, target)
    writer.write_target("land_cover", 0, 0, np.ones((HEIGHT, WIDTH)))
    writer.close()
    return path


@pytest.fixture(scope="session")
def written() -> Callable[..., Path]:
    """`write_cube`, for tests that need a cube of their own."""
    return write_cube


@pytest.fixture(scope="session")
def cube_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cube(tmp_path_factory.mktemp("cube") / "small.zarr")


@pytest.fixture(scope="session")
def cube(cube_path: Path) -> Cube:
    return open_cube(cube_path)


@pytest.fixture
def damaged(cube_path: Path, tmp_path: Path) -> Path:
    """A copy with one corrupt chunk: rows 8-15, columns 16-23 of the optical pixels."""
    path = tmp_path / "damaged.zarr"
    shutil.copytree(cube_path, path)
    file = path / "s2_l1c" / "pixels" / "c" / "0" / "0" / "1" / "2"
    data = bytearray(file.read_bytes())
    for i in range(0, len(data), 7):
        data[i] ^= 0x5A
    file.write_bytes(bytes(data))
    return path


@pytest.fixture(scope="session")
def table() -> WindowTable:
    """20 windows that do not overlap."""
    return window_table(HEIGHT, WIDTH, WINDOW, WINDOW)


@pytest.fixture(scope="session")
def config() -> VLMConfig:
    model = nano(INPUTS)
    return dataclasses.replace(model, head=HeadConfig(reg_tokens=3))


@pytest.fixture(scope="session")
def make_processor(cube: Cube, config: VLMConfig) -> Callable[..., Processor]:
    def make(templates: str = "plain", **changes) -> Processor:
        data = DataConfig(window=WINDOW, templates=templates)  # type: ignore[arg-type]
        specs = bandset_specs(cube, config.inputs)
        fields = {
            "config": config,
            "data": data,
            "bandsets": specs,
            "target": target_spec(cube, data.target),
            "tokenizer": Tokenizer.shipped(),
            "visual_tokens": VISUAL,
            "facts": facts(cube, specs, WINDOW),
        }
        return Processor(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def source(cube_path: Path, config: VLMConfig, table: WindowTable) -> CubeSource:
    return CubeSource(cube_path, config.inputs, DataConfig().target, table)
