"""Opening refuses every cube that would damage silently, in one line that names the place."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from small_cube import Small, create, grid, optical

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.format import check_dates
from data_zarr.grid import Grid
from data_zarr.write import seal


def fails(path: Path) -> str:
    with pytest.raises(CubeError) as caught:
        open_cube(path)
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.exit_code == 3
    assert path.name in line
    return line


def test_what_a_cube_knows(intact: Small) -> None:
    cube = open_cube(intact.path)
    info = cube.bandsets["s2_l1c"]
    assert (cube.title, list(cube.bandsets), list(cube.targets)) == (
        "small",
        ["s2_l1c", "s1_db"],
        ["agb"],
    )
    assert info.shape == (3, 13, 100, 70)
    assert info.chunks == (1, 13, 64, 64)
    assert info.shards == (3, 13, 64, 64)
    assert info.dates[0] == np.datetime64("2019-05-01T10:00:00")
    assert info.platform.tolist() == [1, 1, 2]
    assert info.dtype == np.int16
    assert info.nodata == -9999
    assert info.bands[3].wavelength == pytest.approx(0.6646)
    assert (info.bands[3].scale, info.bands[3].offset) == (1e-4, 0.0)
    assert cube.targets["agb"].bounds == (0.0, 500.0)
    assert cube.targets["agb"].unit == "Mg ha-1"
    np.testing.assert_array_equal(cube.target("agb"), intact.target)


def test_pickles_as_a_path(intact: Small) -> None:
    cube = open_cube(intact.path)
    again = pickle.loads(pickle.dumps(cube))
    assert again.digest() == cube.digest()


def test_opens_in_plain_xarray_georeferenced(intact: Small) -> None:
    """Nothing of this package is needed to read a cube as CF."""
    from pyproj import CRS

    data = xr.open_zarr(
        intact.path, group="s2_l1c", consolidated=False, chunks=None, decode_coords="all"
    )
    reference = data["spatial_ref"].attrs
    assert CRS.from_wkt(reference["crs_wkt"]).to_epsg() == 32633
    assert [float(v) for v in reference["GeoTransform"].split()] == [
        *(500000.0, 10.0, 0.0, 5080000.0, 0.0, -10.0)
    ]
    assert data["pixels"].encoding["grid_mapping"] == "spatial_ref"
    assert float(data["x"][0]) == 500005.0
    assert float(data["y"][0]) == 5079995.0
    assert data["band"].values.tolist()[:2] == ["B01", "B02"]
    values = data["pixels"].sel(band="B04").isel(time=0).values
    assert np.isnan(values[0, 0])  # nodata
    np.testing.assert_allclose(values[1], intact.pixels[0, 3, 1] * 1e-4, rtol=1e-6)
    np.testing.assert_array_equal(data["valid"].values[1], intact.valid[1])


def test_to_xarray_decodes_a_scale_for_each_band(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    scales = tuple(np.linspace(1e-4, 2e-4, 13))
    pixels = np.full((3, 13, 100, 70), 1000, np.int16)
    with create(path, bandsets=[optical(scale=scales)], targets=[]) as writer:
        writer.write("s2_l1c", 0, 0, pixels)
    data = open_cube(path).to_xarray("s2_l1c")
    np.testing.assert_allclose(data["pixels"][0, :, 0, 0], 1000 * np.asarray(scales), rtol=1e-6)


def test_geozarr_attributes_say_the_same_as_cf(intact: Small) -> None:
    """The two spellings of the transform name the same corner."""
    attrs = json.loads((intact.path / "s2_l1c" / "zarr.json").read_text())["attributes"]
    assert attrs["spatial:transform"] == [10.0, 0.0, 500000.0, 0.0, -10.0, 5080000.0]
    assert attrs["proj:code"] == "EPSG:32633"
    assert {c["name"] for c in attrs["zarr_conventions"]} == {"spatial", "proj"}


def test_no_such_cube(tmp_path: Path) -> None:
    assert "no such cube in" in fails(tmp_path / "nowhere.zarr")


def test_zarr_v2_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    assert "not a Zarr v3 store" in (line := fails(tmp_path / "old.zarr"))
    assert "found Zarr v2" in line


def test_a_store_that_is_no_cube(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    assert "unknown layout" in fails(tmp_path / "other.zarr")


def test_a_later_format_version(small: Small) -> None:
    small.edit("", lambda d: d["attributes"].update(format_version=99), sealed=True)
    assert "expected format 'rsvlm-cube' version 1 or 2; found 'rsvlm-cube' version 99" in fails(
        small.path
    )


def test_incomplete_cube(small: Small) -> None:
    (small.path / "manifest.json").unlink()
    assert "incomplete cube in" in fails(small.path)


def test_damaged_manifest(small: Small) -> None:
    path = small.path / "manifest.json"
    path.write_text(path.read_text()[:200])
    assert "unreadable manifest in" in fails(small.path)


def test_cube_without_crs(small: Small) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["attributes"]["proj:wkt2"], document["attributes"]["proj:code"]

    small.edit("", change, sealed=True)
    assert "cube without CRS in" in (line := fails(small.path))
    assert "expected attribute proj:wkt2 or proj:code; found neither" in line


def test_wrong_zone(small: Small) -> None:
    """The CRS of the next zone: the position no longer agrees with the stated degrees."""
    other = Grid.from_epsg(32634, grid().transform, 100, 70)

    def change(document: dict[str, Any]) -> None:
        document["attributes"].update({"proj:wkt2": other.crs_wkt, "proj:code": "EPSG:32634"})

    small.edit("", change, sealed=True)
    assert "CRS or transform disagrees with the stated position" in fails(small.path)


def test_two_different_crs(small: Small) -> None:
    small.edit("", lambda d: d["attributes"].update({"proj:code": "EPSG:32634"}), sealed=True)
    assert "two different CRS in" in fails(small.path)


def test_ascending_y(small: Small) -> None:
    array = zarr.open_array(small.path / "s2_l1c" / "y", mode="r+")
    array[:] = array[:][::-1]
    seal(small.path)
    assert "coordinate y disagrees with the transform" in fails(small.path)


@pytest.mark.parametrize(
    ("transform", "epsg", "problem"),
    [
        ((10.0, 0.0, 0.0, 0.0, 10.0, 0.0), 32633, "grid is not north-up"),
        ((10.0, 1.0, 0.0, 0.0, -10.0, 0.0), 32633, "grid is not north-up"),
        ((0.1, 0.0, 10.0, 0.0, -0.1, 130.0), 4326, "latitude and longitude may be swapped"),
    ],
)
def test_impossible_grid(transform: Any, epsg: int, problem: str) -> None:
    with pytest.raises(CubeError, match=problem):
        Grid.from_epsg(epsg, transform, 100, 70).check("here")


def test_cube_without_dates(small: Small) -> None:
    (small.path / "s2_l1c" / "time" / "zarr.json").unlink()
    assert "no dates in" in (line := fails(small.path))
    assert "expected a time coordinate" in line


def _set_time(small: Small, change: Callable[[np.ndarray], np.ndarray]) -> None:
    array = zarr.open_array(small.path / "s2_l1c" / "time", mode="r+")
    array[:] = change(np.asarray(array[:]))
    seal(small.path)


def test_unsorted_dates(small: Small) -> None:
    _set_time(small, lambda t: t[[1, 0, 2]])
    assert "dates are not sorted in" in (line := fails(small.path))
    assert "found 2019-06-01T10:00:00 before 2019-05-01T10:00:00 at 0" in line


def test_platform_repeats_an_instant(small: Small) -> None:
    _set_time(small, lambda t: t[[0, 0, 2]])
    assert "a platform repeats an instant in" in (line := fails(small.path))
    assert "sentinel-2a twice at 2019-05-01T10:00:00" in line


@pytest.mark.parametrize("rows", [(64, 64, 64), (1, 1, -1)])
def test_platform_that_the_cube_does_not_know(small: Small, rows: tuple[int, ...]) -> None:
    zarr.open_array(small.path / "s2_l1c" / "platform", mode="r+")[:] = np.asarray(rows)
    seal(small.path)
    assert "platform outside the cube's own table in" in (line := fails(small.path))
    assert f"found {rows[-1]};" in line


@pytest.mark.parametrize("row", [64, -1])
def test_check_dates_refuses_a_platform_that_is_not_in_the_table(row: int) -> None:
    dates = np.array(["2019-01-01", "2019-01-01"], "datetime64[s]")
    with pytest.raises(CubeError, match=f"no such platform in here; .*found {row};"):
        check_dates(dates, [row, row], "here")


def test_permuted_bands(small: Small) -> None:
    def change(document: dict[str, Any]) -> None:
        bands = document["attributes"]["bands"]
        bands[1], bands[2] = bands[2], bands[1]

    small.edit("s2_l1c", change, sealed=True)
    assert "bands permuted or missing in" in (line := fails(small.path))
    assert "B01, B02, B03" in line
    assert "B01, B03, B02" in line


def test_edited_shape(small: Small) -> None:
    """A bigger shape would be read as nodata beyond the data."""
    small.edit("s2_l1c/pixels", lambda d: d["shape"].__setitem__(0, 4), sealed=False)
    assert "dates and pixels differ" in fails(small.path)


def test_edited_metadata(small: Small) -> None:
    """Any edit that the rules cannot see is seen by its digest; `seal` accepts it."""
    small.edit("s2_l1c", lambda d: d["attributes"]["bands"][3].update({"raster:scale": 1e-3}),
               sealed=False)  # fmt: skip
    assert "changed metadata in" in fails(small.path)
    seal(small.path)
    assert open_cube(small.path).bandsets["s2_l1c"].bands[3].scale == 1e-3


@pytest.mark.parametrize("name", ["bandset", "target"])
def test_unknown_name_is_suggested(intact: Small, name: str) -> None:
    cube = open_cube(intact.path)
    ask = cube.bandset if name == "bandset" else cube.target
    wrong, right = ("s2_l2c", "s2_l1c") if name == "bandset" else ("abg", "agb")
    with pytest.raises(CubeError, match=f"found '{wrong}'; did you mean '{right}'"):
        ask(wrong)


def test_digest_follows_every_byte(small: Small) -> None:
    before = open_cube(small.path).digest()
    array = zarr.open_array(small.path / "targets" / "agb", mode="r+")
    array[50, 50] = 1.0
    seal(small.path)
    assert open_cube(small.path).digest() != before


def test_grid_in_degrees() -> None:
    degrees = Grid.from_epsg(4326, (1e-4, 0.0, -0.78, 0.0, -1e-4, 38.12), 512, 512)
    # WGS 84 at 38 degrees north: 87.8 km a degree of longitude, 111.0 of latitude.
    assert degrees.gsd == pytest.approx(np.sqrt(8.78 * 11.10), rel=2e-3)
    lon, lat = degrees.lonlat(0, 0)
    assert (float(lon), float(lat)) == pytest.approx((-0.78, 38.12))


def test_grid_window_is_the_same_place() -> None:
    whole = grid()
    part = whole.window(30, 20, 8, 5)
    np.testing.assert_array_equal(part.x, whole.x[20:25])
    np.testing.assert_array_equal(part.y, whole.y[30:38])
    np.testing.assert_allclose(part.lonlat(4, 2.5), whole.lonlat(34, 22.5), rtol=0, atol=1e-12)
    assert whole.gsd == 10.0
    # The central meridian of zone 33 is 15 degrees east: x = 500 000 m.
    assert float(whole.lonlat(0, 0)[0]) == pytest.approx(15.0, abs=1e-9)
