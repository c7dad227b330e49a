"""The methods of `trend` beside `sen`: what comes back, and under which name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import trend_cubes as cubes
import xarray as xr
from scipy.stats import t as student

import rsvlm_jax
from data_zarr import open_cube, validate
from experiments.bench import trend_cube as trend_bench
from rsvlm_jax.cli.main import VERBS, main
from rsvlm_jax.config import ConfigError
from rsvlm_jax.run.series_choice import choose
from rsvlm_jax.run.trend import NUMBERS, block_edge, trend_cube
from rsvlm_jax.run.trend_methods import METHODS, VARIABLES
from rsvlm_jax.run.trend_options import HEEDED, Options
from rsvlm_jax.timeseries import Code, decimal_years

SINCE = "2017-01-01"

NAMES = (
    *("slope", "intercept", "slope_lo", "slope_hi", "p", "p_corrected", "z", "tau", "s"),
    *("trend_strength", "season_strength"),
    *("break_date", "break_magnitude", "forecast", "forecast_lo", "forecast_hi", "n", "code"),
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cubes.make(tmp_path_factory.mktemp("trend") / "julys.zarr").path


def monthly(noise: float, years: int = 6) -> tuple[xr.DataArray, np.ndarray]:
    """Three series with a slope of 0.02 a year under a wave, and their decimal years."""
    steps = (30.4 * np.arange(12 * years)).astype("timedelta64[D]")
    when = np.datetime64("2012-01-15", "D") + steps
    t = decimal_years(when)
    wave = 0.2 * np.cos(2 * np.pi * t) + 0.05 * np.sin(4 * np.pi * t)
    rng = np.random.default_rng(7)
    values = 0.5 + 0.02 * (t - 2000) + wave + noise * rng.normal(size=(3, len(t)))
    return xr.DataArray(values, dims=("place", "time"), coords={"time": when}, name="x"), t


def test_names_are_those_of_the_house():
    assert set(VARIABLES) == set(NAMES)
    assert METHODS.keys() == HEEDED.keys()
    for name, row in METHODS.items():
        assert [v for v in NAMES if v in row.variables] == list(row.variables), name


def test_harmonic_is_least_squares_with_its_interval():
    data, t = monthly(0.05)
    found = rsvlm_jax.trend(data, method="harmonic", devices=1)
    turn = 2 * np.pi * t
    design = np.stack(
        [np.ones_like(t), t - 2000, *(f(k * turn) for k in (1, 2) for f in (np.cos, np.sin))], 1
    )
    beta, squares, *_ = np.linalg.lstsq(design, data.to_numpy().T, rcond=None)
    freedom = len(t) - design.shape[1]
    error = np.sqrt(squares / freedom * np.linalg.inv(design.T @ design)[1, 1])
    half = student.ppf(0.975, freedom) * error
    np.testing.assert_allclose(found["slope"], beta[1], rtol=1e-3)
    np.testing.assert_allclose(found["intercept"], beta[0], rtol=2e-3)
    np.testing.assert_allclose(found["slope_lo"], beta[1] - half, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["slope_hi"], beta[1] + half, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["p"], 2 * student.sf(beta[1] / error, freedom), rtol=2e-2)
    assert found.attrs["harmonics"] == 2


def test_forecast_goes_on():
    data, _ = monthly(0.0)
    found = rsvlm_jax.trend(data, method="forecast", at="2019-04-15", devices=1)
    t = decimal_years(["2019-04-15"])[0]
    expected = 0.5 + 0.02 * (t - 2000) + 0.2 * np.cos(2 * np.pi * t) + 0.05 * np.sin(4 * np.pi * t)
    np.testing.assert_allclose(found["forecast"], expected, atol=1e-4)
    assert (found["forecast_lo"] <= found["forecast"]).all()
    later = rsvlm_jax.trend(data, method="forecast", devices=1)
    last = data["time"].to_numpy()[-1].astype("datetime64[D]")
    assert later.attrs["at"] == str(last + np.timedelta64(365, "D"))


def test_landtrendr_finds_the_year_of_a_fall():
    when = np.array([f"{y}-07-01" for y in range(1990, 2016)], "datetime64[ns]")
    years = np.arange(1990, 2016)
    fall = np.where(years <= 2003, 0.6, 0.2)
    rise = np.where(years <= 2003, 0.2, 0.6)
    values = np.stack([fall, rise, np.full(26, 0.5)]) + 1e-3 * np.sin(years * years)
    values[2] = 0.5
    data = xr.DataArray(values, dims=("place", "time"), coords={"time": when})
    found = rsvlm_jax.trend(data, method="landtrendr", devices=1)
    dates = found["break_date"].to_numpy()  # as a cube's
    assert dates.dtype.kind == "M"
    assert str(dates[0])[:10] == "2003-01-01"
    assert np.isnat(dates[1:]).all()
    assert float(found["break_magnitude"][0]) == pytest.approx(-0.4, abs=0.01)
    assert int(found["code"][2]) == Code.CONSTANT
    up = rsvlm_jax.trend(data, method="landtrendr", disturbance="rise", devices=1)
    assert float(up["break_magnitude"][1]) == pytest.approx(0.4, abs=0.01)


def steps() -> tuple[xr.DataArray, np.ndarray]:
    """A fall of 0.3 in the middle of 2016, none, and a rise; every 16 days."""
    when = np.arange("2012-01-05", "2020-01-01", 16, "datetime64[D]")
    t = decimal_years(when)
    after = (t > 2016.5).astype(float)
    wave = 0.4 + 0.1 * np.cos(2 * np.pi * t)
    values = wave + np.array([-0.3, 0, 0.3])[:, None] * after
    values += 0.01 * np.random.default_rng(1).normal(size=values.shape)
    return xr.DataArray(values, dims=("place", "time"), coords={"time": when}, name="x"), t


@pytest.mark.parametrize("method", ["breaks", "monitor"])
def test_the_date_of_a_break(method: str):
    data, t = steps()
    more = {"since": "2015-01-01"} if method == "monitor" else {}
    found = rsvlm_jax.trend(data, method=method, devices=1, **more)
    dates = found["break_date"].to_numpy()
    first = data["time"].to_numpy()[t > 2016.5][0]
    assert method == "monitor" or np.isnat(dates[1])  # one of twenty is a false alarm there
    for i in (0, 2):
        assert 0 <= (dates[i] - first) / np.timedelta64(1, "D") <= 48
    size = found["break_magnitude"].to_numpy()
    assert size[0] == pytest.approx(-0.3, abs=0.05)
    assert size[2] == pytest.approx(0.3, abs=0.05)
    assert (found["n"] == len(t)).all()


def test_breaks_take_the_bands_of_the_cube(known: Path):
    both = choose(open_cube(known), several=True)
    assert both.bands == ("nir08", "red")
    assert both.name == "nir08"
    with pytest.raises(ConfigError, match="a method of one series in --bands"):
        choose(open_cube(known), bands=("nir08", "red"))


@pytest.mark.parametrize("method", ["harmonic", "landtrendr", "forecast", "monitor", "lasso"])
def test_the_verb_writes_and_draws_each_method(method: str, known: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    args = ["trend", str(known), "--index", "ndvi", "--method", method, "--out", str(out), "--json"]
    args += ["--harmonics", "1"] if method != "landtrendr" else []
    args += ["--since", SINCE] if method == "monitor" else []
    assert main([*args, "--block", "16"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(said["codes"].values()) == cubes.SIDE**2
    data = xr.open_zarr(out / "trend.zarr", consolidated=False, decode_coords="all")
    assert set(data.data_vars) == set(METHODS[method].variables)
    assert (out / "trend.png").stat().st_size > 10_000
    if "break_date" in data:
        assert data["break_date"].dtype.kind == "M"


def test_a_forecast_on_eight_devices_is_that_of_one(known: Path, tmp_path: Path):
    """Its dates decide on the host: the program of several devices is given them another way."""
    options = Options("forecast", harmonics=1)
    source = choose(open_cube(known), index="ndvi")
    found = []
    for devices in (1, -1):
        made = trend_cube(source, options, tmp_path / str(devices), devices=devices, geotiff=False)
        found.append(made.open().load())
    for name in METHODS["forecast"].variables:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


def test_sites_with_dates_of_their_own_are_forecast(tmp_path: Path):
    cubes.make_points(tmp_path / "towers.zarr")
    args = [
        "trend",
        str(tmp_path / "towers.zarr"),
        "--bands",
        "nir08",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*args, "--method", "forecast", "--harmonics", "1", "--at", "2021-07-01"]) == 0
    rows = list(csv.DictReader((tmp_path / "o" / "trend.csv").open()))
    assert [r["meaning"] for r in rows].count("too_few") >= 1
    assert {*rows[0]} == {"site", "lon", "lat", *METHODS["forecast"].variables, "meaning"}


def test_the_cube_of_the_benchmark(tmp_path: Path, monkeypatch):
    """`python -m experiments.bench trend_cube` in small: its cube is one, blocks are bounded."""
    monkeypatch.setenv("RSVLM_CACHE", str(tmp_path))
    path = trend_bench.make(64)
    validate(path).raise_if_bad()
    source = choose(open_cube(path), index="ndvi")
    edge = block_edge(source)
    assert edge % source.info.chunks[2] == 0
    assert edge == 64 or len(source.rows) * 2 * edge**2 <= NUMBERS


def test_a_season(known: Path):
    choice = {"index": "ndvi", "window": (4, 4, 8, 8), "devices": 1}
    whole = rsvlm_jax.trend(known, **choice)
    july = rsvlm_jax.trend(known, season=("06-15", "07-31"), **choice)
    np.testing.assert_array_equal(july["n"], whole["n"])
    with pytest.raises(Exception, match="too few dates"):
        rsvlm_jax.trend(known, season=("08-01", "09-30"), **choice)


def test_an_option_that_does_not_exist(known: Path):
    with pytest.raises(ConfigError, match="no such option in trend"):
        rsvlm_jax.trend(known, index="ndvi", tset="original")


def test_the_command_line_offers_what_there_is():
    from typing import get_args, get_type_hints

    from rsvlm_jax.cli import trend as cli
    from rsvlm_jax.run import trend_options

    assert "trend" in VERBS
    offered, there = get_type_hints(cli.Options), get_type_hints(trend_options.Options)
    for name in cli.COMPUTED:
        assert get_args(offered[name]) == get_args(there[name]), name
