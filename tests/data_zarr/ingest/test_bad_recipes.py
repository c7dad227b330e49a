"""Bad recipes and bad stacks, one test each: refused by name, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from archives import raster, recipe
from rasterio.control import GroundControlPoint

from data_zarr.errors import CubeError
from data_zarr.ingest import (
    BandSetRecipe,
    GridSpec,
    TargetRecipe,
    build,
    from_toml,
    load_recipe,
    make_plan,
)
from data_zarr.ingest.grids import target_grid
from data_zarr.ingest.sources import GeoTiffs, Sentinel1
from data_zarr.ingest.times import date_in_name, utc

HEAD = 'title = "t"\nlicense = "l"\nprovenance = "p"\n'
SET = '[[bandset]]\nname = "ndvi"\n'
SOURCE = '[[bandset.source]]\nkind = "geotiff"\npath = "*.tif"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEAD + 'licence = "x"\n' + SET, r"unknown key 'licence' in r;.*did you mean 'license'"),
        (HEAD + SET + "resampeling = 1\n", r"unknown key 'resampeling' .*mean 'resampling'"),
        (HEAD + SET + SOURCE + "dat = 1\n", r"unknown key 'dat' in r: .*source geotiff.*'date'"),
        (HEAD + "[grid]\nresoluton = 1\n" + SET, r"unknown key 'resoluton' .*'resolution'"),
        (HEAD + SET + '[[bandset.source]]\nkind = "geotif"\n', r"no such kind .*mean 'geotiff'"),
        (HEAD + SET + SOURCE + "[[target]]\nnme = 1\n", "unknown key 'nme' in r: target"),
        (HEAD + SET + 'resampling = "bilinaer"\n', r"no such choice .* did you mean .bilinear"),
        (HEAD + SET + 'dtype = 3\n' + SOURCE, r"value of another type in r: .* key 'dtype'"),
        (SET + SOURCE, "no 'title' in r"),
        (HEAD + "a = ", "unreadable TOML"),
    ],
)  # fmt: skip
def test_unknown_recipe_key_and_other_misspellings(text: str, problem: str) -> None:
    with pytest.raises(CubeError, match=problem):
        from_toml(text, "r")


def test_a_python_recipe_that_fails(tmp_path: Path) -> None:
    page = tmp_path / "r.py"
    page.write_text("x = 1\ny = x.z\n")
    with pytest.raises(CubeError, match=r"the recipe fails \(AttributeError.*r\.py, line 2"):
        load_recipe(page)
    page.write_text("x = 1\n")
    with pytest.raises(CubeError, match="the file defines no recipe"):
        load_recipe(page)
    with pytest.raises(CubeError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")


def ndvi(folder: Path, **more: Any) -> BandSetRecipe:
    return BandSetRecipe("ndvi", (GeoTiffs(str(folder / "*.tif"), date="%Y%m%d"),), **more)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    raster(tmp_path / "20200101.tif", np.full((20, 30), 0.5, np.float32))
    return tmp_path


def test_no_sources_match_the_pattern(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match=r"no sources match .* found none at .*\*\.tif"):
        make_plan(recipe(ndvi(tmp_path)))


def test_unknown_sensor_and_band(one: Path) -> None:
    with pytest.raises(CubeError, match=r"no such sensor .* did you mean 's2_l2a'"):
        make_plan(recipe(BandSetRecipe("s2_l2", (GeoTiffs("x"),))))
    with pytest.raises(CubeError, match="no such band in ndvi"):
        make_plan(recipe(ndvi(one, bands=("evi",))))


def test_unknown_resampling_and_platform(one: Path) -> None:
    item = ndvi(one)
    object.__setattr__(item, "resampling", "bilinaer")  # the tests' type checker would refuse it
    with pytest.raises(CubeError, match=r"no such resampling .*mean 'bilinear'"):
        make_plan(recipe(item))
    source = GeoTiffs(str(one / "*.tif"), date="%Y%m%d", platform="landsat-6")
    with pytest.raises(CubeError, match="no such platform"):
        make_plan(recipe(BandSetRecipe("ndvi", (source,))))


def test_the_platform_of_a_product_name(tmp_path: Path) -> None:
    values = np.full((1, 8, 8), 0.5, np.float32)
    raster(tmp_path / "LC08_20200101.tif", values)
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d", platform="product")
    plan = make_plan(recipe(BandSetRecipe("ndvi", (source,))))
    assert plan.bandsets[0].data.platform == ["landsat-8"]
    raster(tmp_path / "mine_20200201.tif", values)
    with pytest.raises(CubeError, match=r"platform is not in the name .* found mine_20200201\.tif"):
        make_plan(recipe(BandSetRecipe("ndvi", (source,))))


def test_backscatter_without_units(tmp_path: Path) -> None:
    raster(tmp_path / "20200101.tif", np.ones((2, 8, 8), np.float32), names=["VV", "VH"])
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d")
    with pytest.raises(CubeError, match=r"units of the backscatter are not stated .* in the sou"):
        make_plan(recipe(BandSetRecipe("s1_db", (source,))))


def test_a_scale_is_never_guessed(tmp_path: Path) -> None:
    raster(tmp_path / "20200101.tif", np.ones((8, 8), np.uint16), names=["red"])
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d")
    item = BandSetRecipe("landsat_sr6", (source,), bands=("red",))
    with pytest.raises(CubeError, match=r"scale is not stated .* found uint16 without either"):
        make_plan(recipe(item))


def test_two_scales(tmp_path: Path) -> None:
    raster(tmp_path / "20200101.tif", np.ones((8, 8), np.uint16), names=["red"], scale=(1e-4, 0))
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d", scale=2e-4)
    item = BandSetRecipe("landsat_sr6", (source,), bands=("red",))
    with pytest.raises(CubeError, match=r"two scales .* \(0\.0001, 0\.0\), as in the file"):
        make_plan(recipe(item))


def bands(tmp_path: Path, channels: tuple[str, ...], names: tuple[str, ...]) -> BandSetRecipe:
    raster(tmp_path / "20200101.tif", np.ones((3, 8, 8), np.float32) / 9, names=names)
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d", channels=channels)
    return BandSetRecipe("rgb", (source,))


def test_bands_permuted(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match=r"bands permuted .* expected red in channel 1, as the fi"):
        make_plan(recipe(bands(tmp_path, ("blue", "green", "red"), ("red", "green", "blue"))))


def test_bands_missing(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match=r"band is missing in the source .*; expected red \(red\)"):
        make_plan(recipe(bands(tmp_path, (), ("green", "blue", "alpha"))))


def test_bands_without_names(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match="which channel is which band is not known"):
        make_plan(recipe(bands(tmp_path, (), ())))
    with pytest.raises(CubeError, match=r"channels and file differ .* found 2: red, green"):
        make_plan(recipe(bands(tmp_path, ("red", "green"), ())))


def test_raster_without_crs(tmp_path: Path) -> None:
    raster(tmp_path / "20200101.tif", np.ones((8, 8), np.float32), crs=None)
    with pytest.raises(CubeError, match="raster without CRS"):
        make_plan(recipe(ndvi(tmp_path)))


@pytest.mark.parametrize("kind", ["folder", "archive", "points"])
def test_raw_grd(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        path = tmp_path / "S1A_IW_GRDH_1SDV_20200101T051212.SAFE"
        (path / "measurement").mkdir(parents=True)
    elif kind == "archive":
        path = tmp_path / "S1A_IW_GRDH_1SDV_20200101T051212.zip"
        path.write_bytes(b"PK")
    else:
        points = [GroundControlPoint(r, c, 15 + c, 46 - r) for r in (0, 8) for c in (0, 8)]
        path = tmp_path / "S1_20200101T051212.tif"
        with rasterio.open(
            path, "w", driver="GTiff", count=2, height=8, width=8, dtype="uint16", gcps=points,
            crs="EPSG:4326",
        ) as file:  # fmt: skip
            file.write(np.ones((2, 8, 8), np.uint16))
    item = BandSetRecipe("s1_db", (Sentinel1(str(path), units="linear"),))
    with pytest.raises(CubeError, match=r"raw GRD .* calibrate it and correct it for terrain"):
        make_plan(recipe(item))


def test_power_called_db(tmp_path: Path) -> None:
    power = np.random.default_rng(0).uniform(0.01, 0.3, (2, 8, 8)).astype(np.float32)
    raster(tmp_path / "S1_20200101T051212.tif", power, names=["VV", "VH"])
    item = BandSetRecipe("s1_db", (Sentinel1(str(tmp_path / "*.tif"), units="db"),))
    with pytest.raises(CubeError, match=r"impossible backscatter .* say units = .linear."):
        build(recipe(item), tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_bounds_that_are_no_whole_pixels(one: Path) -> None:
    grid = GridSpec(resolution=10, bounds=(500000, 4999905, 500100, 5000000))
    with pytest.raises(CubeError, match=r"no whole number of pixels .* found 10 x 9\.5 pixels"):
        make_plan(recipe(ndvi(one), grid=grid))
    with pytest.raises(CubeError, match=r"no resolution .* another CRS"):
        make_plan(recipe(ndvi(one), grid=GridSpec(crs="EPSG:4326")))


def test_nothing_overlaps(one: Path) -> None:
    grid = GridSpec(resolution=10, bounds=(600000, 4999900, 600100, 5000000))
    with pytest.raises(CubeError, match=r"do not overlap .* something in EPSG:32633, 16\.2"):
        make_plan(recipe(ndvi(one), grid=grid))


def test_categories_are_never_mixed(one: Path) -> None:
    raster(one / "cover" / "c.tif", np.ones((40, 60), np.uint8), step=5)
    cover = TargetRecipe("cover", str(one / "cover" / "c.tif"), kind="category")
    with pytest.raises(CubeError, match=r"resampling is not stated .* expected .nearest."):
        make_plan(recipe(ndvi(one), targets=(cover,)))
    mixed = TargetRecipe("cover", cover.path, kind="category", resampling="bilinear")
    with pytest.raises(CubeError, match="categories cannot be mixed"):
        make_plan(recipe(ndvi(one), targets=(mixed,)))


def test_a_damaged_raster(tmp_path: Path) -> None:
    path = raster(tmp_path / "20200101.tif",
                  np.random.default_rng(0).random((300, 300)).astype(np.float32))  # fmt: skip
    item = recipe(ndvi(tmp_path))
    make_plan(item)
    path.write_bytes(path.read_bytes()[:-200_000])
    with pytest.raises(CubeError, match=r"damaged raster|unreadable raster"):
        build(item, tmp_path / "c.zarr")


def test_time_zones() -> None:
    found = utc(["2020-01-01T01:00:00+02:00", "2020-01-01T00:00:00Z"], "x")
    assert found.astype(str).tolist() == ["2019-12-31T23:00:00", "2020-01-01T00:00:00"]
    with pytest.raises(CubeError, match=r"mixed time zones in x; .* and 2020-01-02"):
        utc(["2020-01-01T00:00:00Z", "2020-01-02"], "x")


@pytest.mark.parametrize("text", ["", "NaT", "nan", None])
def test_nat(text: object) -> None:
    with pytest.raises(CubeError, match="date missing in x"):
        utc(["2020-01-01", text], "x")


def test_unreadable_dates() -> None:
    with pytest.raises(CubeError, match=r"unreadable date in x; expected ISO 8601; found '31\.12"):
        utc(["31.12.2020"], "x")
    with pytest.raises(CubeError, match="no date in the file name"):
        date_in_name("a_20201301.tif", "%Y%m%d", "x")
    with pytest.raises(CubeError, match="several dates in the file name"):
        date_in_name("20200101_20200102.tif", "%Y%m%d", "x")


def test_the_grid_of_another_raster(one: Path) -> None:
    raster(one / "like" / "l.tif", np.zeros((7, 9), np.float32), step=20)
    scenes = make_plan(recipe(ndvi(one))).bandsets[0].scenes
    grid = target_grid(GridSpec(like=str(one / "like" / "l.tif")), scenes)
    assert (grid.height, grid.width, grid.transform[0]) == (7, 9, 20.0)
    with pytest.raises(CubeError, match="grid given twice"):
        target_grid(GridSpec(like="x", resolution=1), scenes)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"shard": 0}, r"shard in recipe; expected a multiple of 64; found 0"),
        ({"shard": 100}, r"shard in recipe; expected a multiple of 64; found 100"),
        ({"level": 12}, r"level of the codec in .*; expected 0 to 9; found 12"),
    ],
)
def test_impossible_shard_and_level(one: Path, more: dict[str, Any], problem: str) -> None:
    with pytest.raises(CubeError, match=problem):
        build(recipe(ndvi(one), **more), one / "c.zarr")
    assert not (one / "c.zarr").exists()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"dtype": "int99"}, r"no such dtype in band set 'ndvi'; .* found 'int99'"),
        ({"dtype": "complex64"}, "no such dtype"),
        ({"scale": 0}, r"impossible scale .* found scale 0, offset None"),
        ({"offset": float("nan")}, r"impossible scale .* offset nan"),
    ],
)
def test_impossible_dtype_and_scale(one: Path, more: dict[str, Any], problem: str) -> None:
    with pytest.raises(CubeError, match=problem):
        make_plan(recipe(ndvi(one, **more)))


def test_a_source_with_an_impossible_scale(one: Path) -> None:
    source = GeoTiffs(str(one / "*.tif"), date="%Y%m%d", scale=float("nan"), offset=0)
    with pytest.raises(CubeError, match=r"impossible scale in band set 'ndvi': 20200101\.tif"):
        make_plan(recipe(BandSetRecipe("ndvi", (source,))))


def test_complex_numbers(tmp_path: Path) -> None:
    """Of a single-look complex scene nothing is left if its phase is dropped without a word."""
    raster(tmp_path / "20200101.tif", np.full((8, 8), 1 + 1j, np.complex64))
    with pytest.raises(CubeError, match=r"complex numbers in band set 'ndvi'.* found complex64"):
        make_plan(recipe(ndvi(tmp_path)))


def test_toml_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes((HEAD + SET).encode("utf-16"))
    with pytest.raises(CubeError, match=r"unreadable TOML in .*r\.toml; found 'utf-8' codec"):
        load_recipe(tmp_path / "r.toml")


def test_power_with_subtracted_noise_called_db(tmp_path: Path) -> None:
    values = np.full((2, 20, 20), 0.1, np.float32)
    values[:, 0, :5] = -0.001
    raster(tmp_path / "20200101.tif", values, names=["VV", "VH"])
    source = Sentinel1(str(tmp_path / "*.tif"), units="db", date="%Y%m%d")
    with pytest.raises(CubeError, match=r"impossible backscatter .*; this is linear power"):
        build(recipe(BandSetRecipe("s1_db", (source,))), tmp_path / "c.zarr")
