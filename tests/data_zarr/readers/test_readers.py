"""Readers of public data sets: every number where the documents say it belongs."""

from __future__ import annotations

from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.readers.__main__ import main
from data_zarr.readers.agbd import agbd
from data_zarr.readers.biomassters import biomassters
from data_zarr.schema import validate


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("biomassters")
    truth = layouts.biomassters(root)
    return root, truth, open_cube(biomassters(root, root / "cube.zarr"))


@pytest.fixture(scope="module")
def footprints(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("agbd") / "data_subset-2019-v4_0-20.h5"
    truth = layouts.agbd(path)
    return path, truth, open_cube(agbd([path], path.parent / "cube.zarr"))


def test_both_are_valid_cubes_without_a_place(chips, footprints):
    for *_, cube in (chips, footprints):
        report = validate(cube.path, deep=True)
        assert report.ok, report
        assert not cube.grid.placed
        assert np.isnan(cube.grid.lonlat(3, 4)).all()
        assert cube.grid.gsd == 10


def test_chips_lie_side_by_side_with_their_biomass(chips):
    _, truth, cube = chips
    layer = np.asarray(cube.target("agb"))
    assert layer.shape == (32, 32)
    assert cube.attrs["patches"]["names"] == list(truth)
    for i, agb in enumerate(truth.values()):
        y, x = divmod(i, 2)
        np.testing.assert_array_equal(layer[16 * y : 16 * y + 16, 16 * x : 16 * x + 16], agb)


def test_months_of_a_chip(chips):
    _, truth, cube = chips
    first = next(iter(truth.values()))
    info = cube.bandsets["s2_l2a"]
    assert not info.year_known
    months = info.dates.astype("datetime64[M]").astype(int) % 12 + 1
    assert months.tolist() == [9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8]
    pixels, valid = cube.reader("s2_l2a").read(0, 0, 16, 16)[:2]
    names = [b.name for b in info.bands]
    near = np.asarray(pixels)[0, names.index("B08")]
    np.testing.assert_array_equal(near, (1000 + 20 * first).astype(np.uint16).astype(int))
    valid = np.asarray(valid)[:, 0]
    assert not valid[3].any()  # December lacks
    assert not valid[5, :4, :4].any()
    assert valid[5, 4:, 4:].all()
    assert valid[[0, 1, 2, 4]].all()


def test_orbits_are_kept_apart_and_a_missing_number_is_not_valid(chips):
    _, truth, cube = chips
    first = next(iter(truth.values()))
    up, valid = (np.asarray(a) for a in cube.reader("s1_asc_db").read(0, 0, 16, 16)[:2])
    down = np.asarray(cube.reader("s1_desc_db").read(0, 0, 16, 16)[0])
    scale = cube.bandsets["s1_asc_db"].bands[0].scale
    assert down[2, 0, 0, 0] * scale == pytest.approx(-11 + first[0, 0] / 50, abs=0.0051)
    assert up[2, 1, 0, 0] * scale == pytest.approx(-18 + first[0, 0] / 50, abs=0.0051)
    assert not valid[:, 0, 3, 5].any()
    assert valid[:, 0].sum() == 12 * 255


def test_footprints_have_their_label_in_the_middle_alone(footprints):
    _, truth, cube = footprints
    layer = np.asarray(cube.target("agb"))
    assert np.isfinite(layer).sum() == 12
    for i, agb in enumerate(truth):
        y, x = divmod(i, 4)
        assert layer[25 * y + 12, 25 * x + 12] == agb
    assert cube.attrs["patches"]["names"][6] == "31NBJ/0"


def test_numbers_of_a_footprint_are_reflectance_decibel_and_metres(footprints):
    _, truth, cube = footprints
    for i in (1, 7):  # with and without an offset of 1000
        y, x = (25 * v for v in divmod(i, 4))
        pixels = np.asarray(cube.reader("s2_l2a").read(y, x, 25, 25)[0])[0]
        slope = np.arange(25)[:, None]
        assert (pixels[0] == 800 + slope).all()
        assert (pixels[7] == 800 + slope + int(10 * truth[i])).all()
    pixels, valid = (np.asarray(a) for a in cube.reader("palsar2_db").read(0, 25, 25, 25)[:2])
    hh, hv = 20 * np.log10([3005, 1505]) - 83
    np.testing.assert_allclose(pixels[0, :, 5, 5] * 0.01, [hh, hv], atol=0.0051)
    assert not valid[0, 0, 2, 3]
    assert valid[0].sum() == 624
    _, valid = cube.reader("s2_l2a").read(0, 0, 25, 25)[:2]
    assert not np.asarray(valid)[0, 0, 0, 0]
    height, valid = (np.asarray(a) for a in cube.reader("canopy_height").read(0, 50, 25, 25)[:2])
    assert height[0, :, 0, 0].tolist() == [21, 3]
    assert not valid[0, 0, 1, 1]


def test_a_split_is_the_tiles_that_are_named(footprints, tmp_path: Path):
    path, truth, _ = footprints
    cube = open_cube(agbd([path], tmp_path / "test.zarr", tiles=["31NBJ"], footprints=3))
    layer = np.asarray(cube.target("agb"))
    np.testing.assert_array_equal(np.sort(layer[np.isfinite(layer)]), np.sort(truth[6:9]))


def test_the_command(chips, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = chips[0]
    assert main(["biomassters", str(root), str(tmp_path / "two.zarr"), "--chips", "2"]) == 0
    assert open_cube(capsys.readouterr().out.strip()).grid.width == 32
    assert main(["biomassters", str(root), str(tmp_path / "x.zarr"), "--split", "test"]) == 3
    assert "error: no chips of BioMassters" in capsys.readouterr().err


def test_bad_input_a_data_set_without_a_documented_layout(tmp_path: Path, capsys):
    assert main(["reo_instruct", "train.json", str(tmp_path / "x.zarr")]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: REO-Instruct documents no layout of its images and texts")
    assert "`agbd` reads" in error
    assert error.count("\n") == 1


# ---- what does not look like the documents -------------------------------------------------------


def test_bad_input_a_raster_of_other_bands(chips, tmp_path: Path):
    layouts.biomassters(tmp_path, chips=1)
    name = next((tmp_path / "train_agbm").iterdir()).name[:8]
    layouts.tif(tmp_path / "train_features" / f"{name}_S1_04.tif", np.zeros((2, 16, 16), "f4"))
    with pytest.raises(
        CubeError, match=r"S1_04.tif; expected 4 bands, 16 x 16 pixels; found \[2, 16, 16"
    ):
        biomassters(tmp_path, tmp_path / "cube.zarr")


def test_bad_input_chips_of_two_sizes(tmp_path: Path):
    layouts.biomassters(tmp_path, chips=1)
    name = next((tmp_path / "train_agbm").iterdir()).name[:8]
    for path in (tmp_path / "train_features").glob(f"{name}_S2_*.tif"):
        path.unlink()
    layouts.tif(tmp_path / "train_features" / f"{name}_S2_00.tif", np.zeros((11, 8, 8), "u2"))
    with pytest.raises(CubeError, match=r"S2_00.tif; expected 11 bands, 16 x 16 pixels"):
        biomassters(tmp_path, tmp_path / "cube.zarr")


def test_bad_input_a_chip_without_images(tmp_path: Path):
    layouts.biomassters(tmp_path, chips=1)
    for path in (tmp_path / "train_features").iterdir():
        path.unlink()
    with pytest.raises(CubeError, match="a chip without any image"):
        biomassters(tmp_path, tmp_path / "cube.zarr")


def test_bad_input_no_file_of_agbd(footprints, tmp_path: Path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["30NXM/S2_bands"] = np.zeros((1, 25, 25, 12))
    with pytest.raises(
        CubeError, match=r"not a file of AGBD .* expected GEDI/agbd; found S2_bands"
    ):
        agbd([path], tmp_path / "cube.zarr")
    with pytest.raises(CubeError, match=r"no such tile .* expected 30NXM, 31NBJ; found 99XXX"):
        agbd([footprints[0]], tmp_path / "cube.zarr", tiles=["99XXX"])
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(CubeError, match="unreadable file"):
        agbd([tmp_path / "text.h5"], tmp_path / "cube.zarr")


def test_an_unplaced_grid_comes_back_as_it_was():
    grid = Grid.unplaced(40, 60, 10)
    found = Grid.from_attributes(grid.attributes(), "here")
    assert (found.height, found.width, found.placed) == (40, 60, False)
    assert not any(key.startswith("geospatial") for key in grid.attributes())
