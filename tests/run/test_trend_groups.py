"""Tests of several series at once, and what is computed of months: `trend` beside its oracles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pymannkendall
import pytest
import trend_cubes as cubes
import xarray as xr

import rsvlm_jax
from data_zarr.write import create_cube
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.run.trend_fits import days_of
from rsvlm_jax.timeseries import Code, decimal_years, decompose

PART = {"window": (4, 4, 6, 6), "devices": 1}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> cubes.Known:
    return cubes.make(tmp_path_factory.mktemp("groups") / "julys.zarr")


@pytest.fixture(scope="module")
def monthly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six years of months: nir08 rises by 0.02 a year under a wave; one pixel has no March."""
    path = tmp_path_factory.mktemp("months") / "months.zarr"
    when = np.arange("2012-01", "2018-01", dtype="datetime64[M]") + np.timedelta64(14, "D")
    bands = cubes.optical(dates=when.astype("datetime64[s]"), platform=["landsat-8"] * len(when))
    nir = rise(when)[:, None, None] + np.random.default_rng(3).normal(0, 0.002, (72, 32, 32))
    stored = np.rint(np.stack([(nir + 0.2) / cubes.SCALE[0], nir / cubes.SCALE[1]], 1))
    valid = np.ones(nir.shape, bool)
    valid[2::12, 0, 1] = False
    with create_cube(
        path, grid=cubes.grid(), bandsets=[bands], title="months", license="none",
        provenance="tests",
    ) as writer:  # fmt: skip
        writer.write("landsat", 0, 0, stored.astype(np.int32), valid)
    return path


def rise(when: np.ndarray) -> np.ndarray:
    t = decimal_years(when)
    return 0.3 + 0.02 * (t - 2012) + 0.05 * np.cos(2 * np.pi * t)


def test_a_region_is_one_test_of_its_places(known: cubes.Known, tmp_path: Path, capsys):
    out = tmp_path / "out"
    args = ["trend", str(known.path), "--index", "ndvi", "--test", "regional", "--out", str(out)]
    assert main([*args, "--window", "4", "4", "6", "6", "--no-geotiff", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["blocks"] == 1
    found = xr.open_zarr(out / "trend.zarr", consolidated=False)
    values = known.ndvi[:, 4:10, 4:10].reshape(cubes.DATES, -1)
    year = np.where(np.isfinite(values[5:7]), values[5:7], values[6:4:-1]).mean(axis=0)
    expected = pymannkendall.regional_test(np.concatenate([values[:5], year[None], values[7:]]))
    for name, value in (("p", expected.p), ("z", expected.z), ("slope", expected.slope)):
        np.testing.assert_allclose(found[name], np.full((6, 6), value), rtol=1e-3, err_msg=name)
    assert "all places" in found["n"].attrs["long_name"]
    assert (out / "trend.png").exists()
    assert main([*args, "--block", "16"]) == 2
    assert "one test has one block" in capsys.readouterr().err


@pytest.mark.parametrize("test", ["multivariate", "correlated_multivariate"])
def test_bands_are_one_test_of_a_pixel(test: str):
    when = np.array([f"{y}-07-01" for y in range(2000, 2020)], "datetime64[ns]")
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 5, 20)) + rng.normal(size=(5, 20)) + 0.05 * np.arange(20)
    values[0, 0, 3] = np.nan
    data = xr.DataArray(values, dims=("band", "place", "time"), coords={"time": when})
    found = rsvlm_jax.trend(data, test=test, devices=1)
    assert found["p"].dims == ("place",)
    oracle = getattr(pymannkendall, f"{test}_test")
    for i in range(5):
        expected = oracle(values[:, i].T)
        assert float(found["p"][i]) == pytest.approx(expected.p, rel=1e-3)
        assert float(found["slope"][i]) == pytest.approx(expected.slope, rel=5e-3, abs=1e-3)
    with pytest.raises(DataError, match="no axis of bands"):
        rsvlm_jax.trend(data.isel(band=0), test=test, devices=1)


def test_bands_of_a_cube(known: cubes.Known):
    days = ("2010-01-01", "2014-12-31")
    found = rsvlm_jax.trend(
        known.path, bands=("nir08", "red"), test="multivariate", dates=days, **PART
    )
    each = [rsvlm_jax.trend(known.path, bands=(b,), dates=days, **PART) for b in ("nir08", "red")]
    np.testing.assert_array_equal(found["n"], each[0]["n"] + each[1]["n"])
    answered = (found["code"] == Code.OK) & (each[0]["code"] == Code.OK)
    assert answered.sum() > 10
    score = (each[0]["s"] + each[1]["s"]).where(answered)
    np.testing.assert_array_equal(found["s"].where(answered), score)
    with pytest.raises(ConfigError, match="two or more"):
        rsvlm_jax.trend(known.path, bands=("red",), test="multivariate", **PART)


def test_months_without_a_date_are_no_season():
    """Three months a year: the test is of these three, and the line stands where they do."""
    months = [np.datetime64(f"{y}-{m:02d}-15") for y in range(2003, 2019) for m in (6, 7, 9)]
    when = np.array(months, "datetime64[ns]")
    t = decimal_years(when) - 2000
    values = 0.1 * t + np.random.default_rng(2).normal(0, 0.4, (4, len(t)))
    values[3, ::3] = np.nan  # no June: no complete year, but seen
    data = xr.DataArray(values, dims=("place", "time"), coords={"time": when})
    found = rsvlm_jax.trend(data, test="correlated_seasonal", devices=1)
    assert found["code"].to_numpy().tolist() == [Code.OK] * 3 + [Code.TOO_FEW]
    for i in range(3):
        expected = pymannkendall.correlated_seasonal_test(values[i], period=3)
        assert float(found["p"][i]) == pytest.approx(expected.p, rel=1e-3)
        line = float(found["intercept"][i]) + float(found["slope"][i]) * np.median(t)
        assert line == pytest.approx(np.median(values[i]), abs=0.01)


def test_sites_have_their_own_months(tmp_path: Path):
    cubes.make_points(tmp_path / "towers.zarr")
    found = rsvlm_jax.trend(
        tmp_path / "towers.zarr", bands=("nir08",), test="correlated_seasonal", devices=1
    )
    assert found["code"].to_numpy().tolist()[:4] == [Code.OK] * 4


def test_stl_of_a_cube(monthly: Path):
    found = rsvlm_jax.trend(monthly, bands=("nir08",), method="stl", window=(0, 0, 2, 2))
    assert found["code"].to_numpy().tolist() == [[Code.OK, Code.TOO_FEW], [Code.OK, Code.OK]]
    answered = found["code"] == Code.OK
    np.testing.assert_allclose(found["slope"].to_numpy()[answered], 0.02, atol=1e-3)
    np.testing.assert_allclose(found["intercept"].to_numpy()[answered], 0.06, atol=0.02)
    assert float(found["trend_strength"].where(answered).min()) > 0.9
    assert float(found["season_strength"].where(answered).min()) > 0.9


def test_stl_of_an_array_is_that_of_the_engine():
    when = np.arange("2012-01", "2018-01", dtype="datetime64[M]") + np.timedelta64(14, "D")
    values = rise(when) + np.random.default_rng(5).normal(0, 0.02, (256, 72))
    data = xr.DataArray(values, dims=("place", "time"), coords={"time": when.astype("M8[ns]")})
    found = rsvlm_jax.trend(data, method="stl", devices=1)
    parts = decompose(values.astype(np.float32), np.arange(72) / 12)
    rest = np.asarray(parts.remainder)
    for name, part in (("trend_strength", parts.trend), ("season_strength", parts.seasonal)):
        strength = 1 - rest.var(1) / (rest + np.asarray(part)).var(1)
        np.testing.assert_allclose(found[name], strength, rtol=1e-4)


def test_the_last_month_of_the_same_name_again(monthly: Path):
    words = {"bands": ("nir08",), "window": (0, 0, 2, 2), "method": "forecast"}
    found = rsvlm_jax.trend(monthly, model="seasonal_naive", at="2018-03-20", **words)
    assert found["code"].to_numpy().tolist() == [[Code.OK, Code.TOO_FEW], [Code.OK, Code.OK]]
    last = rise(np.array(["2017-03-15"], "datetime64[D]"))
    there = (found["code"] == Code.OK).to_numpy()
    np.testing.assert_allclose(found["forecast"].to_numpy()[there], last[0], atol=0.01)
    lo, hi = (found[k].to_numpy()[there] for k in ("forecast_lo", "forecast_hi"))
    truth = rise(np.array(["2018-03-15"], "datetime64[D]"))[0]
    assert ((lo < truth) & (truth < hi)).all()
    with pytest.raises(ConfigError, match="no such option"):
        rsvlm_jax.trend(monthly, model="seasonal_naive", harmonics=1, **words)


def test_the_lasso_has_a_line_and_no_test(monthly: Path):
    words = {"bands": ("nir08",), "window": (0, 0, 2, 2), "method": "lasso"}
    found = rsvlm_jax.trend(monthly, penalty=0.0, **words)
    assert set(found.data_vars) == {"slope", "intercept", "n", "code"}
    np.testing.assert_allclose(found["slope"], 0.02, atol=1e-3)
    np.testing.assert_allclose(found["intercept"], 0.06, atol=0.01)
    shrunk = rsvlm_jax.trend(monthly, penalty=0.01, **words)
    assert (shrunk["slope"] < found["slope"] - 1e-3).all()
    with pytest.raises(ConfigError, match="no such option"):
        rsvlm_jax.trend(monthly, alpha=0.1, **words)


@pytest.mark.parametrize("clock", ["00:00", "13:30", "18:00", "23:55"])
def test_a_break_of_an_afternoon_is_of_its_day(clock: str):
    """To float32, as the engine has dates: of 60 years around the middle."""
    days = np.arange("1990-01-01", "2020-01-01", 97, dtype="datetime64[D]")
    when = days + np.timedelta64(int(clock[:2]) * 60 + int(clock[3:]), "m")
    years = (decimal_years(when) - 2005).astype(np.float32).astype(np.float64) + 2005
    found = np.datetime64("2000-01-01") + days_of(years).astype("timedelta64[D]")
    np.testing.assert_array_equal(found, days)
