"""SAFE products of every baseline: offsets from the metadata, one scale in the cube, exactly."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import recipe
from products import S2, SIZE, numbers, safe

from data_zarr import open_cube
from data_zarr.errors import CubeError
from data_zarr.ingest import BandSetRecipe, GridSpec, build, make_plan
from data_zarr.ingest.sources import Sentinel2

FINE = ("B02", "B04", "B08")


def item(folder: Path, pattern: str = "*.SAFE", **more: object) -> BandSetRecipe:
    source = Sentinel2(str(folder / pattern), **more)
    return BandSetRecipe("s2_l2a", (source,), bands=FINE)


def test_one_product(tmp_path: Path) -> None:
    """JPEG 2000 as ESA ships it; the finest copy of a band; SCL at 20 m; platform and instant."""
    dn = numbers()
    dn["B02"][0, 0] = 0
    scl = np.full((SIZE // 20,) * 2, 4, np.uint8)
    scl[2, 3] = 9
    safe(tmp_path, dn, scl=scl)
    source = Sentinel2(str(tmp_path / "*.SAFE"))
    bands = BandSetRecipe("s2_l2a", (source,), bands=tuple(S2), resampling="nearest")
    build(recipe(bands), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    info = cube.bandsets["s2_l2a"]
    assert cube.grid.transform[0] == 10
    assert str(info.dates[0]) == "2022-06-01T10:00:31"
    assert info.platform[0] == 1  # sentinel-2a
    assert {(b.scale, b.offset) for b in info.bands} == {(1e-4, -0.1)}
    pixels, valid = cube.reader("s2_l2a").read(0, 0, 24, 24)
    for c, band in enumerate(FINE):
        known = dn[band] != 0
        np.testing.assert_array_equal(pixels[0, c][known], dn[band][known])
    np.testing.assert_array_equal(pixels[0, 3], dn["B11"].repeat(2, 0).repeat(2, 1))
    expected = np.ones((24, 24), bool)
    expected[4:6, 6:8] = False
    expected[0, 0] = False
    np.testing.assert_array_equal(valid[0, 0], expected)
    physical = cube.to_xarray("s2_l2a")["pixels"].values[0, 1, 5, 5]
    assert physical == pytest.approx((int(dn["B04"][5, 5]) - 1000) / 10000, abs=1e-7)


def test_mixed_baselines(tmp_path: Path) -> None:
    """Before and after 04.00, and a reprocessed old scene: one offset, not one step lost."""
    old, new, again = numbers(0, 200, 4000), numbers(1), numbers(2)
    new["B08"][3, 3] = 1  # reflectance -0.0999: below zero, and kept
    safe(tmp_path, old, baseline="02.14", offset=None, date="2019-06-01T10:00:31Z")
    safe(tmp_path, again, baseline="05.00", date="2019-06-11T10:00:31Z")
    safe(tmp_path, new, baseline="05.10", date="2022-06-01T10:00:31Z", spacecraft="Sentinel-2B")
    plan = make_plan(recipe(item(tmp_path)))
    assert any("brought to one, exactly" in n for n in plan.notes)
    assert any("02.14, 05.00, 05.10" in n for n in plan.notes)
    build(recipe(item(tmp_path)), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    info = cube.bandsets["s2_l2a"]
    assert {(b.scale, b.offset) for b in info.bands} == {(1e-4, -0.1)}
    pixels, _ = cube.reader("s2_l2a").read(0, 0, 24, 24)
    steps = np.rint((pixels * 1e-4 - 0.1) * 10000).astype(int)
    for t, (dn, offset) in enumerate(((old, 0), (again, -1000), (new, -1000))):
        for c, band in enumerate(FINE):
            np.testing.assert_array_equal(steps[t, c], dn[band].astype(int) + offset)


def test_mixed_baselines_that_would_clip(tmp_path: Path) -> None:
    """A number of the old baseline that has no place above 65535 is refused, not clipped."""
    old, new = numbers(0), numbers(1)
    old["B08"][3, 3] = 65000
    safe(tmp_path, old, baseline="02.14", offset=None, date="2019-06-01T10:00:31Z")
    safe(tmp_path, new, baseline="05.00", date="2019-06-11T10:00:31Z")
    with pytest.raises(CubeError, match=r"value cannot be stored .* found 6\.5 and 0 more"):
        build(recipe(item(tmp_path)), tmp_path / "c.zarr")
    source = Sentinel2(str(tmp_path / "*.SAFE"))
    masked = BandSetRecipe("s2_l2a", (source,), bands=FINE, overflow="invalid")
    build(recipe(masked), tmp_path / "d.zarr")
    _, valid = open_cube(tmp_path / "d.zarr").reader("s2_l2a").read(0, 0, 24, 24)
    assert not valid[0, 0, 3, 3]
    assert valid.sum() == 2 * 24 * 24 - 1


@pytest.mark.parametrize("level", ["1C", "2A"])
def test_offset_missing(tmp_path: Path, level: str) -> None:
    safe(tmp_path, numbers(), level=level, offset=None)
    name = "s2_l1c" if level == "1C" else "s2_l2a"
    bands = BandSetRecipe(name, (Sentinel2(str(tmp_path / "*.SAFE")),), bands=FINE)
    with pytest.raises(CubeError, match=r"offset missing .* none at baseline 04\.00; .* not gues"):
        make_plan(recipe(bands))


def test_level_1c_in_an_archive(tmp_path: Path) -> None:
    root = safe(tmp_path / "x", numbers(), level="1C", suffix=".tif")
    with zipfile.ZipFile(tmp_path / f"{root.stem}.zip", "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, Path(root.name) / file.relative_to(root))
    shutil.rmtree(tmp_path / "x")
    bands = BandSetRecipe("s2_l1c", (Sentinel2(str(tmp_path / "*.zip")),), bands=FINE)
    build(recipe(bands), tmp_path / "c.zarr")
    pixels, _ = open_cube(tmp_path / "c.zarr").reader("s2_l1c").read(0, 0, 24, 24)
    np.testing.assert_array_equal(pixels[0, 1], numbers()["B04"])


def test_dark_object_of_level_1c(tmp_path: Path) -> None:
    """COST on TOA reflectance, by hand; the dark pixel comes to 0.01."""
    dn = numbers(0, 2000, 5000)
    dn["B04"][:2] = 1600  # 8 % of the pixels, TOA 0.06
    safe(tmp_path, dn, level="1C")
    source = Sentinel2(str(tmp_path / "*.SAFE"), radiometry="cost")
    bands = BandSetRecipe("s2_l1c", (source,), bands=("B04",))
    build(recipe(bands), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    values = cube.to_xarray("s2_l1c")["pixels"].values[0, 0]
    np.testing.assert_allclose(values[:2], 0.01, atol=5e-5)
    toa = (dn["B04"][5, 5] - 1000) / 10000
    # The zenith angle is 60 degrees: Tz = cos = 1/2. L1 = 0.01 * 1/2, so rho_haze = 0.06 - 0.005.
    assert values[5, 5] == pytest.approx((toa - 0.055) / 0.5, abs=1e-4)


def test_dark_object_of_surface_reflectance(tmp_path: Path) -> None:
    safe(tmp_path, numbers())
    with pytest.raises(CubeError, match=r"surface reflectance is corrected already .* 'dos1'"):
        make_plan(recipe(item(tmp_path, radiometry="dos1")))


def test_wrong_utm_zone(tmp_path: Path) -> None:
    """A raster in another zone than its tile; a grid whose numbers only seem to fit."""
    safe(tmp_path / "a", numbers(), crs="EPSG:32632", suffix=".tif")
    with pytest.raises(CubeError, match=r"wrong UTM zone .* expected EPSG:32633.* EPSG:32632"):
        make_plan(recipe(item(tmp_path / "a")))
    safe(tmp_path / "b", numbers())
    bounds = (500000, 4999760, 500240, 5000000)
    grid = GridSpec(crs="EPSG:32632", resolution=10, bounds=bounds)
    with pytest.raises(CubeError, match=r"do not overlap .* one of the two UTM zones is wrong"):
        make_plan(recipe(item(tmp_path / "b"), grid=grid))


def test_a_band_that_level_2a_has_not(tmp_path: Path) -> None:
    safe(tmp_path, numbers())
    bands = BandSetRecipe("s2_l2a", (Sentinel2(str(tmp_path / "*.SAFE")),), bands=("B03",))
    with pytest.raises(
        CubeError, match=r"band is missing .* expected B03 \(green\); found B02, B0"
    ):
        make_plan(recipe(bands))


def test_a_folder_that_is_no_product(tmp_path: Path) -> None:
    (tmp_path / "x.SAFE").mkdir()
    with pytest.raises(CubeError, match="not a Sentinel-2 product"):
        make_plan(recipe(item(tmp_path)))


def test_no_resampling_is_assumed(tmp_path: Path) -> None:
    safe(tmp_path, numbers())
    bands = BandSetRecipe("s2_l2a", (Sentinel2(str(tmp_path / "*.SAFE")),), bands=tuple(S2))
    with pytest.raises(CubeError, match=r"resampling is not stated .* pixels of 20 m"):
        make_plan(recipe(bands))


def test_a_fine_band_that_is_only_there_coarse(tmp_path: Path) -> None:
    """A download that lost its 10 m file falls back to the 20 m copy, and says so."""
    root = safe(tmp_path, numbers())
    [lost] = root.rglob("*_B04_10m.jp2")
    lost.unlink()
    plan = make_plan(recipe(dataclasses.replace(item(tmp_path), resampling="nearest")))
    assert [n for n in plan.notes if "B0" in n] == [
        "band set 's2_l2a': B04 has no file of 10 m in 1 of 1 products: that of 20 m is taken"
    ]


@pytest.mark.parametrize(
    ("there", "text", "field"),
    [
        (">04.00<", ">N/A<", "PROCESSING_BASELINE; found 'N/A'"),
        (">-1000<", ">abc<", "BOA_ADD_OFFSET; found 'abc'"),
        (">-1000<", "><", "BOA_ADD_OFFSET; found None"),
    ],
)
def test_metadata_without_a_number(tmp_path: Path, there: str, text: str, field: str) -> None:
    page = safe(tmp_path, numbers()) / "MTD_MSIL2A.xml"
    page.write_text(page.read_text().replace(there, text))
    with pytest.raises(CubeError, match=f"metadata without a number in .* expected {field}"):
        make_plan(recipe(dataclasses.replace(item(tmp_path), resampling="nearest")))
