"""Landsat bundles: scales from the MTL, bands by common name, QA, level 1 only when asked for."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archives import recipe
from products import (
    BIAS,
    DISTANCE,
    EDGE,
    ELEVATION,
    GAIN,
    RADIANCE_MAXIMUM,
    REFLECTANCE_MAXIMUM,
    dn,
    landsat,
)

from data_zarr import open_cube
from data_zarr.errors import CubeError
from data_zarr.ingest import BandSetRecipe, build, make_plan
from data_zarr.ingest.sources import Landsat

COLOURS = ("blue", "green", "red", "nir08", "swir16", "swir22")


def item(folder: Path, pattern: str = "L*", bands: tuple[str, ...] = (), **more: object):
    return BandSetRecipe("landsat_sr6", (Landsat(str(folder / pattern), **more),), bands=bands)


@pytest.mark.parametrize("kind", ["json", "txt", "xml"])
def test_two_instruments_in_one_series(tmp_path: Path, kind: str) -> None:
    """Band 4 is near infrared on Landsat 5 and red on Landsat 8."""
    five, eight = dn(5), dn(8)
    eight["red"][0, 0] = 0
    qa = np.full((EDGE, EDGE), 21824, np.uint16)
    qa[1, 1], qa[2, 2] = 22280, 30048  # cloud; snow, which is usable
    radsat = np.zeros((EDGE, EDGE), np.uint16)
    radsat[3, 3] = 1 << 4
    landsat(tmp_path, eight, qa=qa, radsat=radsat, kind=kind)
    landsat(tmp_path, five, spacecraft="LANDSAT_5", date="1999-07-01", kind=kind)
    temperature = BandSetRecipe("landsat_st", (Landsat(str(tmp_path / "L*")),))
    build(recipe(item(tmp_path), temperature), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    info = cube.bandsets["landsat_sr6"]
    assert [str(d) for d in info.dates] == ["1999-07-01T09:43:12", "2021-07-01T09:43:12"]
    assert info.platform.tolist() == [5, 7]
    assert {(b.scale, b.offset) for b in info.bands} == {(2.75e-5, -0.2)}
    pixels, valid = cube.reader("landsat_sr6").read(0, 0, EDGE, EDGE)
    for c, name in enumerate(COLOURS):
        np.testing.assert_array_equal(pixels[0, c], five[name])
        known = eight[name] != 0
        np.testing.assert_array_equal(pixels[1, c][known], eight[name][known])
    expected = np.ones((EDGE, EDGE), bool)
    expected[[0, 1, 3], [0, 1, 3]] = False
    np.testing.assert_array_equal(valid[1, 0], expected)
    assert valid[0].all()
    kelvin = cube.to_xarray("landsat_st")["pixels"].values[0, 0, 5, 5]
    assert kelvin == pytest.approx(0.00341802 * int(five["st"][5, 5]) + 149.0, rel=1e-6)


def test_a_tar_archive(tmp_path: Path) -> None:
    root = landsat(tmp_path / "x", dn())
    with tarfile.open(tmp_path / f"{root.name}.tar", "w") as archive:
        for file in sorted(root.iterdir()):
            archive.add(file, file.name)
    build(recipe(item(tmp_path, "*.tar", ("red",))), tmp_path / "c.zarr")
    cube = open_cube(tmp_path / "c.zarr")
    np.testing.assert_array_equal(cube.reader("landsat_sr6").read(0, 0, 9, 9)[0][0, 0],
                                  dn()["red"][:9, :9])  # fmt: skip
    assert cube.attrs["scenes"]["landsat_sr6"] == [root.name]


def test_flags_by_name(tmp_path: Path) -> None:
    """Snow is usable unless it is named; a flag that the table has not is refused."""
    qa = np.full((EDGE, EDGE), 30048, np.uint16)
    landsat(tmp_path, dn(), qa=qa)
    for reject, share in ((None, 1.0), (("fill", "snow"), 0.0)):
        build(recipe(item(tmp_path, "LC08*", ("red",), reject=reject)), tmp_path / "c.zarr",
              overwrite=True)  # fmt: skip
        valid = open_cube(tmp_path / "c.zarr").reader("landsat_sr6").read(0, 0, 9, 9)[1]
        assert valid.mean() == share
    with pytest.raises(CubeError, match=r"no such quality flag .* did you mean 'cloud_shadow'"):
        make_plan(recipe(item(tmp_path, "LC08*", ("red",), reject=("cloudshadow",))))


def test_another_scale(tmp_path: Path) -> None:
    landsat(tmp_path, dn(), scale=("0.0001", "0.0"))
    with pytest.raises(CubeError, match=r"unexpected scale .* found 0\.0001 DN \+0 in the MTL"):
        make_plan(recipe(item(tmp_path)))


def test_level_1_as_reflectance(tmp_path: Path) -> None:
    landsat(tmp_path, dn(), level="L1TP")
    with pytest.raises(CubeError, match=r"level 1 is not surface reflectance .* found L1TP"):
        make_plan(recipe(item(tmp_path)))


def test_correction_of_surface_reflectance(tmp_path: Path) -> None:
    landsat(tmp_path, dn())
    with pytest.raises(CubeError, match="surface reflectance is corrected already"):
        make_plan(recipe(item(tmp_path, radiometry="dos1")))


def test_wrong_zone_of_the_mtl(tmp_path: Path) -> None:
    landsat(tmp_path, dn(), zone=32)
    with pytest.raises(CubeError, match=r"wrong UTM zone .* expected zone 32"):
        make_plan(recipe(item(tmp_path)))


def _reflectance(folder: Path, **more: object) -> np.ndarray:
    out = folder / "c.zarr"
    item_ = BandSetRecipe("landsat_sr6", (Landsat(str(folder / "LC08*"), **more),),
                          dtype="float32")  # fmt: skip
    build(recipe(item_), out, overwrite=True)
    return open_cube(out).reader("landsat_sr6").read(0, 0, EDGE, EDGE)[0][0]


def test_level_1_by_hand(tmp_path: Path) -> None:
    """TOA, DOS1 and COST of one pixel, worked out here from the numbers of the MTL."""
    values = dn()
    for name in COLOURS:
        values[name][0] = 7000  # the dark object: 1/16 of the pixels
    landsat(tmp_path, values, level="L1TP")
    red, cos = int(values["red"][5, 5]), math.sin(math.radians(ELEVATION))  # 1/2

    toa = _reflectance(tmp_path, radiometry="toa")
    assert toa[2, 5, 5] == pytest.approx((2e-5 * red - 0.1) / 0.5, rel=1e-6)

    sun = math.pi * DISTANCE**2 * RADIANCE_MAXIMUM / REFLECTANCE_MAXIMUM
    to_rho = math.pi * DISTANCE**2 / (sun * cos)
    dark, bright = GAIN * 7000 + BIAS, GAIN * red + BIAS  # radiances: 24 and that of the pixel
    for method, downward in (("dos1", 1.0), ("cost", 0.5)):
        one_per_cent = 0.01 * sun * cos * downward / (math.pi * DISTANCE**2)
        expected = to_rho / downward * (bright - (dark - one_per_cent))
        rho = _reflectance(tmp_path, radiometry=method)
        assert rho[2, 5, 5] == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(rho[:, 0], 0.01, atol=1e-7)

    (tmp_path / "lut.csv").write_text(
        "band,a,b,c\n" + "".join(f"{n},0.003,0.05,0.1\n" for n in COLOURS)
    )
    curve = _reflectance(tmp_path, radiometry="curve", curves=str(tmp_path / "lut.csv"))
    y = 0.003 * bright - 0.05
    assert curve[2, 5, 5] == pytest.approx(y / (1 + 0.1 * y), rel=1e-6)


def test_a_curve_without_a_band(tmp_path: Path) -> None:
    landsat(tmp_path, dn(), level="L1TP")
    (tmp_path / "lut.json").write_text('{"reed": [1, 2, 3]}')
    with pytest.raises(CubeError, match=r"no coefficients for a band .* 'reed'"):
        make_plan(recipe(item(tmp_path, "LC08*", ("red",), radiometry="curve",
                              curves=str(tmp_path / "lut.json"))))  # fmt: skip


def test_sun_at_the_horizon(tmp_path: Path) -> None:
    landsat(tmp_path, dn(), level="L1TP", elevation=1.0)
    with pytest.raises(CubeError, match="sun too low for reflectance"):
        make_plan(recipe(item(tmp_path, radiometry="toa")))
