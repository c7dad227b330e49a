"""`validate` names each broken rule, and passes what is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_cube import HEIGHT, WIDTH, Small, create, optical, radar

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.schema import Report, validate


def only_error(report: Report) -> str:
    bad = [r for r in report.rows if r.level == "error"]
    assert len(bad) == 1, report
    assert not report.ok
    return str(bad[0])


def written(path: Path, pixels: np.ndarray, **changes: Any) -> Path:
    with create(path, bandsets=[optical(**changes)], targets=[]) as writer:
        writer.write("s2_l1c", 0, 0, pixels)
    return path


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_cube_passes(intact: Small, deep: bool) -> None:
    report = validate(intact.path, deep=deep)
    assert report.ok, report
    report.raise_if_bad()
    assert "error" not in str(report)


def test_takes_an_open_cube(intact: Small) -> None:
    assert validate(open_cube(intact.path)).ok


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({"scale": 1.0}, 200, 5000),  # DN taken as reflectance
        ({"scale": 1e-2}, 200, 5000),
        ({"scale": 1e-4, "offset": -0.1}, 10, 900),  # an offset applied twice
        ({"scale": 1e-4, "offset": -0.1}, 10, 1500),  # a share of it
    ],
)
def test_scale_that_gives_impossible_reflectances(
    tmp_path: Path, changes: Any, low: int, high: int
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(low, high, (3, 13, HEIGHT, WIDTH)).astype(np.int16)
    report = validate(written(tmp_path / "c.zarr", pixels, **changes))
    line = only_error(report)
    assert "impossible reflectances (s2_l1c)" in line
    assert "scale or offset is wrong, found" in line
    with pytest.raises(CubeError, match=r"impossible reflectances in .*c\.zarr: s2_l1c"):
        report.raise_if_bad()


def test_bright_snow_and_dark_water_are_possible(tmp_path: Path) -> None:
    pixels = np.full((3, 13, HEIGHT, WIDTH), 11000, np.int16)
    pixels[:, :, :50] = 30
    assert validate(written(tmp_path / "c.zarr", pixels)).ok


def test_linear_power_is_not_db(tmp_path: Path) -> None:
    with create(tmp_path / "c.zarr", bandsets=[radar()], targets=[]) as writer:
        power = np.random.default_rng(0).gamma(4, 0.02, (1, 2, HEIGHT, WIDTH))
        writer.write("s1_db", 0, 0, power.astype(np.float32))
    assert "impossible backscatter" in only_error(validate(tmp_path / "c.zarr"))


def test_wavelength_of_another_band(small: Small) -> None:
    """A permutation that both stored orders agree on still shows against the sensor table."""

    def change(document: dict[str, Any]) -> None:
        bands = document["attributes"]["bands"]
        for key in ("eo:center_wavelength", "eo:full_width_half_max"):
            bands[3][key], bands[7][key] = bands[7][key], bands[3][key]

    small.edit("s2_l1c", change, sealed=True)
    report = validate(small.path)
    bad = [r for r in report.rows if r.level == "error"]
    assert {r.where for r in bad} == {"s2_l1c/B04", "s2_l1c/B08"}
    assert all(r.rule == "wavelength belongs to the band" for r in bad)


def test_optical_band_without_wavelength(small: Small) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["attributes"]["bands"][3]["eo:center_wavelength"]

    small.edit("s2_l1c", change, sealed=True)
    assert "optical band has a wavelength (s2_l1c/B04)" in only_error(validate(small.path))


def test_unknown_band_set_is_a_warning(tmp_path: Path, intact: Small) -> None:
    with create(tmp_path / "c.zarr", bandsets=[optical(name="mine")], targets=[]) as writer:
        writer.write("mine", 0, 0, intact.pixels)
    report = validate(tmp_path / "c.zarr")
    assert report.ok
    assert any(r.level == "warn" and r.where == "mine" for r in report.rows)


def test_nothing_valid(tmp_path: Path) -> None:
    pixels = np.full((3, 13, HEIGHT, WIDTH), -9999, np.int16)
    line = only_error(validate(written(tmp_path / "c.zarr", pixels)))
    assert "some pixels are valid (s2_l1c)" in line


@pytest.mark.parametrize(
    ("value", "problem"), [(np.nan, "known somewhere"), (600.0, r"in its bounds")]
)
def test_target_without_use(tmp_path: Path, intact: Small, value: float, problem: str) -> None:
    with create(tmp_path / "c.zarr") as writer:
        writer.write("s2_l1c", 0, 0, intact.pixels, intact.valid)
        writer.write("s1_db", 0, 0, intact.radar)
        writer.write_target("agb", 0, 0, np.full((HEIGHT, WIDTH), value))
    assert problem in only_error(validate(tmp_path / "c.zarr"))


def test_flipped_bit_is_found_by_the_deep_check(small: Small) -> None:
    path = small.file("s1_db/pixels/c/0/0/1/1")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(bytes(content))
    assert "corrupt chunk" in only_error(validate(small.path, deep=True))


def test_missing_chunk_is_found(small: Small) -> None:
    small.file("s1_db/pixels/c/0/0/1/1").unlink()
    line = only_error(validate(small.path))
    assert "missing chunk" in line
    assert "s1_db/pixels/c/0/0/1/1" in line


def test_cube_that_does_not_open_is_one_row(small: Small) -> None:
    (small.path / "manifest.json").unlink()
    report = validate(small.path)
    assert len(report.rows) == 1
    with pytest.raises(CubeError, match="incomplete cube"):
        report.raise_if_bad()
