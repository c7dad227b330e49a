"""Band sets of larger pixels: same origin, own grid, windows of the same ground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_cube import HEIGHT, WIDTH, create, grid, optical, radar

from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.grid import aligned
from data_zarr.layout import BandSetData
from data_zarr.schema import validate
from data_zarr.sensors import BANDSETS
from data_zarr.stats import band_stats


def scene(factor: int) -> np.ndarray:
    """A pixel holds 200 + 10 * (row + column) of its upper left base pixel: hand-checkable."""
    y = np.arange(-(-HEIGHT // factor))[:, None] * factor
    x = np.arange(-(-WIDTH // factor))[None] * factor
    return (200 + 10 * (y + x)).astype(np.int16)[None, None]


def layer(name: str, factor: int) -> BandSetData:
    row = BANDSETS["s2_l2a"]
    return BandSetData(name, row.kind, row.bands[:1], ["2020-01-01"], scale=1e-4, factor=factor)


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Cube:
    path = tmp_path_factory.mktemp("factor") / "c.zarr"
    sets = [layer("ten", 1), layer("twenty", 2), layer("sixty", 6)]
    with create(path, bandsets=sets, targets=[TargetInfo("agb")]) as writer:
        for s in sets:
            pixels = scene(s.factor)
            for y, x in writer.regions(s.name):
                edge = writer.shard_of(s.name)
                writer.write(s.name, y, x, pixels[:, :, y : y + edge, x : x + edge])
        for y, x in writer.regions():
            part = np.ones((HEIGHT, WIDTH), np.float32)[y : y + 64, x : x + 64]
            writer.write_target("agb", y, x, part)
    return open_cube(path)


def test_own_grids(cube: Cube) -> None:
    twenty = cube.grid_of("twenty")
    assert twenty.transform == (20.0, 0.0, 500000.0, 0.0, -20.0, 5080000.0)
    assert (twenty.height, twenty.width) == (50, 35)
    assert (cube.grid_of("sixty").height, cube.grid_of("sixty").width) == (17, 12)
    assert cube.grid_of("ten") == cube.grid == grid()
    assert cube.bandsets["sixty"].factor == 6
    assert cube.bandsets["twenty"].chunks[2:] == (32, 32)
    assert validate(cube, deep=True).ok


def test_read_and_write_take_own_pixels(cube: Cube) -> None:
    pixels, valid = cube.reader("twenty").read(40, 30, 10, 5)
    np.testing.assert_array_equal(pixels, scene(2)[:, :, 40:, 30:])
    assert valid.all()
    with pytest.raises(CubeError, match=r"rows in 0\.\.50, columns in 0\.\.35"):
        cube.reader("twenty").read(45, 0, 10, 5)


def test_labelled_view_has_own_coordinates(cube: Cube) -> None:
    data = cube.to_xarray("twenty")
    assert data["x"].values[:2].tolist() == [500010.0, 500030.0]
    assert data["spatial_ref"].attrs["GeoTransform"] == "500000.0 20.0 0.0 5080000.0 0.0 -20.0"


def test_a_window_covers_the_same_ground(cube: Cube) -> None:
    """Base rows 12..20, columns 24..32 are own rows 6..10, columns 12..16 at 20 m."""
    y, x, size = aligned(12, 24, 8, 2)
    assert (y, x, size) == (6, 12, 4)
    ten = cube.reader("ten").read(12, 24, 8, 8)[0]
    twenty = cube.reader("twenty").read(y, x, size, size)[0]
    np.testing.assert_array_equal(ten[:, :, ::2, ::2], twenty)


def test_a_window_below_a_pixel_takes_the_one_that_holds_its_centre(cube: Cube) -> None:
    """Base rows 16..20 have their centre at 18, in own row 3 (18..24) of 60 m."""
    y, x, size = aligned(16, 7, 4, 6)
    assert (y, x, size) == (3, 1, 1)
    assert cube.reader("sixty").read(y, x, 1, 1)[0].item() == 200 + 10 * (18 + 6)


def test_windows_of_a_table(cube: Cube) -> None:
    y, x, size = aligned(np.array([0, 4, 8]), np.array([2, 0, 6]), 4, 2)
    assert (y.tolist(), x.tolist(), size) == ([0, 2, 4], [1, 0, 3], 2)


@pytest.mark.parametrize(("y", "size"), [(3, 4), (4, 5), (4, 7)])
def test_a_window_that_cuts_larger_pixels(y: int, size: int) -> None:
    with pytest.raises(CubeError, match=r"a window cuts the pixels .* multiples of 2; found size"):
        aligned(y, 0, size, 2, "twenty")


def test_statistics_take_the_same_ground(cube: Cube) -> None:
    stats = band_stats(cube, "twenty", np.array([[12, 24]]), 8)
    assert stats.count[0] == 16
    np.testing.assert_allclose(stats.min[0], (200 + 10 * 36) * 1e-4)


@pytest.mark.parametrize("factor", [0, -1, HEIGHT + 1])
def test_a_factor_that_leaves_the_grid(tmp_path: Path, factor: Any) -> None:
    with pytest.raises(CubeError, match=f"factor of a band set in s1_db; .* from 1 to {HEIGHT}"):
        create(tmp_path / "c.zarr", bandsets=[optical(), radar(factor=factor)])


def test_regions_of_a_factor_are_refused_on_the_base_grid(tmp_path: Path) -> None:
    writer = create(tmp_path / "c.zarr", bandsets=[layer("twenty", 2)], targets=[])
    with pytest.raises(CubeError, match="region is not made of whole shards"):
        writer.write("twenty", 0, 0, np.zeros((1, 1, HEIGHT, WIDTH), np.int16))
