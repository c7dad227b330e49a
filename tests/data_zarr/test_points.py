"""Point cubes: places instead of a raster, dates of each site, labels to split by."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from small_points import NAT, S, T, create, numbers, optical, own_dates, radar, sites, write

from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError
from data_zarr.manifest import seal
from data_zarr.read import Backend, Reader
from data_zarr.sampling import window_table
from data_zarr.schema import validate
from data_zarr.sites import Sites
from data_zarr.splits import group_split
from data_zarr.stats import band_stats


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("points") / "points.zarr"
    write(path)
    return path


@pytest.fixture
def cube(path: Path) -> Cube:
    return open_cube(path)


@pytest.fixture
def copied(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "copy.zarr"))


# ---- what comes back -----------------------------------------------------------------------------


def test_opens_as_a_raster_of_sites(cube: Cube) -> None:
    assert cube.points
    assert (cube.grid.height, cube.grid.width) == (S, 1)
    assert cube.grid == cube.grid_of("s2_l2a") == sites()
    info = cube.bandsets["s2_l2a"]
    assert info.shape == (T, 3, S, 1)
    assert not info.year_known
    assert cube.bandsets["s1_db"].year_known
    np.testing.assert_array_equal(info.dates, own_dates())
    assert info.platform.shape == (T, S)
    assert cube.bandsets["s1_db"].dates.shape == (2,)
    lon, lat = cube.grid.lonlat(np.array([3.5]), 0.5)
    assert (lon[0], lat[0]) == (11.5, 45.25)
    assert np.isnan(cube.grid.gsd)


def test_labels(cube: Cube) -> None:
    assert cube.labels["region"].tolist() == ["alps"] * 4 + ["karst"] * 3 + ["coast"] * 2
    assert cube.labels["year"].dtype == np.int64
    assert cube.labels["is_test"].dtype == bool


@pytest.mark.parametrize("backend", ["tensorstore", "zarr"])
@pytest.mark.parametrize("preload", [False, True])
def test_a_window_of_size_one_is_a_site(path: Path, backend: Backend, preload: bool) -> None:
    found = numbers()
    dated = ~np.isnat(own_dates())[:, None, :, None]
    info = open_cube(path).bandsets["s2_l2a"]
    reader = Reader(path, info, None, preload=preload, backend=backend)
    pixels, valid = reader.read(4, 0, 3, 1)
    np.testing.assert_array_equal(pixels, found["s2_l2a"][:, :, 4:7])
    np.testing.assert_array_equal(valid, (found["valid"][:, None] & dated)[:, :, 4:7])
    assert len(window_table(S, 1, 1, 1)) == S


def test_a_value_without_a_date_is_not_valid(cube: Cube) -> None:
    _, valid = cube.reader("s2_l2a").read(0, 0, S, 1)
    assert not valid[:, 0, :, 0][np.isnat(own_dates())].any()


def test_targets_are_one_number_a_site(cube: Cube, path: Path) -> None:
    np.testing.assert_array_equal(cube.target("moisture")[:, 0], numbers()["moisture"])
    assert zarr.open_array(path / "targets/moisture", mode="r").shape == (S,)


def test_it_validates_deeply(path: Path) -> None:
    report = validate(path, deep=True)
    assert report.ok, str(report)
    assert "no value is valid without a date" in str(report)


def test_pickles(cube: Cube) -> None:
    again = pickle.loads(pickle.dumps(cube))
    assert again.digest() == cube.digest()
    assert again.grid == cube.grid


def test_labelled_view(cube: Cube) -> None:
    data = cube.to_xarray("s2_l2a")
    assert data["pixels"].dims == ("time", "band", "site")
    np.testing.assert_array_equal(data["time"].values.astype("datetime64[s]"), own_dates())
    assert {"site", "lon", "lat", "platform", "time"} <= set(data.coords)
    assert data["site"].values.tolist() == sites().ids.tolist()
    expected = numbers()["s2_l2a"][..., 0] * 1e-4
    np.testing.assert_allclose(data["pixels"].values, expected, rtol=1e-6)
    radar = cube.to_xarray("s1_db")
    assert radar["pixels"].sel(time="2001-04-05").isel(site=3).shape == (2,)


def test_plain_xarray_and_the_conventions(path: Path) -> None:
    data = xr.open_zarr(path, group="s2_l2a", consolidated=False, chunks=None)
    assert data.attrs["featureType"] == "timeSeries"
    assert data["site"].attrs["cf_role"] == "timeseries_id"
    assert data["lat"].attrs["standard_name"] == "latitude"
    labels = xr.open_zarr(path, group="labels", consolidated=False, chunks=None)
    assert labels["is_test"].values.sum() == 3


def test_statistics_and_leave_region_out(cube: Cube) -> None:
    windows = np.stack([np.arange(S), np.zeros(S, int)], axis=1)
    stats = band_stats(cube, "s2_l2a", windows, 1)
    pixels, valid = cube.reader("s2_l2a").read(0, 0, S, 1)
    at = np.broadcast_to(valid, pixels.shape)
    np.testing.assert_allclose(stats.mean[1], pixels[:, 1][at[:, 1]].mean() * 1e-4)
    split = group_split(cube.labels["region"], "karst")
    assert split.test.tolist() == [4, 5, 6]


def test_an_unfinished_write_resumes(tmp_path: Path) -> None:
    """Shards of three sites, written in two runs: the bytes of one run."""
    found, paths = numbers(), [tmp_path / "one.zarr", tmp_path / "two.zarr"]

    def fill(writer: Any, places: Any) -> None:
        for y, x in places:
            rows = slice(y, y + 3)
            writer.write("s2_l2a", y, x, found["s2_l2a"][:, :, rows], found["valid"][:, rows])
            writer.write("s1_db", y, x, found["s1_db"][:, :, rows])
            writer.write_target("moisture", y, x, found["moisture"][rows])

    with create(paths[0], shard=3) as writer:
        assert list(writer.regions("s2_l2a")) == [(0, 0), (3, 0), (6, 0)]
        fill(writer, writer.regions())
    first = create(paths[1], shard=3)
    fill(first, [(3, 0)])
    with pytest.raises(CubeError, match="cube is not finished"):
        first.close()
    with create(paths[1], shard=3) as again:
        fill(again, [p for p in again.regions() if not again.done("moisture", *p)])
    assert open_cube(paths[1]).digest() == open_cube(paths[0]).digest()


def test_a_resumed_run_must_bring_the_same_sites(tmp_path: Path) -> None:
    create(tmp_path / "c.zarr")
    with pytest.raises(CubeError, match="an unfinished cube of other arguments"):
        create(tmp_path / "c.zarr", grid=sites(lat=46.5 - 0.25 * np.arange(S)))


def test_static_layer_and_a_mask_for_each_band(tmp_path: Path) -> None:
    found = numbers()
    valid = np.random.default_rng(1).random(found["s2_l2a"].shape) < 0.5
    terrain = radar(name="terrain", dates=None, static=True)
    with create(
        tmp_path / "c.zarr", bandsets=[optical(valid_per_band=True), terrain], targets=[]
    ) as writer:
        writer.write("s2_l2a", 0, 0, found["s2_l2a"], valid)
        writer.write("terrain", 0, 0, found["s1_db"][:1])
    cube = open_cube(tmp_path / "c.zarr")
    dated = ~np.isnat(own_dates())[:, None, :, None]
    np.testing.assert_array_equal(cube.reader("s2_l2a").read(0, 0, S, 1)[1], valid & dated)
    assert cube.bandsets["terrain"].static
    assert cube.bandsets["s2_l2a"].valid_per_band


# ---- refusals ------------------------------------------------------------------------------------


def refused(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(CubeError) as caught:
        create(tmp_path / "c.zarr", **changes)
    assert not (tmp_path / "c.zarr").exists()
    return str(caught.value)


def with_dates(column: int, *dates: Any) -> dict[str, Any]:
    every = own_dates()
    every[:, column] = np.array(dates, "datetime64[s]")
    return {"bandsets": [optical(dates=every)]}


def test_a_missing_date_before_a_real_one(tmp_path: Path) -> None:
    line = refused(tmp_path, **with_dates(2, "2001-03-01", NAT, "2001-04-01", NAT))
    assert "a missing date before a real one in s2_l2a" in line
    assert "NaT at 1 of site 'plot-2'" in line


def test_dates_of_a_site_out_of_order(tmp_path: Path) -> None:
    line = refused(tmp_path, **with_dates(4, "2001-03-02", "2001-03-01", NAT, NAT))
    assert "dates are not sorted in s2_l2a" in line
    assert "2001-03-02T00:00:00 before 2001-03-01T00:00:00 at 0 of site 'plot-4'" in line


def test_an_instant_repeated_at_a_site(tmp_path: Path) -> None:
    line = refused(tmp_path, **with_dates(7, "2001-03-02", "2001-03-02", NAT, NAT))
    assert "a platform repeats an instant" in line
    assert "sentinel-2a twice at 2001-03-02T00:00:00 of site 'plot-7'" in line


def test_two_platforms_may_share_an_instant_at_a_site(tmp_path: Path) -> None:
    changes = with_dates(7, "2001-03-02", "2001-03-02", NAT, NAT)
    platform = np.full((T, S), "sentinel-2a", object)
    platform[1, 7] = "sentinel-2b"
    changes["bandsets"][0].platform = platform
    create(tmp_path / "c.zarr", **changes)


def test_shared_dates_may_not_be_missing(tmp_path: Path) -> None:
    line = refused(tmp_path, bandsets=[radar(dates=["2001-03-05", NAT])])
    assert "date missing in s1_db" in line


def test_dates_of_another_number_of_sites(tmp_path: Path) -> None:
    line = refused(tmp_path, bandsets=[optical(dates=own_dates()[:, 1:])])
    assert (
        f"dates of another shape in s2_l2a; expected [T] or [T, {S}]; found [{T}, {S - 1}]" in line
    )


def test_longitude_and_latitude_swapped(tmp_path: Path) -> None:
    line = refused(tmp_path, grid=sites(lon=np.full(S, 46.0), lat=100.0 + np.arange(S)))
    assert "degrees outside the earth" in line
    assert "lon 46, lat 100 at site 'plot-0'; latitude and longitude may be swapped" in line


def test_a_place_that_is_not_a_number(tmp_path: Path) -> None:
    line = refused(tmp_path, grid=sites(lat=np.full(S, np.nan)))
    assert "degrees outside the earth" in line
    assert "swapped" not in line


def test_sites_repeated(tmp_path: Path) -> None:
    line = refused(tmp_path, grid=sites(ids=["a", "b", "a", *"cdefgh"]))
    assert "sites repeated or without a name" in line
    assert "found a; one row a site" in line


def test_labels_of_another_length(tmp_path: Path) -> None:
    line = refused(tmp_path, grid=sites(labels={"region": ["alps"] * 3}))
    assert (
        f"region is of another length than the sites in {tmp_path}/c.zarr; expected {S}; " in line
    )


def test_places_of_another_length(tmp_path: Path) -> None:
    assert "lat is of another length" in refused(tmp_path, grid=sites(lat=[46.0]))


def test_a_label_of_fractions() -> None:
    with pytest.raises(CubeError, match=r"neither text, a whole number nor a flag.*found float64"):
        Sites(["a"], [1.0], [2.0], labels={"depth": [0.5]})


def test_a_label_named_as_a_coordinate(tmp_path: Path) -> None:
    assert "a label cannot be named so" in refused(tmp_path, grid=sites(labels={"lon": [1] * S}))


def test_no_sites(tmp_path: Path) -> None:
    assert "no sites" in refused(tmp_path, grid=Sites([], [], []))


def test_a_factor_among_points(tmp_path: Path) -> None:
    assert "points have no pixel size" in refused(tmp_path, bandsets=[radar(factor=2)])


def test_sites_of_a_band_set_in_another_order(copied: Path) -> None:
    stored = zarr.open_array(copied / "s1_db" / "site", mode="r+")
    stored[...] = stored[...][::-1]
    seal(copied)
    with pytest.raises(CubeError, match="coordinate site disagrees with the cube's sites"):
        open_cube(copied)


def test_dates_edited_out_of_order(copied: Path) -> None:
    stored = zarr.open_array(copied / "s2_l2a" / "time", mode="r+")
    stored[:2, 0] = stored[:2, 0][::-1]
    seal(copied)
    with pytest.raises(CubeError, match=r"dates are not sorted in .*s2_l2a.*of site 'plot-0'"):
        open_cube(copied)


def test_a_valid_value_without_a_date_is_reported(copied: Path) -> None:
    zarr.open_array(copied / "s2_l2a" / "valid", mode="r+")[-1, 2] = True
    seal(copied)
    assert "no value is valid without a date" in [
        r.rule for r in validate(copied).rows if r.level == "error"
    ]


def test_metadata_states_the_nominal_year(path: Path) -> None:
    attrs = json.loads((path / "s2_l2a" / "zarr.json").read_text())["attributes"]
    assert attrs["year_known"] is False
    assert attrs["factor"] == 1
