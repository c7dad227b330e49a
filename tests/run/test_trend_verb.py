"""`rsvlm trend` and `rsvlm_jax.trend`: numbers, restarts, devices, places, files."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pymannkendall
import pytest
import rasterio
import trend_cubes as cubes
import xarray as xr
from distributed import LocalCluster
from pyproj import CRS
from scipy.stats import norm, theilslopes

import rsvlm_jax
from data_zarr import open_cube
from data_zarr.regions import Region
from rsvlm_jax.cli.main import main
from rsvlm_jax.run.blocks import Blocks
from rsvlm_jax.run.series_choice import choose
from rsvlm_jax.run.trend import trend_cube
from rsvlm_jax.run.trend_methods import METHODS, OUTSIDE
from rsvlm_jax.run.trend_options import Options
from rsvlm_jax.timeseries import Code, decimal_years, false_discovery, mann_kendall

CODED = {
    cubes.ALL_MASKED: Code.ALL_MASKED,
    cubes.THREE: Code.TOO_FEW,
    cubes.CONSTANT: Code.CONSTANT,
}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> cubes.Known:
    return cubes.make(tmp_path_factory.mktemp("trend") / "julys.zarr")


@pytest.fixture(scope="module")
def whole(known: cubes.Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Computed without a break, in four blocks."""
    out = tmp_path_factory.mktemp("trend") / "whole"
    trend_cube(source_of(known), Options(), out, block=16)
    return out


def source_of(known: cubes.Known, **choice):
    return choose(open_cube(known.path), index="ndvi", **choice)


def files_of(out: Path) -> dict[str, str]:
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


# ---- numbers and files ---------------------------------------------------------------------------


def test_the_verb_end_to_end(known: cubes.Known, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(["trend", str(known.path), "--index", "NDVI", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["pixels"] == cubes.SIDE**2
    assert said["pixels_per_second"] > 0
    assert said["seconds"] > 0
    assert said["codes"] == {"ok": cubes.SIDE**2 - 3, "too_few": 1, "constant": 1, "all_masked": 1}
    assert {Path(f).name for f in said["files"]} == {
        *("trend.zarr", "trend.tif", "code.tif", "trend.json", "trend.png")
    }
    assert sorted(p.name for p in out.iterdir()) == sorted(Path(f).name for f in said["files"])

    data = xr.open_zarr(out / "trend.zarr", consolidated=False, decode_coords="all")
    assert set(data.data_vars) == set(METHODS["sen"].variables)
    values = known.ndvi[:, :8].transpose(1, 2, 0).reshape(-1, cubes.DATES)
    with jax.enable_x64(True):
        expected = mann_kendall(values, decimal_years(cubes.dates()) - 2000)
    for name in ("slope", "intercept", "slope_lo", "slope_hi", "tau", "z", "s", "p"):
        found = data[name].to_numpy()[:8].ravel()
        np.testing.assert_allclose(found, getattr(expected, name), rtol=2e-3, atol=2e-5)
    np.testing.assert_array_equal(data["n"].to_numpy()[:8].ravel(), expected.n)
    np.testing.assert_array_equal(data["code"].to_numpy()[:8].ravel(), expected.code)
    adjusted = false_discovery(data["p"].to_numpy())
    np.testing.assert_allclose(data["p_corrected"], adjusted.q, rtol=1e-5)
    assert said["significant"] == pytest.approx(float((adjusted.q <= 0.05).sum() / (32 * 32 - 3)))

    assert data["slope"].attrs["units"] == "year-1"
    assert data["code"].attrs["flag_values"] == [*map(int, Code), OUTSIDE]
    assert len(data["code"].attrs["flag_meanings"].split()) == len(Code) + 1
    assert data.attrs["command"] == f"rsvlm trend {known.path} --index NDVI"
    assert data.attrs["input_digest"] == open_cube(known.path).digest()
    assert data.attrs["method"] == "sen"
    assert CRS.from_cf(data["spatial_ref"].attrs).to_epsg() == 32633


def test_geotiffs_are_cloud_optimised_and_say_what_they_are(whole: Path):
    data = xr.open_zarr(whole / "trend.zarr", consolidated=False)
    with rasterio.open(whole / "trend.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.crs.to_epsg() == 32633
        assert file.dtypes[0] == "float32"
        names = file.descriptions
        assert names == tuple(v for v in METHODS["sen"].variables if v != "code")
        assert file.units[names.index("slope")] == "year-1"
        np.testing.assert_array_equal(file.read(names.index("slope") + 1), data["slope"])
        np.testing.assert_array_equal(file.read(names.index("n") + 1), data["n"])
        assert file.tags()["test"] == "original"
    with rasterio.open(whole / "code.tif") as file:
        assert file.dtypes == ("uint8",)
        assert file.nodata == OUTSIDE
        assert file.tags()["flag_meanings"].split()[:2] == ["ok", "too_few"]
        np.testing.assert_array_equal(file.read(1), data["code"])


@pytest.mark.parametrize(("at", "code"), CODED.items())
def test_a_pixel_without_an_answer_has_a_code_and_nan(whole: Path, at, code: Code):
    data = xr.open_zarr(whole / "trend.zarr", consolidated=False)
    assert int(data["code"].to_numpy()[at]) == code
    for name in ("slope", "intercept", "slope_lo", "slope_hi", "p", "p_corrected", "z"):
        assert np.isnan(data[name].to_numpy()[at]), name


@pytest.mark.parametrize("test", ["seasonal", "correlated_seasonal"])
def test_seasons_are_months(known: cubes.Known, test: str):
    """Of one July a year: the seasonal tests are the plain one, of medians where there are two."""
    found = rsvlm_jax.trend(known.path, index="ndvi", test=test, window=(4, 4, 8, 8), devices=1)
    values = known.ndvi[:, 4:12, 4:12].reshape(cubes.DATES, -1)
    pair = np.where(np.isfinite(values[5:7]), values[5:7], values[6:4:-1]).mean(axis=0)
    yearly = np.concatenate([values[:5], pair[None], values[7:]])
    for i, series in enumerate(yearly.T):
        there = np.isfinite(series)
        expected = theilslopes(series[there], np.flatnonzero(there))
        slope, p = (float(found[k].to_numpy().ravel()[i]) for k in ("slope", "p"))
        assert slope == pytest.approx(expected.slope, rel=1e-3)
        plain = pymannkendall.original_test(series[there])
        score = abs(plain.s) / plain.var_s**0.5  # which the correlated test takes as it is
        assert p == pytest.approx(plain.p if test == "seasonal" else 2 * norm.sf(score), rel=1e-4)


def test_two_platforms_on_one_day_are_two_observations(known: cubes.Known):
    found = rsvlm_jax.trend(known.path, index="ndvi", window=(4, 4, 8, 8), devices=1)
    count = np.isfinite(known.ndvi[:, 4:12, 4:12]).sum(axis=0)
    np.testing.assert_array_equal(found["n"], count)


def test_platforms_and_dates_are_selected(known: cubes.Known):
    part = {"window": (4, 4, 8, 8), "devices": 1}
    there = np.isfinite(known.ndvi[:, 4:12, 4:12])
    found = rsvlm_jax.trend(known.path, index="ndvi", platforms=("landsat-9",), **part)
    np.testing.assert_array_equal(found["n"], there[6:].sum(axis=0))
    days = ("2011-01-01", "2015-07-01")
    found = rsvlm_jax.trend(known.path, index="ndvi", dates=days, **part)
    np.testing.assert_array_equal(found["n"], there[1:7].sum(axis=0))


def test_one_band_in_its_own_scale(known: cubes.Known):
    data = open_cube(known.path).to_xarray("landsat")
    series = data["pixels"].where(data["valid"]).isel(band=1, y=slice(4, 12), x=slice(4, 12))
    choice = {"bands": ("nir08",), "platforms": ("landsat-9",), "window": (4, 4, 8, 8)}
    found = rsvlm_jax.trend(known.path, **choice, devices=1)
    expected = rsvlm_jax.trend(series.isel(time=slice(6, None)), devices=1)
    np.testing.assert_allclose(found["slope"], expected["slope"], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found["code"], expected["code"])


# ---- restarts ------------------------------------------------------------------------------------


def test_killed_between_and_inside_blocks_gives_the_same_bytes(
    known: cubes.Known, whole: Path, tmp_path: Path, monkeypatch
):
    out, save = tmp_path / "cut", Blocks.save

    def dies(self, box, values):
        there = len(list(self.out.glob("block_*")))
        if there >= 2:
            self.file(box).write_bytes(b"half a block")
            raise RuntimeError("power cut")
        save(self, box, values)

    with monkeypatch.context() as patch:
        patch.setattr(Blocks, "save", dies)
        with pytest.raises(RuntimeError):
            trend_cube(source_of(known), Options(), out, block=16, workers=1)
    again = trend_cube(source_of(known), Options(), out, block=16)
    assert (again.report.blocks, again.report.computed) == (4, 2)
    assert files_of(out) == files_of(whole)
    ready = trend_cube(source_of(known), Options(), out, block=16)
    assert ready.report.computed == 0
    assert ready.report.codes == again.report.codes


@pytest.mark.slow
def test_sigkill_at_any_block_gives_the_same_bytes(known: cubes.Known, tmp_path: Path):
    words = ["trend", str(known.path), "--index", "ndvi", "--block", "8", "--no-figure", "--out"]
    command = [sys.executable, "-m", "rsvlm_jax.cli.main", *words]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    for blocks in (1, 5, 11):
        process = subprocess.Popen([*command, str(tmp_path / "cut")])
        while process.poll() is None:
            if len(list((tmp_path / "cut").glob("blocks/block_*"))) >= blocks:
                process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "cut")], check=True)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_killed_while_the_result_is_written(known, whole, tmp_path, monkeypatch):
    import rsvlm_jax.run.trend_files as module

    def dies(*args, **more):
        raise RuntimeError("power cut")

    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_geotiff", dies)
        with pytest.raises(RuntimeError):
            trend_cube(source_of(known), Options(), out, block=16)
    assert trend_cube(source_of(known), Options(), out, block=16).report.computed == 0
    assert files_of(out) == files_of(whole)


def test_sigterm_ends_after_a_block_with_75_and_it_goes_on(known, tmp_path, monkeypatch, capsys):
    save = Blocks.save

    def signalled(self, box, values):
        save(self, box, values)
        signal.raise_signal(signal.SIGTERM)

    args = ["trend", str(known.path), "--index", "ndvi", "--out", str(tmp_path / "out"), "--json"]
    args += ["--block", "16", "--workers", "1", "--no-figure", "--no-geotiff"]
    with monkeypatch.context() as patch:
        patch.setattr(Blocks, "save", signalled)
        assert main(args) == 75
    assert "run again" in capsys.readouterr().err
    assert main(args) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1 <= said["computed"] <= 3


# ---- devices and clusters ------------------------------------------------------------------------


def test_eight_devices_give_what_one_gives(known: cubes.Known, whole: Path, tmp_path: Path):
    assert len(jax.devices()) == 8
    trend_cube(source_of(known), Options(), tmp_path / "one", block=16, devices=1)
    one = xr.open_zarr(tmp_path / "one" / "trend.zarr", consolidated=False)
    all8 = xr.open_zarr(whole / "trend.zarr", consolidated=False)
    for name in METHODS["sen"].variables:
        np.testing.assert_array_equal(one[name], all8[name], err_msg=name)


def test_a_dask_cluster_gives_the_same_bytes(known: cubes.Known, whole: Path, tmp_path: Path):
    out = tmp_path / "cluster"
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        made = trend_cube(source_of(known), Options(), out, block=16, scheduler=address)
    assert made.report.computed == 4
    assert files_of(out) == files_of(whole)


# ---- where ---------------------------------------------------------------------------------------


def test_a_polygon_with_a_hole(known: cubes.Known, tmp_path: Path):
    grid = cubes.grid()
    ring = [(2, 2), (2, 18), (18, 18), (18, 2)]
    hole = [(8, 8), (8, 12), (12, 12), (12, 8)]
    rings = [[list(map(float, grid.lonlat(*corner))) for corner in r] for r in (ring, hole)]
    shape = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}}
    file = tmp_path / "field.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    found = rsvlm_jax.trend(known.path, index="ndvi", where=file, devices=1)
    inside = np.zeros((cubes.SIDE, cubes.SIDE), bool)
    inside[2:18, 2:18] = True
    inside[8:12, 8:12] = False
    y, x, h, w = Region.read(file).window(grid)
    np.testing.assert_array_equal(found["code"] != OUTSIDE, inside[y : y + h, x : x + w])
    np.testing.assert_allclose(found["x"], grid.x[x : x + w])


def test_a_box_in_degrees(known: cubes.Known, tmp_path: Path, capsys):
    (west, south), (east, north) = (cubes.grid().lonlat(r, c) for r, c in ((28, 4), (6, 26)))
    words = [f"{v:.6f}" for v in (west, south, east, north)]
    args = ["trend", str(known.path), "--index", "ndvi", "--out", str(tmp_path / "out"), "--json"]
    assert main([*args, "--no-figure", "--where", *words]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert abs(said["pixels"] - 22 * 22) <= 44


# ---- sites ---------------------------------------------------------------------------------------


def test_sites_are_a_table_and_a_picture(tmp_path: Path, capsys):
    values = cubes.make_points(tmp_path / "towers.zarr")
    out = tmp_path / "out"
    args = ["trend", str(tmp_path / "towers.zarr"), "--bands", "nir08", "--out", str(out)]
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pixels"] == 5
    rows = list(csv.DictReader((out / "trend.csv").open()))
    assert [r["site"] for r in rows] == [f"tower {i}" for i in range(5)]
    assert list(rows[0]) == ["site", "lon", "lat", *METHODS["sen"].variables, "meaning"]
    assert (rows[4]["slope"], rows[4]["meaning"], rows[4]["n"]) == ("", "too_few", "2")
    for i in range(4):
        when = decimal_years(cubes.dates() + i * np.timedelta64(1, "D")) - 2000
        expected = theilslopes(values[:, i], when)
        assert float(rows[i]["slope"]) == pytest.approx(expected.slope, rel=1e-3)
        assert float(rows[i]["slope_lo"]) == pytest.approx(expected.low_slope, rel=1e-3)
    assert not (out / "trend.tif").exists()
    assert (out / "trend.png").stat().st_size > 10_000


def test_sites_in_a_box(tmp_path: Path):
    cubes.make_points(tmp_path / "towers.zarr")
    box = (10.4, 45.0, 11.1, 47.0)
    found = rsvlm_jax.trend(tmp_path / "towers.zarr", bands=("red",), where=box)
    np.testing.assert_array_equal(found["code"] == OUTSIDE, [True, False, False, True, True])
