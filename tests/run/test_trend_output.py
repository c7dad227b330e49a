"""What `rsvlm trend` leaves: believed by its files, completed, cleared, and held by one run."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import trend_cubes as cubes

import rsvlm_jax
import rsvlm_jax.run.trend_result as result
from data_zarr import open_cube
from data_zarr.errors import CubeError
from data_zarr.ingest.schedule import alone
from data_zarr.regions import Region
from rsvlm_jax.config import ConfigError
from rsvlm_jax.run.blocks import Blocks
from rsvlm_jax.run.series_choice import choose
from rsvlm_jax.run.trend import LEAST_EDGE, NUMBERS, block_edge, trend_cube
from rsvlm_jax.run.trend_options import Options
from rsvlm_jax.timeseries import false_discovery


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cubes.make(tmp_path_factory.mktemp("output") / "julys.zarr").path


@pytest.fixture(scope="module")
def whole(known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("output") / "whole"
    computed(known, out)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A private copy of the result."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def computed(known: Path, out: Path, **more) -> int:
    source = choose(open_cube(known), index="ndvi")
    return trend_cube(source, Options(), out, **{"block": 16, **more}).report.computed


def files_of(out: Path) -> dict[str, str]:
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# ---- finished, or not ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trend.tif", "code.tif"])
@pytest.mark.parametrize("damage", [Path.unlink, flip])
def test_a_geotiff_that_is_lost_or_changed_is_made_again(name, damage, known, whole, out):
    damage(out / name)
    assert computed(known, out) == 0
    assert files_of(out) == files_of(whole)


@pytest.mark.parametrize("damage", [Path.unlink, flip])
def test_a_store_that_is_not_whole_is_computed_again(damage, known, whole, out):
    damage(out / "trend.zarr" / "slope" / "c" / "0" / "0")
    assert computed(known, out) == 4
    assert files_of(out) == files_of(whole)


def test_geotiffs_can_be_asked_for_later(known: Path, whole: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert computed(known, out, geotiff=False) == 4
    assert not list(out.glob("*.tif"))
    assert computed(known, out) == 0
    assert files_of(out) == files_of(whole)


def test_a_lost_table_of_sites_is_written_again(tmp_path: Path):
    cubes.make_points(tmp_path / "towers.zarr")
    source = choose(open_cube(tmp_path / "towers.zarr"), bands=("nir08",))
    table = tmp_path / "out" / "trend.csv"
    trend_cube(source, Options(), tmp_path / "out")
    before = table.read_text()
    table.unlink()
    assert trend_cube(source, Options(), tmp_path / "out").report.computed == 0
    assert table.read_text() == before


def test_what_killed_runs_have_left_is_cleared(known: Path, whole: Path, out: Path):
    (out / ".trend.zarr.123.part").mkdir()
    (out / ".trend.zarr.123.part" / "zarr.json").write_text("{}")
    for name in (".trend.tif.123.part", ".trend.tif.123.plain", ".trend.json.123.4"):
        (out / name).write_text("half")
    (out / "blocks").mkdir()
    (out / "blocks" / "block_0_0.npz").write_text("half")
    assert computed(known, out) == 0
    assert files_of(out) == files_of(whole)


def test_another_run_that_computes_into_it(known: Path, out: Path):
    with alone(out, "trend"), pytest.raises(CubeError, match="trend is being built by another"):
        computed(known, out)


def test_a_block_of_another_computation_is_none(tmp_path: Path):
    """Two that began at once have each claimed the folder: a block says whose it is."""
    mine = Blocks(tmp_path, (4, 4), block=4, what={"key": "a"})
    theirs = Blocks(tmp_path, (4, 4), block=4, what={"key": "b"})
    mine.save(mine.boxes[0], {"slope": np.ones((4, 4), np.float32)})
    assert mine.load(mine.boxes[0]) is not None
    assert theirs.load(theirs.boxes[0]) is None


def test_without_rasterio_nothing_is_computed_first(known: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    choice = {"index": "ndvi", "window": (4, 4, 8, 8)}
    with pytest.raises(CubeError, match="cannot write GeoTIFF without rasterio"):
        rsvlm_jax.trend(known, out=tmp_path / "out", **choice)
    assert not (tmp_path / "out").exists()
    found = rsvlm_jax.trend(known, out=tmp_path / "out", geotiff=False, **choice)
    assert found["slope"].shape == (8, 8)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"trend.zarr", "trend.json"}


# ---- how much ------------------------------------------------------------------------------------


def test_speed_and_progress_count_what_is_asked_for(known: Path, tmp_path: Path):
    lon, lat = zip(*(cubes.grid().lonlat(*corner) for corner in ((24, 2), (2, 10))), strict=True)
    region = Region.box(lon[0], lat[0], lon[1], lat[1])
    ring = region.polygons[0][0]
    triangle = dataclasses.replace(region, polygons=((ring[:3],),))
    source = choose(open_cube(known), index="ndvi", where=triangle)
    seen = []
    report = trend_cube(
        source, Options(), tmp_path / "out", block=8, geotiff=False,
        progress=lambda done, total, rate: seen.append((done, total)),
    ).report  # fmt: skip
    asked = int(source.inside((0, 0, *source.shape)).sum())
    assert 0 < asked < source.shape[0] * source.shape[1]
    assert report.pixels == asked
    assert report.pixels_per_second == pytest.approx(asked / report.seconds)
    assert seen[0] == (0, asked)
    assert seen[-1] == (asked, asked)


def test_blocks_of_whole_scenes_are_smaller_than_a_chunk(known: Path):
    source = choose(open_cube(known), index="ndvi")
    for edge in (64, 1000, 4096):
        info = dataclasses.replace(source.info, chunks=(1, 2, edge, edge))
        found = block_edge(dataclasses.replace(source, info=info))
        assert found >= LEAST_EDGE
        assert len(source.rows) * 2 * found**2 <= NUMBERS
        assert found % edge == 0 or edge % found == 0


def test_correction_over_a_map_is_the_function_of_the_package(monkeypatch):
    monkeypatch.setattr(result, "STRIP", 100)
    rng = np.random.default_rng(0)
    p = rng.random((40, 50)).astype(np.float32) ** 3
    p[rng.random(p.shape) < 0.2] = np.nan
    p[p < 0.01] = 0.005  # ties
    found = result.corrected(p)
    with jax.enable_x64(True):
        expected = np.asarray(false_discovery(p.astype(np.float64)).q).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(result.corrected(np.full((2, 2), np.nan, np.float32))).all()


# ---- instruments ---------------------------------------------------------------------------------

MIXED = ["landsat-7"] * 6 + ["landsat-8"] * 6
OTHER = ["landsat-8"] * 6 + ["sentinel-2c"] * 6
LINES = {"red": (0.9047, 0.0061), "nir08": (0.8462, 0.0412)}
"""Roy et al. (2016), ordinary least squares, ETM+ to OLI."""


def test_instruments_are_harmonized_by_platform(tmp_path: Path):
    known = cubes.make(tmp_path / "mixed.zarr", platform=MIXED)
    cube, part = open_cube(known.path), {"index": "ndvi", "window": (4, 4, 8, 8)}
    with pytest.warns(match="several instruments in one series.*--harmonize ols or rma"):
        plain = choose(cube, **part)
    adjusted = choose(cube, harmonize="ols", **part)
    assert plain.describe() != adjusted.describe()
    series = adjusted.read((0, 0, 8, 8)).values.reshape(8, 8, -1)
    pixels, valid = plain.reader.read(4, 4, 8, 8, None)
    order = [list(LINES).index(name) for name in plain.bands]
    scale, offset = (np.array(v)[order][:, None, None] for v in (cubes.SCALE, cubes.OFFSET))
    physical = pixels * scale + offset
    for i, (a, b) in enumerate(LINES.values()):
        band = plain.bands.index(list(LINES)[i])
        physical[:6, band] = a * physical[:6, band] + b
    nir, red = (physical[:, plain.bands.index(n)] for n in ("nir08", "red"))
    expected = np.where(valid[:, 0], (nir - red) / (nir + red), np.nan).transpose(1, 2, 0)
    np.testing.assert_allclose(series, expected, atol=1e-5)
    found = rsvlm_jax.trend(known.path, harmonize="ols", **part)
    assert found.attrs["harmonize"] == "ols"
    with pytest.raises(ConfigError, match="only of cubes in harmonize"):
        rsvlm_jax.trend(found["slope"].expand_dims("time"), harmonize="ols")


def test_sites_are_harmonized_date_by_date(tmp_path: Path):
    cubes.make_points(tmp_path / "towers.zarr")
    path, other = tmp_path / "towers.zarr", {"bands": ("nir08",), "harmonize": "ols"}
    source = choose(open_cube(path), **other)
    mixed = source.info.platform.copy()
    assert mixed.shape == source.info.dates.shape == (cubes.DATES, 5)
    mixed[:6] = 6  # Landsat 7
    info = dataclasses.replace(source.info, platform=mixed)
    plain = source.read((0, 0, 5, 1)).values[0]
    found = dataclasses.replace(source, info=info).read((0, 0, 5, 1)).values[0]
    a, b = LINES["nir08"]
    np.testing.assert_allclose(found[:, :6], a * plain[:, :6] + b, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 6:], plain[:, 6:])


def test_what_nobody_has_published_is_not_harmonized(tmp_path: Path):
    path = cubes.make(tmp_path / "other.zarr", platform=OTHER).path
    with pytest.raises(CubeError, match="no adjustment for this platform"):
        choose(open_cube(path), index="ndvi", harmonize="rma")


def test_what_is_harmonized_already(tmp_path: Path):
    path = cubes.make(tmp_path / "hls.zarr", platform=MIXED, source="NASA, HLS v2.0").path
    choose(open_cube(path), index="ndvi")  # without a warning
    with pytest.raises(Exception, match=r"nothing to harmonize.*HLS, which is harmonized"):
        choose(open_cube(path), index="ndvi", harmonize="ols")
