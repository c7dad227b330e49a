"""Regions in degrees on projected grids: a pixel belongs to one when its centre does."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import Transformer

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.regions import Region
from data_zarr.sites import Sites


@pytest.fixture
def grid() -> Grid:
    """32 x 40 pixels of 5 km in UTM 33 N."""
    return Grid.from_epsg(32633, (5e3, 0.0, 400e3, 0.0, -5e3, 5200e3), 32, 40)


def centres(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(grid.x, grid.y)
    return Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True).transform(x, y)


@pytest.mark.parametrize(
    "box",
    [(-180, -90, 180, 90), (-170, -80, 170, 80), (-10, 30, 15, 60), (5, 40, 25, 46.5),
     (14.5, 46, 15, 46.5)],
)  # fmt: skip
def test_a_box_of_any_size_holds_the_centres_that_are_in_it(grid: Grid, box):
    west, south, east, north = box
    lon, lat = centres(grid)
    inside = (west < lon) & (lon < east) & (south < lat) & (lat < north)
    region = Region.box(*box)
    np.testing.assert_array_equal(region.mask(grid), inside)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    y, x, h, w = region.window(grid)
    assert (y, x) == (rows[0], columns[0])
    assert (y + h - 1, x + w - 1) == (rows[-1], columns[-1])


def test_a_box_beside_every_centre_holds_none(grid: Grid):
    lon, lat = (float(v[3, 5]) for v in centres(grid))
    with pytest.raises(CubeError, match="no centre of a pixel in the region"):
        Region.box(lon + 0.005, lat + 0.005, lon + 0.02, lat + 0.02).window(grid)


def test_a_box_over_the_date_line():
    region = Region.box(170, -10, 190, 10)
    lon = np.array([169.0, 175.0, -175.0, -165.0])
    assert region._holds(lon, np.zeros(4)).tolist() == [False, True, True, False]


def test_a_box_over_the_antimeridian_of_a_grid_in_degrees():
    grid = Grid.from_epsg(4326, (1.0, 0.0, -180.0, 0.0, -1.0, 10.0), 20, 360)
    found = Region.box(180, -2, 183, 2).mask(grid)
    assert np.flatnonzero(found.any(0)).tolist() == [0, 1, 2]
    assert Region.box(180, -2, 183, 2).window(grid) == (8, 0, 4, 3)


def test_a_site_on_an_edge_belongs_to_the_box():
    sites = Sites(["w", "e", "corner", "out"], [10.0, 11.0, 11.0, 11.5], [45.5, 45.2, 46.0, 45.5])
    np.testing.assert_array_equal(
        Region.box(10, 45, 11, 46).of_sites(sites), [True, True, True, False]
    )
