"""NetCDF, Zarr and plain arrays: by name, scaled once, north up, in UTC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from archives import recipe
from pyproj import CRS

from data_zarr import open_cube
from data_zarr.errors import CubeError
from data_zarr.ingest import BandSetRecipe, build, make_plan
from data_zarr.ingest.sources import Arrays, Gridded
from data_zarr.sensors import PLATFORMS

T, H, W = 3, 12, 15
TIMES = np.asarray(["2020-01-01", "2020-02-01", "2020-03-01"], "datetime64[ns]")
LAT, LON = 46.0 - 0.1 * np.arange(H), 15.0 + 0.1 * np.arange(W)


def dataset(**more: Any) -> xr.Dataset:
    """Packed reflectances of two bands on a grid in degrees."""
    rng = np.random.default_rng(0)
    coords = {"time": TIMES, "lat": LAT, "lon": LON, **more}
    data = {
        name: (("time", "lat", "lon"), rng.uniform(0.01, 0.5, (T, H, W)))
        for name in ("red", "nir08")
    }
    data["red"][1][0, 0, 0] = np.nan
    out = xr.Dataset(data, coords)
    for name in data:
        out[name].encoding = {
            "dtype": "int16",
            "scale_factor": 1e-4,
            "add_offset": 0.0,
            "_FillValue": -9999,
        }
    return out


def item(path: Path, **more: Any) -> BandSetRecipe:
    return BandSetRecipe("landsat_sr6", (Gridded(str(path), **more),), bands=("nir08", "red"))


@pytest.mark.parametrize("kind", ["nc", "zarr"])
@pytest.mark.parametrize("ascending", [False, True])
def test_y_ascending(tmp_path: Path, kind: str, ascending: bool) -> None:
    """Rows from the south are flipped, and said to be; either way each number keeps its place."""
    data = dataset()
    path = tmp_path / f"d.{kind}"
    stored = data.isel(lat=slice(None, None, -1)) if ascending else data
    for name in stored.data_vars:
        stored[name].encoding = data[name].encoding
    _ = stored.to_netcdf(path) if kind == "nc" else stored.to_zarr(path, consolidated=False)
    plan = make_plan(recipe(item(path)))
    assert any("flipped" in n for n in plan.notes) == ascending
    build(recipe(item(path)), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    assert cube.grid.epsg == 4326
    np.testing.assert_allclose(cube.grid.y, LAT)
    info = cube.bandsets["landsat_sr6"]
    assert (str(info.dtype), info.bands[0].scale) == ("int16", 1e-4)
    values = cube.to_xarray("landsat_sr6")["pixels"].values
    np.testing.assert_allclose(values[:, 0], data["nir08"].values, atol=5.1e-5)
    valid = cube.reader("landsat_sr6").read(0, 0, H, W)[1]
    assert not valid[0, 0, 0, 0]
    assert valid.sum() == T * H * W - 1


def test_one_variable_with_a_band_axis_in_metres(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 0.5, (T, 2, H, W)).astype(np.float32)
    x, y = 500005.0 + 10 * np.arange(W), 5000000.0 - 10 * np.arange(H)
    array = xr.DataArray(values, {"time": TIMES, "band": ["B08", "B04"], "y": y, "x": x},
                         ("time", "band", "y", "x"), name="refl")  # fmt: skip
    array.attrs["grid_mapping"] = "crs"
    data = array.to_dataset().assign(crs=((), 0, CRS.from_epsg(32633).to_cf()))
    data.to_netcdf(tmp_path / "d.nc")
    source = Gridded(str(tmp_path / "d.nc"), variable="refl")
    bands = BandSetRecipe("s2_l2a", (source,), bands=("B04", "B08"))
    build(recipe(bands), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    assert cube.grid.epsg == 32633
    pixels, _ = cube.reader("s2_l2a").read(0, 0, H, W)
    np.testing.assert_array_equal(pixels, values[:, ::-1])
    permuted = Gridded(str(tmp_path / "d.nc"), variable="refl", channels=("B04", "B08"))
    with pytest.raises(CubeError, match=r"bands permuted .* expected B04 at 1, as the file says"):
        make_plan(recipe(BandSetRecipe("s2_l2a", (permuted,), bands=("B04",))))


def test_double_scaling(tmp_path: Path) -> None:
    """Unpacked floats that still bear their packing; and such without, which only numbers tell."""
    data = dataset()
    for name in data.data_vars:
        data[name].encoding = {}
        data[name].attrs["scale_factor"] = 1e-4
    data.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(CubeError, match=r"scaled twice .* still bears scale_factor 0\.0001"):
        make_plan(recipe(item(tmp_path / "a.nc")))
    (dataset() * 1e-4).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(CubeError, match=r"scaled twice .* the brightest hundredth above"):
        build(recipe(item(tmp_path / "b.nc")), tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_numbers_that_were_not_scaled(tmp_path: Path) -> None:
    (dataset() * 1e4).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(CubeError, match=r"impossible reflectances .* digital numbers\?"):
        build(recipe(item(tmp_path / "a.nc")), tmp_path / "c.zarr")


def test_lat_lon_swapped(tmp_path: Path) -> None:
    data = dataset(lat=100.0 - 0.1 * np.arange(H))
    data.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(CubeError, match=r"latitude and longitude are swapped .*: lat; .* 98\.9"):
        make_plan(recipe(item(tmp_path / "a.nc")))
    named = dataset()
    named["lat"].attrs["units"] = "degrees_east"
    named.to_netcdf(tmp_path / "b.nc")
    with pytest.raises(CubeError, match="latitude and longitude are swapped"):
        make_plan(recipe(item(tmp_path / "b.nc")))


def test_nat(tmp_path: Path) -> None:
    data = dataset(time=np.asarray(["2020-01-01", "NaT", "2020-03-01"], "datetime64[ns]"))
    data.to_zarr(tmp_path / "a.zarr", consolidated=False)
    with pytest.raises(CubeError, match=r"date missing .* found nothing at 1"):
        make_plan(recipe(item(tmp_path / "a.zarr")))


def test_dates_without_an_instant(tmp_path: Path) -> None:
    """Units that are none, and years of 360 days, whose dates are no instants."""
    for units, calendar in (("days since soon", "standard"), ("days since 2020-02-28", "360_day")):
        days = ("time", np.arange(T), {"units": units, "calendar": calendar})
        dataset().drop_vars("time").assign_coords(time=days).to_netcdf(tmp_path / "a.nc")
        with pytest.raises(CubeError, match=r"unreadable dates? in .*a\.nc: time"):
            make_plan(recipe(item(tmp_path / "a.nc")))


def test_duplicate_dates(tmp_path: Path) -> None:
    data = dataset(time=TIMES[[0, 0, 2]])
    data.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(CubeError, match=r"a platform repeats an instant .* a\.nc@0 and a\.nc@1"):
        make_plan(recipe(item(tmp_path / "a.nc")))


def test_unsorted_dates(tmp_path: Path) -> None:
    """Brought into order, each with its own pixels, and said so."""
    data = dataset().isel(time=[2, 0, 1])
    data.to_netcdf(tmp_path / "a.nc")
    plan = make_plan(recipe(item(tmp_path / "a.nc")))
    assert any("order of time" in n for n in plan.notes)
    build(recipe(item(tmp_path / "a.nc")), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    np.testing.assert_array_equal(cube.bandsets["landsat_sr6"].dates, TIMES)
    values = cube.to_xarray("landsat_sr6")["pixels"].values
    np.testing.assert_allclose(values[:, 0], dataset()["nir08"].values, atol=5.1e-5)


def test_bands_missing_and_renamed(tmp_path: Path) -> None:
    data = dataset().rename(red="rouge")
    data.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(CubeError, match=r"band is missing .* expected red .*; found rouge, nir08"):
        make_plan(recipe(item(tmp_path / "a.nc")))
    plan = make_plan(recipe(item(tmp_path / "a.nc", variables={"red": "rouge"})))
    assert plan.bandsets[0].scenes[0].layers[1].variable == "rouge"


def test_no_crs_and_two_crs(tmp_path: Path) -> None:
    data = dataset().rename(lat="y", lon="x")
    data.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(CubeError, match=r"file without CRS .* a grid mapping, or `crs`"):
        make_plan(recipe(item(tmp_path / "a.nc")))
    mapped = dataset().assign(spatial_ref=((), 0, CRS.from_epsg(4326).to_cf()))
    mapped.to_netcdf(tmp_path / "b.nc")
    with pytest.raises(CubeError, match="two different CRS"):
        make_plan(recipe(item(tmp_path / "b.nc", crs="EPSG:32633")))


def test_chips_of_an_hdf5_file(tmp_path: Path) -> None:
    """Dates in product names, as byte strings; a mask of usable pixels; power to dB."""
    rng = np.random.default_rng(0)
    power = rng.uniform(0.001, 0.3, (T, 2, 6, 6)).astype(np.float32)
    names = [f"S1A_IW_GRDH_2017{m:02d}05T051212_X".encode() for m in (3, 1, 2)]
    usable = np.ones((T, 6, 6), np.uint8)
    usable[0, 2, 3] = 0
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["sar"], file["names"], file["ok"] = power, names, usable
    source = Arrays(str(tmp_path / "p.h5"), "sar", channels=("VV", "VH"), crs="EPSG:32632",
                    transform=(10, 0, 5e5, 0, -10, 5.6e6), dates="names", date="%Y%m%dT%H%M%S",
                    units="linear", mask="ok", mask_valid=True, platform="product")  # fmt: skip
    build(recipe(BandSetRecipe("s1_db", (source,))), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    assert str(cube.bandsets["s1_db"].dates[2]) == "2017-03-05T05:12:12"
    assert cube.bandsets["s1_db"].platform.tolist() == [PLATFORMS.index("sentinel-1a")] * T
    pixels, valid = cube.reader("s1_db").read(0, 0, 6, 6)
    np.testing.assert_allclose(pixels, 10 * np.log10(power[[1, 2, 0]]), rtol=1e-5)
    assert not valid[2, 0, 2, 3]
    assert valid.sum() == T * 36 - 1


def test_numpy_arrays_in_another_order_of_axes(tmp_path: Path) -> None:
    ndvi = np.random.default_rng(0).uniform(-1, 1, (8, 9, T, 1)).astype(np.float32)
    when = TIMES.astype("datetime64[D]").astype(str)
    np.savez(tmp_path / "a.npz", ndvi=ndvi, when=when)
    place = {"crs": "EPSG:32633", "transform": (10, 0, 5e5, 0, -10, 5e6)}
    source = Arrays(str(tmp_path / "a.npz"), "ndvi", dims="yxtc", channels=("ndvi",),
                    dates="when", **place)  # fmt: skip
    build(recipe(BandSetRecipe("ndvi", (source,))), tmp_path / "c.zarr")
    pixels, _ = open_cube(tmp_path / "c.zarr").reader("ndvi").read(0, 0, 8, 9)
    np.testing.assert_array_equal(pixels, ndvi.transpose(2, 3, 0, 1))


def test_pickled_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ndvi=np.asarray([{"a": 1}], object))
    source = Arrays(str(tmp_path / "a.npz"), "ndvi", channels=("ndvi",))
    with pytest.raises(CubeError, match="pickled array"):
        make_plan(recipe(BandSetRecipe("ndvi", (source,))))
