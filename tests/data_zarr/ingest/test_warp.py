"""Warps by hand: half a pixel apart, twice as large; the unknown spreads as far as it counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archives import ORIGIN, raster

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.ingest.scene import Layer, Mask
from data_zarr.ingest.warp import aligned, fetch, fetch_mask

N = 12


def layer(path: Path, values: np.ndarray, **more: object) -> Layer:
    raster(path, values)
    grid = Grid.from_epsg(32633, (10, 0, ORIGIN[0], 0, -10, ORIGIN[1]), *values.shape)
    return Layer(str(path), grid, str(values.dtype), **more)


def grid(step: float, dx: float, dy: float, h: int, w: int) -> Grid:
    return Grid.from_epsg(32633, (step, 0, ORIGIN[0] + dx, 0, -step, ORIGIN[1] - dy), h, w)


@pytest.fixture
def numbers() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, (N, N)).astype(np.uint16)


def test_whole_pixels_are_copied(tmp_path: Path, numbers: np.ndarray) -> None:
    """Aligned, and reaching out of the source on two sides."""
    source = layer(tmp_path / "a.tif", numbers, nodata=0)
    target = grid(10, -20, 30, 20, 10)
    assert aligned(source.grid, target) == (3, -2)
    [(out, valid)] = fetch([source], target, None)
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out[:9, 2:], numbers[3:, :8])
    assert valid[:9, 2:].all()
    assert valid.sum() == 9 * 8


def test_bilinear_half_a_pixel_apart(tmp_path: Path, numbers: np.ndarray) -> None:
    """The mean of four neighbours; one unknown pixel makes four unknown."""
    numbers[5, 5] = 0
    source = layer(tmp_path / "a.tif", numbers, nodata=0)
    [(out, valid)] = fetch([source], grid(10, 5, 5, N - 1, N - 1), "bilinear")
    four = sum(numbers[i : N - 1 + i, j : N - 1 + j].astype(float) for i in (0, 1) for j in (0, 1))
    expected = np.ones((N - 1, N - 1), bool)
    expected[4:6, 4:6] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(out[valid], four[valid] / 4, rtol=1e-6)


def test_cubic_half_a_pixel_apart(tmp_path: Path, numbers: np.ndarray) -> None:
    """Weights -1/16, 9/16, 9/16, -1/16 along each axis; unknown as far as four pixels reach."""
    numbers[5, 5] = 0
    source = layer(tmp_path / "a.tif", numbers, nodata=0)
    [(out, valid)] = fetch([source], grid(10, 5, 5, N - 1, N - 1), "cubic")
    weights = np.asarray([-1, 9, 9, -1]) / 16
    expected = np.ones((N - 1, N - 1), bool)
    expected[3:7, 3:7] = False
    np.testing.assert_array_equal(valid, expected)
    patch = numbers[7:11, 2:6].astype(float)  # around the corner (9, 4), far from the hole
    assert out[8, 3] == pytest.approx(weights @ patch @ weights, rel=1e-5)


def test_average_of_db_is_that_of_power(tmp_path: Path) -> None:
    db = np.full((4, 4), -10.0, np.float32)
    db[0, 0], db[2, 2] = -20.0, np.nan
    source = layer(tmp_path / "a.tif", db, units="db")
    [(out, valid)] = fetch([source], grid(20, 0, 0, 2, 2), "average")
    assert valid.tolist() == [[True, True], [True, False]]
    assert out[0, 0] == pytest.approx(10 * np.log10((3 * 0.1 + 0.01) / 4), abs=1e-5)
    assert out[0, 1] == pytest.approx(-10.0, abs=1e-5)


def test_a_hole_in_one_band_is_none_in_another(tmp_path: Path, numbers: np.ndarray) -> None:
    """Bands are warped together, and keep their masks apart."""
    one = layer(tmp_path / "a.tif", numbers, nodata=0)
    holed = numbers.copy()
    holed[5, 5] = 0
    two = layer(tmp_path / "b.tif", holed, nodata=0)
    (a, b) = fetch([one, two], grid(10, 5, 5, N - 1, N - 1), "bilinear")
    assert a[1].all()
    assert b[1].sum() == a[1].size - 4
    np.testing.assert_array_equal(a[0][b[1]], b[0][b[1]])


def test_masks_take_the_nearest_or_any(tmp_path: Path) -> None:
    flags = np.zeros((4, 4), np.uint8)
    flags[1, 2] = 8
    mask = Mask(layer(tmp_path / "a.tif", flags), bits=(3,))
    assert fetch_mask(mask, grid(20, 0, 0, 2, 2)).tolist() == [[False, True], [False, False]]
    fine = fetch_mask(mask, grid(5, 0, 0, 8, 8))
    np.testing.assert_array_equal(fine, (flags == 8).repeat(2, 0).repeat(2, 1))
    assert fetch_mask(mask, grid(10, 20, 0, 4, 4))[:, 2:].all()  # not covered: refused


def test_no_warp_without_a_word(tmp_path: Path, numbers: np.ndarray) -> None:
    source = layer(tmp_path / "a.tif", numbers)
    with pytest.raises(CubeError, match="resampling is not stated"):
        fetch([source], grid(10, 5, 5, 4, 4), None)
