"""Sources of larger pixels: kept as they are by a factor, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archives import recipe
from products import SIZE, numbers, safe

from data_zarr import open_cube, validate
from data_zarr.errors import CubeError
from data_zarr.ingest import BandSetRecipe, GridSpec, build, make_plan
from data_zarr.ingest.sources import Sentinel2


def sets(folder: Path) -> tuple[BandSetRecipe, BandSetRecipe]:
    """10 m and 20 m bands of a product, each in its own pixels."""
    source = Sentinel2(str(folder / "*.SAFE"))
    return (
        BandSetRecipe("s2_l2a", (source,), bands=("B02", "B04", "B08")),
        BandSetRecipe("s2_20m", (source,), sensor="s2_l2a", bands=("B11",), factor=2),
    )


def test_bands_of_20_m_keep_their_pixels(tmp_path: Path) -> None:
    dn = numbers()
    scl = np.full((SIZE // 20,) * 2, 4, np.uint8)
    scl[0, 1] = 9
    safe(tmp_path, dn, scl=scl)
    build(recipe(*sets(tmp_path), shard=16), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    assert cube.bandsets["s2_20m"].shape == (1, 1, 12, 12)
    assert cube.grid_of("s2_20m").transform[0] == 20
    pixels, valid = cube.reader("s2_20m").read(0, 0, 12, 12)
    np.testing.assert_array_equal(pixels[0, 0], dn["B11"])
    np.testing.assert_array_equal(valid[0, 0], scl == 4)
    fine = cube.reader("s2_l2a").read(0, 0, 24, 24)[1]
    np.testing.assert_array_equal(fine[0, 0], (scl == 4).repeat(2, 0).repeat(2, 1))
    assert validate(cube, deep=True).ok


def test_an_odd_number_of_fine_pixels(tmp_path: Path) -> None:
    """The last coarse pixel reaches over the edge of the grid, as the source has it."""
    dn = numbers()
    safe(tmp_path, dn)
    grid = GridSpec(bounds=(500000, 5000000 - 150, 500000 + 170, 5000000))
    build(recipe(*sets(tmp_path), grid=grid), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    assert (cube.grid.height, cube.grid.width) == (15, 17)
    pixels, _ = cube.reader("s2_20m").read(0, 0, 8, 9)
    np.testing.assert_array_equal(pixels[0, 0], dn["B11"][:8, :9])


def test_the_remedy_names_the_factor(tmp_path: Path) -> None:
    safe(tmp_path, numbers())
    source = Sentinel2(str(tmp_path / "*.SAFE"))
    fine = BandSetRecipe("s2_l2a", (source,), bands=("B02",))
    coarse = BandSetRecipe("s2_20m", (source,), sensor="s2_l2a", bands=("B11",))
    with pytest.raises(CubeError, match=r"state `resampling`, or factor = 2, which keeps the pix"):
        make_plan(recipe(fine, coarse))


def test_quality_of_finer_pixels_counts_if_any_is_bad(tmp_path: Path) -> None:
    """SCL of 20 m under pixels of 40 m: one cloud of four is enough."""
    scl = np.full((SIZE // 20,) * 2, 4, np.uint8)
    scl[3, 3] = 9
    safe(tmp_path, numbers(), scl=scl)
    source = Sentinel2(str(tmp_path / "*.SAFE"))
    item = BandSetRecipe("s2_l2a", (source,), bands=("B04",), resampling="average")
    build(recipe(item, grid=GridSpec(resolution=40)), tmp_path / "c.zarr")
    pixels, valid = open_cube(tmp_path / "c.zarr").reader("s2_l2a").read(0, 0, 6, 6)
    expected = np.ones((6, 6), bool)
    expected[1, 1] = False
    np.testing.assert_array_equal(valid[0, 0], expected)
    mean = numbers()["B04"].reshape(6, 4, 6, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(pixels[0, 0], mean, atol=0.5 + 1e-6)
