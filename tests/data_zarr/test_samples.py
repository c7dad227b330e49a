"""The shipped cubes are whole, small, and say where they come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data_zarr.samples
from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.ingest import load_recipe
from data_zarr.samples import QUESTIONS, SAMPLES, sample_path
from data_zarr.samples.make_slovenia_s2 import SCENE_DATES, date_scenes
from data_zarr.schema import validate

FIRST_NAMES = {"slovenia_s2", "spain_s1s2"}
FIRST = {f"{n}.zarr" for n in FIRST_NAMES}
LICENCE = {
    "MIT": "Permission is hereby granted",
    "Unlicense": "unencumbered software released into the public domain",
    "Apache-2.0": "Apache License",
}
EXPECTED_WARNINGS = {
    "treesat_series": {
        ("band set is in the sensor table", "s1_asc"),
        ("band set is in the sensor table", "s1_des"),
    }
}
"""Two passes are two band sets, whose names no table can have."""


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_is_whole(name: str) -> None:
    report = validate(sample_path(name), deep=True)
    assert report.ok, report
    warned = {(r.rule, r.where) for r in report.rows if r.level == "warn"}
    assert warned == EXPECTED_WARNINGS.get(name, set()), report


def test_samples_are_small() -> None:
    folder = Path(data_zarr.samples.__file__).parent
    files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    later = [f for f in files if f.relative_to(folder).parts[0] not in FIRST]
    assert sum(f.stat().st_size for f in files) < 14e6
    assert sum(f.stat().st_size for f in later) < 6e6
    assert max(f.stat().st_size for f in files) < 2e6
    assert len(later) < 3000


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_has_licence_and_provenance(name: str) -> None:
    attrs = open_cube(sample_path(name)).attrs
    said = "Contains modified Copernicus Sentinel data" in attrs["provenance"]
    assert said == (not name.startswith("landsat") and name != "treesat_aerial")
    assert "Not established:" in attrs["provenance"]
    assert {"/work", "/home", "/tmp"}.isdisjoint(attrs["provenance"].split())
    folder = sample_path(name).parent / "LICENSES"
    texts = {f.name: f.read_text() for f in folder.iterdir()}
    named = "".join(t for f, t in texts.items() if name in f + t)
    assert LICENCE.get(attrs["license"].split()[0], "Copernicus Sentinel") in named
    assert not said or name in texts["Copernicus_Sentinel.txt"]


def test_every_sample_has_a_page_and_a_recipe() -> None:
    folder = Path(data_zarr.samples.__file__).parent
    page = (folder / "README.md").read_text()
    for name in (*SAMPLES, *QUESTIONS):
        assert f"[{name}" in page or f", {name}]" in page
    made = {f.stem for f in (folder / "recipes").glob("*.toml")}
    assert made == set(SAMPLES) - FIRST_NAMES
    for file in (folder / "recipes").glob("*.toml"):
        recipe = load_recipe(file, root="/nowhere")
        assert recipe.provenance == open_cube(sample_path(file.stem)).attrs["provenance"]


def test_examples_of_the_pages(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(data_zarr.samples.__file__).parent / "README.md").read_text()
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == len(SAMPLES)
    for block in blocks:
        exec(block, names)
    assert "DN 31985" in capsys.readouterr().out


def test_unknown_sample() -> None:
    with pytest.raises(CubeError, match="no such sample; expected slovenia_s2, spain_s1s2, fuel_"):
        sample_path("mars")


def test_slovenia() -> None:
    cube = open_cube(sample_path("slovenia_s2"))
    scenes, series = cube.bandsets["s2_l1c"], cube.bandsets["ndvi"]
    assert (cube.grid.epsg, cube.grid.height, cube.grid.width) == (32633, 101, 100)
    assert cube.grid.gsd == pytest.approx(10.0, abs=0.01)
    assert [str(d)[:10] for d in scenes.dates] == list(SCENE_DATES)
    assert set(scenes.platform) == {1}
    assert series.shape == (68, 1, 101, 100)
    pixels, valid = cube.reader("s2_l1c").read(0, 0, 101, 100)
    np.testing.assert_array_equal(valid.mean(axis=(1, 2, 3)), [1, 0, 0, 1, 1])
    assert pixels.min() > 0
    tree, codes = cube.target("tree_cover"), cube.target("land_cover")
    np.testing.assert_array_equal(np.isnan(tree), np.isnan(codes))
    np.testing.assert_array_equal(tree == 1, codes == 2)
    assert np.nanmean(tree) == pytest.approx(7601 / (101 * 100 - 155))
    assert dict(cube.targets["land_cover"].categories)[2] == "forest"


def test_slovenia_scenes_and_series_agree_on_their_dates() -> None:
    """The two band sets were dated by each other: equal to the rounding of the series."""
    cube = open_cube(sample_path("slovenia_s2"))
    pixels, _ = cube.reader("s2_l1c", ["red", "nir"]).read(0, 0, 101, 100)
    red, nir = pixels.astype(float).transpose(1, 0, 2, 3)
    rows = np.searchsorted(cube.bandsets["ndvi"].dates, cube.bandsets["s2_l1c"].dates)
    series = cube.reader("ndvi").read(0, 0, 101, 100)[0][rows, 0] * 1e-4
    np.testing.assert_allclose((nir - red) / (nir + red), series, atol=5.1e-5)


def test_scene_without_its_date_stops_the_script() -> None:
    scenes = np.full((1, 4, 4, 13), 0.1, np.float32)
    ndvi = np.full((3, 4, 4), 0.5, np.float32)
    times = np.arange("2015-01", "2015-04", dtype="datetime64[M]").astype("datetime64[s]")
    with pytest.raises(SystemExit, match="a scene matches 0 dates"):
        date_scenes(scenes, ndvi, times)


def test_slovenia_forest_is_what_forest_looks_like() -> None:
    """Independent of the code table: evergreen, dark in red, on the sunny side of south slopes."""
    cube = open_cube(sample_path("slovenia_s2"))
    codes = cube.target("land_cover")
    pixels, _ = cube.reader("s2_l1c", ["B04", "B08", "B11"]).read(0, 0, 101, 100)
    clear = pixels[[0, 3, 4]].mean(axis=0)
    assert clear[0][codes == 2].mean() < 0.7 * clear[0][codes == 3].mean()
    dem = cube.reader("dem").read(0, 0, 101, 100)[0][0, 0].astype(float)
    southward = -np.gradient(dem)[0]
    forest = codes == 2
    assert np.corrcoef(southward[forest], clear[2][forest])[0, 1] > 0.3


def test_spain() -> None:
    cube = open_cube(sample_path("spain_s1s2"))
    radar, optical = cube.bandsets["s1_db"], cube.bandsets["s2_l1c"]
    assert (cube.grid.epsg, cube.grid.height, cube.grid.width) == (4326, 512, 512)
    assert str(radar.dates[0])[:10] == "2019-09-17"
    assert str(optical.dates[0])[:10] == "2019-09-18"
    assert radar.band_names == ("VV", "VH")
    db, valid = cube.reader("s1_db").read(0, 0, 512, 512)
    assert valid.all()
    assert -14 < np.median(db[0, 0]) < -8
    assert np.median(db[0, 1]) < np.median(db[0, 0]) - 5
    pixels, _ = cube.reader("s2_l1c", ["B04", "B08"]).read(0, 0, 512, 512)
    red, nir = pixels[0].astype(float)
    np.testing.assert_allclose(cube.target("ndvi"), (nir - red) / (nir + red), atol=1e-6)


def test_spain_has_no_offset() -> None:
    """With an offset of -1000 the cirrus band would be near -0.1; it is near zero without one."""
    cirrus, _ = open_cube(sample_path("spain_s1s2")).reader("s2_l1c", ["B10"]).read(0, 0, 512, 512)
    assert cirrus.min() > 0
    assert cirrus.max() < 20
