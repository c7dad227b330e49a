"""CRS and transform come back unchanged through plain xarray, rioxarray and GDAL.

The wheels of rasterio carry GDAL 3.10, whose Zarr driver reads no sharded arrays (GDAL 3.13 does),
so GDAL sees the cube as the GeoTIFF that `write_geotiff` and rioxarray make of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers `.rio`)
import xarray as xr
from small_cube import create

from data_zarr.cube import Cube, open_cube
from data_zarr.grid import Grid
from data_zarr.layout import BandSetData
from data_zarr.maps import write_geotiff, write_map
from data_zarr.sensors import BANDSETS

HEIGHT, WIDTH = 70, 50
GRIDS = {
    "utm": Grid.from_epsg(32633, (10.0, 0.0, 500020.0, 0.0, -10.0, 5080010.0), HEIGHT, WIDTH),
    "south": Grid.from_epsg(32733, (30.0, 0.0, 300015.0, 0.0, -30.0, 8e6), HEIGHT, WIDTH),
    "lonlat": Grid.from_epsg(4326, (1 / 3600, 0.0, -3.7, 0.0, -1 / 3600, 40.4), HEIGHT, WIDTH),
}
SETS = {"ten": 1, "twenty": 2}


@pytest.fixture(scope="module", params=GRIDS)
def cube(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cube:
    path = tmp_path_factory.mktemp(request.param) / "cube.zarr"
    row = BANDSETS["s2_l2a"]
    sets = [
        BandSetData(n, row.kind, row.bands[:2], ["2020-01-01"], scale=1e-4, factor=f)
        for n, f in SETS.items()
    ]
    with create(path, grid=GRIDS[request.param], bandsets=sets, targets=[], shard=128) as writer:
        for name in SETS:
            shape = writer.bandsets[name].shape
            writer.write(name, 0, 0, np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    return open_cube(path)


def plain(cube: Cube, name: str) -> xr.Dataset:
    """As somebody opens it who has never heard of this package."""
    return xr.open_zarr(
        str(cube.path), group=name, consolidated=False, decode_coords="all", chunks=None
    )


@pytest.mark.parametrize("name", SETS)
def test_plain_xarray(cube: Cube, name: str) -> None:
    grid, data = cube.grid_of(name), plain(cube, name)
    a, b, c, d, e, f = grid.transform
    mapping = data["spatial_ref"].attrs
    assert [float(v) for v in mapping["GeoTransform"].split()] == [c, a, b, f, d, e]
    assert mapping["crs_wkt"] == grid.crs_wkt
    np.testing.assert_array_equal(data["x"].values, grid.x)
    np.testing.assert_array_equal(data["y"].values, grid.y)
    assert data.attrs["spatial:transform"] == [a, b, c, d, e, f]
    assert data.attrs["proj:code"] == f"EPSG:{grid.epsg}"


@pytest.mark.parametrize("labelled", [False, True], ids=["plain", "to_xarray"])
@pytest.mark.parametrize("name", SETS)
def test_rioxarray(cube: Cube, name: str, labelled: bool) -> None:
    grid = cube.grid_of(name)
    data: Any = cube.to_xarray(name) if labelled else plain(cube, name)
    pixels = data["pixels"]
    assert pixels.rio.crs.to_epsg() == grid.epsg
    assert tuple(pixels.rio.transform())[:6] == grid.transform
    assert (pixels.rio.height, pixels.rio.width) == (grid.height, grid.width)
    assert pixels.rio.bounds() == pytest.approx(grid.bounds, rel=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_gdal_by_geotiff(cube: Cube, name: str, tmp_path: Path) -> None:
    """Our writer and rioxarray's: the same CRS, transform and numbers in rasterio.

    rioxarray works the transform out again from the axes, which rounds degrees.
    """
    grid = cube.grid_of(name)
    stored, _ = cube.reader(name).read(0, 0, grid.height, grid.width)
    write_geotiff(tmp_path / "ours.tif", grid, {"B01": stored[0, 0], "B02": stored[0, 1]}, -9999)
    raw = xr.open_zarr(
        str(cube.path), group=name, consolidated=False, decode_coords="all", chunks=None,
        mask_and_scale=False,
    )  # fmt: skip
    layer = raw["pixels"].isel(time=0).drop_vars(["time", "platform", "band"])
    layer.attrs.clear()
    layer.rio.to_raster(tmp_path / "theirs.tif")
    rounded = pytest.approx(grid.transform, rel=1e-13)
    for file, expected in (("ours.tif", grid.transform), ("theirs.tif", rounded)):
        with rasterio.open(tmp_path / file) as raster:
            assert raster.crs.to_epsg() == grid.epsg
            assert tuple(raster.transform)[:6] == expected
            np.testing.assert_array_equal(raster.read(), stored[0])


def test_maps(cube: Cube, tmp_path: Path) -> None:
    grid = cube.grid
    values = np.random.default_rng(0).random((HEIGHT, WIDTH)).astype(np.float32)
    out = write_map(tmp_path / "map.zarr", grid, {"agb": (values, {})})
    data = xr.open_zarr(out, consolidated=False, decode_coords="all", chunks=None)
    assert data["agb"].rio.crs.to_epsg() == grid.epsg
    assert tuple(data["agb"].rio.transform())[:6] == grid.transform
