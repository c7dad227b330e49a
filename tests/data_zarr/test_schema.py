"""`validate` names each broken rule, and passes what is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_points
import zarr
from small_cube import HEIGHT, WIDTH, Small, create, optical, radar

from data_zarr import schema
from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.read import Reader
from data_zarr.rules import (
    OPENING,
    OPENING_BANDSET,
    OPENING_DATED,
    OPENING_PLACES,
    OPENING_RASTER,
    Row,
)
from data_zarr.schema import Report, validate
from data_zarr.write import seal


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


def test_of_large_chunks_some_dates_are_looked_at(intact: Small, monkeypatch) -> None:
    cube, seen = open_cube(intact.path), []
    read = Reader.read

    def counted(self: Any, *window: Any) -> Any:
        seen.append(read(self, *window))
        return seen[-1]

    monkeypatch.setattr(Reader, "read", counted)
    for numbers, dates in ((2**22, 3), (1, 2)):
        monkeypatch.setattr(schema, "SAMPLE", numbers)
        monkeypatch.setattr(schema, "LEAST_DATES", 2)
        seen.clear()
        schema.check_inputs(cube, ["s2_l1c"])
        assert {len(pixels) for pixels, _ in seen} == {dates}


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
        power[0, :, 0, :5] = -0.001  # noise was subtracted
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


def test_each_rule_has_a_row(intact: Small) -> None:
    """What opening has checked is said rule by rule, for the cube and for each band set."""
    rows = validate(intact.path).rows
    for rule in (*OPENING, *OPENING_RASTER):
        assert Row(rule, "ok", "cube") in rows
    for rule in (*OPENING_BANDSET, *OPENING_DATED):
        for name in ("s2_l1c", "s1_db"):
            assert Row(rule, "ok", name) in rows
    found = {r.rule for r in rows if r.where == "s2_l1c"}
    assert {
        "bands and wavelengths",
        "scale, offset and fill of CF are those of the bands",
        "chunks carry a checksum",
        "CF and GeoZarr give the same place",
    } <= found


def attribute(key: str, value: Any) -> Any:
    def change(document: dict[str, Any]) -> None:
        document["attributes"][key] = value

    return change


def no_checksum(document: dict[str, Any]) -> None:
    inner = document["codecs"][0]["configuration"]
    inner["codecs"] = [c for c in inner["codecs"] if c["name"] != "crc32c"]


def nanometres(document: dict[str, Any]) -> None:
    document["attributes"]["bands"][3]["eo:center_wavelength"] = 665.0


def first_scale(value: Any) -> Any:
    def change(document: dict[str, Any]) -> None:
        document["attributes"]["bands"][0]["raster:scale"] = value

    return change


MOVED = "500010.0 10.0 0.0 5080000.0 0.0 -10.0"


@pytest.mark.parametrize(
    ("node", "change", "line"),
    [
        (
            "s2_l1c/pixels",
            attribute("scale_factor", 1e-3),
            "scale, offset and fill of CF are those of the bands (s2_l1c): "
            "expected scale 0.0001, offset 0, found scale 0.001, offset 0",
        ),
        (
            "s2_l1c/pixels",
            attribute("_FillValue", 0),
            "scale, offset and fill of CF are those of the bands (s2_l1c): "
            "expected scale 0.0001, offset 0, fill -9999, found scale 0.0001, offset 0, fill 0",
        ),
        (
            "s1_db/spatial_ref",
            attribute("GeoTransform", MOVED),
            "CF and GeoZarr give the same place (s1_db): "
            f"expected 500000 10 0 5080000 0 -10, found {MOVED.replace('.0', '')}",
        ),
        (
            "s1_db/spatial_ref",
            attribute("crs_wkt", "another"),
            "CF and GeoZarr give the same place (s1_db): expected one CRS, found another",
        ),
        (
            "s2_l1c",
            nanometres,
            "wavelength is in micrometres (s2_l1c/B04): expected 0.2 .. 20, found 665: nanometres",
        ),
    ],
)
def test_metadata_that_other_readers_trip_on(
    small: Small, node: str, change: Any, line: str
) -> None:
    small.edit(node, change, sealed=True)
    assert line in only_error(validate(small.path))


def test_chunks_without_a_checksum(small: Small) -> None:
    small.edit("s1_db/valid", no_checksum, sealed=True)
    bad = [str(r) for r in validate(small.path).rows if r.level == "error"]
    assert bad[0].startswith("error chunks carry a checksum (s1_db/valid): expected crc32c, found")


def test_a_scale_of_nothing(small: Small) -> None:
    small.edit("s2_l1c", first_scale(0.0), sealed=True)
    rules = {r.rule for r in validate(small.path).rows if r.level == "error"}
    assert "scales are numbers other than 0" in rules


def test_nodata_zero(small: Small) -> None:
    small.edit("s2_l1c", attribute("nodata", 0), sealed=True)
    small.edit("s2_l1c/pixels", attribute("_FillValue", 0), sealed=True)
    assert "nodata is not a plausible value (s2_l1c)" in only_error(validate(small.path))


def test_a_scale_applied_twice(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(200, 5000, (3, 13, HEIGHT, WIDTH)).astype(np.int16)
    line = only_error(validate(written(tmp_path / "c.zarr", pixels, scale=1e-8)))
    assert "impossible reflectances (s2_l1c)" in line
    assert "the scale was applied twice, found 4.95e-05" in line


def test_a_step_at_baseline_04_is_a_warning(tmp_path: Path) -> None:
    pixels = np.full((3, 13, HEIGHT, WIDTH), 1000, np.int16)
    pixels[2] = 2000
    dates = ("2021-12-01", "2022-01-10", "2022-02-10")
    report = validate(written(tmp_path / "c.zarr", pixels, dates=dates, platform="sentinel-2a"))
    assert report.ok
    assert any(r.rule == "no step at 2022-01-25" and r.level == "warn" for r in report.rows)


def test_a_class_without_a_name(tmp_path: Path) -> None:
    info = TargetInfo("cover", kind="category", categories=((1, "forest"), (2, "water")))
    with create(tmp_path / "c.zarr", bandsets=[radar()], targets=[info]) as writer:
        writer.write("s1_db", 0, 0, np.full((1, 2, HEIGHT, WIDTH), -12, np.float32))
        writer.write_target("cover", 0, 0, np.full((HEIGHT, WIDTH), 7.0, np.float32))
    line = only_error(validate(tmp_path / "c.zarr"))
    assert "classes have a name (targets/cover): expected 1, 2, found 7" in line


def no_crs(document: dict[str, Any]) -> None:
    for key in ("proj:wkt2", "proj:code"):
        del document["attributes"][key]


def shorter(document: dict[str, Any]) -> None:
    document["shape"][2] = 90


@pytest.mark.parametrize(
    ("node", "change", "rule"),
    [
        ("", attribute("format_version", 99), "unknown layout"),
        ("", no_crs, "cube without CRS"),
        ("", attribute("spatial:transform", [10, 0, 5e5, 0, 10, 5e6]), "grid is not north-up"),
        ("", attribute("geospatial_lat_min", 12.0), "CRS or transform disagrees"),
        ("s2_l1c/pixels", shorter, "band set and grid differ"),
        ("targets/agb", lambda d: d["shape"].__setitem__(0, 90), "target and grid differ"),
    ],
)
def test_what_opening_refuses_is_a_row(small: Small, node: str, change: Any, rule: str) -> None:
    small.edit(node, change, sealed=True)
    (row,) = validate(small.path).rows
    assert (row.level, rule in row.rule) == ("error", True), row


def test_truncated_and_unlisted_files(small: Small) -> None:
    path = small.file("s2_l1c/pixels/c/0/0/0/0")
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated chunk" in only_error(validate(small.path))


def test_metadata_edited_after_the_seal(small: Small) -> None:
    small.edit("s2_l1c", attribute("source", "elsewhere"), sealed=False)
    (row,) = validate(small.path).rows
    assert row.rule == "changed metadata"


def test_rules_of_places(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    small_points.write(path)
    rows = validate(path).rows
    assert all(r.level != "error" for r in rows)
    for rule in OPENING_PLACES:
        assert Row(rule, "ok", "cube") in rows
    assert not any("CRS" in r.rule or "CF and GeoZarr" in r.rule for r in rows)


@pytest.mark.parametrize(
    ("array", "value", "rule"),
    [
        ("labels/site", "plot-1", "sites repeated or without a name"),
        ("labels/lat", 100.0, "degrees outside the earth"),
        ("labels/lat", np.nan, "degrees outside the earth"),
        ("s1_db/lon", 0.0, "coordinate lon disagrees with the cube's sites"),
        ("s1_db/site", "elsewhere", "coordinate site disagrees with the cube's sites"),
        ("s2_l2a/time", np.iinfo(np.int64).min, "a missing date before a real one"),
        ("s2_l2a/platform", 99, "platform outside the cube's own table"),
    ],
)
def test_places_that_do_not_open_are_a_row(
    tmp_path: Path, array: str, value: Any, rule: str
) -> None:
    path = tmp_path / "p.zarr"
    small_points.write(path)
    stored: Any = zarr.open_array(path / array, mode="r+")
    values = stored[...]
    values[(0,) * values.ndim] = value
    stored[...] = values
    seal(path)
    (row,) = validate(path).rows
    assert (row.level, row.rule) == ("error", rule), row


def two(path: Path) -> Path:
    with create(path, bandsets=[optical(), optical(name="twenty", factor=2)]) as writer:
        writer.write("s2_l1c", 0, 0, np.full((3, 13, HEIGHT, WIDTH), 500, np.int16))
        half = (3, 13, HEIGHT // 2, WIDTH // 2)
        writer.write("twenty", 0, 0, np.full(half, 500, np.int16))
        writer.write_target("agb", 0, 0, np.ones((HEIGHT, WIDTH), np.float32))
    return path


def test_larger_pixels_have_a_place_of_their_own(tmp_path: Path) -> None:
    path = two(tmp_path / "f.zarr")
    rows = validate(path).rows
    assert Row("CF and GeoZarr give the same place", "ok", "twenty") in rows
    small = Small(path, *[np.zeros(0)] * 4)
    small.edit(
        "twenty/spatial_ref",
        attribute("GeoTransform", "500000.0 10.0 0.0 5080000.0 0.0 -10.0"),
        sealed=True,
    )
    assert "expected 500000 20 0 5080000 0 -20" in only_error(validate(path))


def test_a_factor_that_does_not_fit_the_shape(tmp_path: Path) -> None:
    path = two(tmp_path / "f.zarr")
    Small(path, *[np.zeros(0)] * 4).edit("twenty", attribute("factor", 3), sealed=True)
    (row,) = validate(path).rows
    assert row.rule == "band set and grid differ"
