"""From a recipe and GeoTIFF stacks to a cube: the same numbers, dates in order, masks, targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from archives import ORIGIN, raster, recipe

from data_zarr import open_cube, validate
from data_zarr.errors import CubeError, OutputError
from data_zarr.ingest import (
    BandSetRecipe,
    GridSpec,
    build,
    load_recipe,
    make_plan,
)
from data_zarr.ingest.sources import GeoTiffs, Sentinel1

H, W = 90, 70
DATES = ("20200105", "20190612", "20210301")
BANDS = ("green", "red", "nir08")
SHARE = {"sensor": "landsat_sr6", "bands": BANDS}


@pytest.fixture
def stack(tmp_path: Path) -> dict[str, np.ndarray]:
    """One file a date, three described channels and a quality band."""
    rng, out = np.random.default_rng(0), {}
    for date in DATES:
        values = rng.integers(8000, 20000, (4, H, W)).astype(np.uint16)
        values[3] = np.where(rng.random((H, W)) < 0.2, 8, 64)  # cloud or clear
        values[0, 0, 0] = 0
        names = ("green", "red", "nir08", "QA_PIXEL")
        raster(tmp_path / f"L_{date}.tif", values, names=names, nodata=0)
        out[date] = values
    return out


def bandset(folder: Path, **more: object) -> BandSetRecipe:
    source = GeoTiffs(
        str(folder / "L_*.tif"),
        date="%Y%m%d",
        scale=2.75e-5,
        offset=-0.2,
        platform="landsat-8",
        quality="QA_PIXEL",
    )
    return BandSetRecipe("landsat", (source,), **{**SHARE, **more})


TOML = """
title = "three dates"
license = "CC0-1.0"
provenance = "made by a test"
shard = 64

[[bandset]]
name = "landsat"
sensor = "landsat_sr6"
bands = ["green", "red", "nir08"]

[[bandset.source]]
kind = "geotiff"
path = "L_*.tif"
date = "%Y%m%d"
scale = 2.75e-5
offset = -0.2
platform = "landsat-8"
quality = "QA_PIXEL"

[[target]]
name = "agb"
path = "agb.tif"
unit = "Mg ha-1"
resampling = "average"
"""

PYTHON = """
from data_zarr.ingest import BandSetRecipe, Recipe, TargetRecipe
from data_zarr.ingest.sources import GeoTiffs


def recipe() -> Recipe:
    source = GeoTiffs("L_*.tif", date="%Y%m%d", scale=2.75e-5, offset=-0.2,
                      platform="landsat-8", quality="QA_PIXEL")
    bands = BandSetRecipe("landsat", (source,), sensor="landsat_sr6",
                          bands=("green", "red", "nir08"))
    target = TargetRecipe("agb", "agb.tif", unit="Mg ha-1", resampling="average")
    return Recipe("three dates", "CC0-1.0", "made by a test", (bands,), targets=(target,),
                  shard=64)
"""


def test_a_recipe_becomes_a_cube(tmp_path: Path, stack: dict[str, np.ndarray]) -> None:
    """From TOML and from Python the same bytes; pixels, dates, masks and target as in the files."""
    fine = np.random.default_rng(1).random((2 * H, 2 * W)).astype(np.float32)
    raster(tmp_path / "agb.tif", fine, step=5.0)
    (tmp_path / "r.toml").write_text(TOML)
    (tmp_path / "r.py").write_text(PYTHON)
    built = build(tmp_path / "r.toml", tmp_path / "a.zarr")
    assert built.tasks == built.written == 2 * 2 * 2
    assert built.digest == build(tmp_path / "r.py", tmp_path / "b.zarr", workers=1).digest

    cube = open_cube(tmp_path / "a.zarr")
    info = cube.bandsets["landsat"]
    assert [str(d)[:10] for d in info.dates] == ["2019-06-12", "2020-01-05", "2021-03-01"]
    assert cube.attrs["scenes"]["landsat"] == [f"L_{d}.tif" for d in sorted(DATES)]
    pixels, valid = cube.reader("landsat").read(0, 0, H, W)
    for i, date in enumerate(sorted(DATES)):
        values = stack[date]
        known = values[:3] != 0
        np.testing.assert_array_equal(pixels[i][known], values[:3][known])
        np.testing.assert_array_equal(valid[i, 0], known.all(axis=0) & (values[3] == 64))
    average = fine.reshape(H, 2, W, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(cube.target("agb"), average, rtol=1e-5)
    assert validate(cube, deep=True).ok
    assert str(tmp_path) not in (tmp_path / "a.zarr" / "zarr.json").read_text()


def test_a_file_a_band(tmp_path: Path, stack: dict[str, np.ndarray]) -> None:
    for date, values in stack.items():
        for name, layer in zip(("B3", "B4", "B5", "QA_PIXEL"), values, strict=True):
            raster(tmp_path / "split" / f"L_{date}_SR_{name.replace('_', '')}.tif", layer, nodata=0)
    source = GeoTiffs(str(tmp_path / "split" / "L_*_SR_{band}.tif"), date="%Y%m%d",
                      scale=2.75e-5, offset=-0.2, quality="QAPIXEL")  # fmt: skip
    with pytest.raises(
        CubeError, match=r"band is missing .* expected green .*; found B3, B4, B5, QA"
    ):
        make_plan(recipe(BandSetRecipe("landsat", (source,), **SHARE)))
    named = BandSetRecipe("l", (source,), sensor="hls_l30", bands=("B03", "B04", "B05"))
    build(recipe(named), tmp_path / "c.zarr")
    pixels, valid = open_cube(tmp_path / "c.zarr").reader("l").read(0, 0, H, W)
    values = stack["20190612"]
    np.testing.assert_array_equal(pixels[0][:, valid[0, 0]], values[:3][:, valid[0, 0]])


def test_dates_and_bands_in_folders(tmp_path: Path) -> None:
    """Files of one name in a folder a date; a folder a band; nothing is taken for the other."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 0.5, (2, 2, 8, 8)).astype(np.float32)
    for day, bands in zip(("20200101", "20200201"), values, strict=True):
        for name, layer in zip(("red", "green"), bands, strict=True):
            raster(tmp_path / "a" / f"scene_{day}" / f"{name}.tif", layer)
            raster(tmp_path / "b" / name / f"{day}.tif", layer)
    for pattern in ("a/*/{band}.tif", "b/{band}/*.tif"):
        source = GeoTiffs(str(tmp_path / pattern), date="%Y%m%d")
        item = BandSetRecipe("l", (source,), sensor="landsat_sr6", bands=("red", "green"))
        build(recipe(item), tmp_path / "c.zarr", overwrite=True)
        pixels, _ = open_cube(tmp_path / "c.zarr").reader("l").read(0, 0, 8, 8)
        # Bands are in the order of the recipe.
        np.testing.assert_array_equal(pixels, values)


def test_a_build_goes_on_where_it_was_killed(
    tmp_path: Path, stack: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(recipe(bandset(tmp_path), shard=64), tmp_path / "whole.zarr")
    from data_zarr.ingest import builder as module

    real, calls = module.write_shard, []

    def third_dies(task: object) -> str:
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(task)

    out = tmp_path / "half.zarr"
    monkeypatch.setattr(module, "write_shard", third_dies)
    with pytest.raises(KeyboardInterrupt):
        build(recipe(bandset(tmp_path), shard=64), out, workers=1)
    with pytest.raises(CubeError, match="incomplete cube"):
        open_cube(out)
    # What zarr leaves behind when it is killed in the middle of a file.
    (out / "landsat" / "pixels" / "c" / "0.abc.partial").parent.mkdir(parents=True, exist_ok=True)
    (out / "landsat" / "pixels" / "c" / "0.abc.partial").write_text("torn")
    monkeypatch.setattr(module, "write_shard", real)
    again = build(recipe(bandset(tmp_path), shard=64), out)
    assert (again.tasks, again.digest) == (4, whole.digest)
    assert again.written < 4


def test_shards_do_not_change_a_warped_pixel(tmp_path: Path, stack: dict[str, np.ndarray]) -> None:
    grid = GridSpec(crs="EPSG:32632", resolution=7)
    cubes = []
    for shard in (64, 256):
        item = bandset(tmp_path, resampling="bilinear")
        build(recipe(item, grid=grid, shard=shard), tmp_path / f"{shard}.zarr")
        cube = open_cube(tmp_path / f"{shard}.zarr")
        cubes.append(cube.reader("landsat").read(0, 0, cube.grid.height, cube.grid.width))
    np.testing.assert_array_equal(cubes[0][0], cubes[1][0])
    np.testing.assert_array_equal(cubes[0][1], cubes[1][1])
    assert cubes[0][1].any()


def test_two_scenes_of_an_instant_are_laid_over_each_other(tmp_path: Path) -> None:
    """The second fills what the first does not cover, and what it has not clear."""
    left = np.full((10, 6), 9000, np.uint16)
    left[0, 0] = 0
    right = np.full((10, 10), 12000, np.uint16)
    raster(tmp_path / "T_20200101_a.tif", left, nodata=0, names=["red"])
    raster(tmp_path / "T_20200101_b.tif", right, nodata=0, names=["red"])
    source = GeoTiffs(str(tmp_path / "T_*.tif"), date="%Y%m%d", scale=2.75e-5, offset=-0.2)
    item = BandSetRecipe("l", (source,), sensor="landsat_sr6", bands=("red",))
    with pytest.raises(CubeError, match="a platform repeats an instant"):
        make_plan(recipe(item))
    item = BandSetRecipe("l", (source,), sensor="landsat_sr6", bands=("red",), duplicates="mosaic")
    grid = GridSpec(bounds=(ORIGIN[0], ORIGIN[1] - 100, ORIGIN[0] + 100, ORIGIN[1]))
    build(recipe(item, grid=grid), tmp_path / "c.zarr")
    pixels, valid = open_cube(tmp_path / "c.zarr").reader("l").read(0, 0, 10, 10)
    expected = np.full((10, 10), 12000)
    expected[:, :6] = 9000
    expected[0, 0] = 12000
    np.testing.assert_array_equal(pixels[0, 0], expected)
    assert valid.all()


def test_dates_from_a_table_and_from_a_tag(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", np.ones((1, 8, 8), np.float32), names=["ndvi"],
           tags={"TIFFTAG_DATETIME": "2019:09:18 10:20:30"})  # fmt: skip
    (tmp_path / "d.csv").write_text("file,date,platform\na.tif,2019-09-18T12:20:30+02:00,terra\n")
    tagged = GeoTiffs(str(tmp_path / "a.tif"), date="tag:TIFFTAG_DATETIME")
    tabled = GeoTiffs(str(tmp_path / "a.tif"), table=str(tmp_path / "d.csv"))
    for source, platform in ((tagged, "unknown"), (tabled, "terra")):
        plan = make_plan(recipe(BandSetRecipe("ndvi", (source,))))
        assert str(plan.bandsets[0].data.dates[0]) == "2019-09-18T10:20:30"
        assert plan.bandsets[0].data.platform == [platform]


def test_backscatter_is_stored_in_db(tmp_path: Path) -> None:
    power = np.random.default_rng(0).uniform(0.001, 0.5, (2, 8, 8)).astype(np.float32)
    power[0, 0, 0] = 0
    raster(tmp_path / "S1_20200101T050607.tif", power, names=["VV", "VH"])
    item = BandSetRecipe("s1_db", (Sentinel1(str(tmp_path / "*.tif"), units="linear"),))
    build(recipe(item), tmp_path / "c.zarr")
    pixels, valid = open_cube(tmp_path / "c.zarr").reader("s1_db").read(0, 0, 8, 8)
    assert not valid[0, 0, 0, 0]
    with np.errstate(divide="ignore"):
        expected = 10 * np.log10(power.astype(np.float64))
    np.testing.assert_allclose(pixels[0][:, valid[0, 0]], expected[:, valid[0, 0]], rtol=1e-6)


def test_unwritable_output(tmp_path: Path, stack: dict[str, np.ndarray]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write the cube") as caught:
        build(recipe(bandset(tmp_path)), tmp_path / "file" / "c.zarr")
    assert caught.value.exit_code == 2


def test_the_plan_says_what_would_be_built(tmp_path: Path, stack: dict[str, np.ndarray]) -> None:
    facts = make_plan(recipe(bandset(tmp_path))).describe()
    row = facts["bandsets"][0]
    assert row["shape"] == [3, 3, H, W]
    assert (row["dtype"], row["nodata"], row["resampling"]) == (
        "uint16", 65535.0, "none: the grids agree")  # fmt: skip
    assert {(b["scale"], b["offset"]) for b in row["bands"]} == {(2.75e-5, -0.2)}
    assert facts["tasks"] == 1
    assert "order of time" not in str(facts["notes"])


def test_a_recipe_keeps_its_own_folder(tmp_path: Path, stack: dict[str, np.ndarray]) -> None:
    raster(tmp_path / "agb.tif", np.zeros((H, W), np.float32))
    (tmp_path / "r.toml").write_text(TOML)
    loaded = load_recipe(tmp_path / "r.toml")
    assert loaded.bandsets[0].sources[0].path == str(tmp_path / "L_*.tif")
    assert rasterio.open(loaded.targets[0].path).count == 1


def test_a_half_built_cube_of_another_recipe(
    tmp_path: Path, stack: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another resampling makes the same template, but not the same shards."""
    from data_zarr.ingest import builder as module

    real, calls = module.write_shard, []

    def second_dies(task: object) -> str:
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task)

    def item(resampling: str) -> object:
        grid = GridSpec(crs="EPSG:32632", resolution=7)
        return recipe(bandset(tmp_path, resampling=resampling), grid=grid, shard=64)

    monkeypatch.setattr(module, "write_shard", second_dies)
    with pytest.raises(KeyboardInterrupt):
        build(item("nearest"), tmp_path / "c.zarr", workers=1)
    monkeypatch.setattr(module, "write_shard", real)
    with pytest.raises(CubeError, match="an unfinished cube of other arguments"):
        build(item("bilinear"), tmp_path / "c.zarr")
    build(item("nearest"), tmp_path / "c.zarr")
    assert open_cube(tmp_path / "c.zarr").attrs["resampling"] == {"landsat": "nearest"}


def test_two_builds_into_one_path(
    tmp_path: Path, stack: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused while the first runs; neither a kill nor an end leaves a lock."""
    from data_zarr.ingest import builder as module

    out, real, refused = tmp_path / "c.zarr", module.write_shard, []

    def another_begins(task: module.Task) -> str:
        with pytest.raises(CubeError, match="the cube is being built by another run") as caught:
            build(recipe(bandset(tmp_path)), out, overwrite=True)
        refused.append(caught.value.exit_code)
        return real(task)

    (tmp_path / ".c.zarr.lock").touch()  # of a run that was killed
    monkeypatch.setattr(module, "write_shard", another_begins)
    build(recipe(bandset(tmp_path)), out, workers=1)
    assert set(refused) == {3}
    assert validate(open_cube(out), deep=True).ok
    assert not (tmp_path / ".c.zarr.lock").exists()
