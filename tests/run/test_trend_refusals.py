"""`rsvlm trend` with input that has no trend: one line each, and the exit code."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trend_cubes as cubes
import xarray as xr
import zarr

import rsvlm_jax
from data_zarr.write import create_cube, seal
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.run.trend_options import Options
from rsvlm_jax.timeseries import Code, monitor_breaks


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cubes.make(tmp_path_factory.mktemp("trend") / "julys.zarr").path


@pytest.fixture
def copied(known: Path, tmp_path: Path) -> Path:
    """A private copy, to be damaged."""
    return Path(shutil.copytree(known, tmp_path / "copy.zarr"))


def refused(args: list[str], capsys) -> tuple[int, str]:
    """Exit code and the only line."""
    code = main(["trend", *args, "--json"])
    done = capsys.readouterr()
    assert done.err.count("\n") == 1, done.err
    line = done.err.removeprefix("error: ").rstrip("\n")
    assert json.loads(done.out.splitlines()[-1]) == {"error": line, "exit_code": code}
    return code, line


# ---- cubes ---------------------------------------------------------------------------------------

DATES = {
    "unsorted": (slice(None, None, -1), "dates are not sorted"),
    "duplicate": ([0, 0, *range(2, cubes.DATES)], "a platform repeats an instant"),
    "NaT": (None, "date missing"),
}


@pytest.mark.parametrize("name", DATES)
def test_dates_of_a_cube(name: str, copied: Path, tmp_path: Path, capsys):
    order, words = DATES[name]
    array = zarr.open_array(copied / "landsat" / "time", mode="r+")
    stored = np.asarray(array[...])
    if order is None:
        stored[3] = np.iinfo(stored.dtype).min
    else:
        stored = stored[order]
    array[...] = stored
    seal(copied)
    code, line = refused([str(copied), "--index", "ndvi", "--out", str(tmp_path / "o")], capsys)
    assert code == 3
    assert line.startswith(words)


def test_a_cube_without_crs(copied: Path, tmp_path: Path, capsys):
    file = copied / "zarr.json"
    document = json.loads(file.read_text())
    for name in ("proj:wkt2", "proj:code"):
        del document["attributes"][name]
    file.write_text(json.dumps(document))
    seal(copied)
    code, line = refused([str(copied), "--index", "ndvi", "--out", str(tmp_path / "o")], capsys)
    assert code == 3
    assert line.startswith("cube without CRS")


def test_dates_without_years(tmp_path: Path, capsys):
    path = cubes.make(tmp_path / "months.zarr", year_known=False).path
    code, line = refused([str(path), "--index", "ndvi", "--out", str(tmp_path / "o")], capsys)
    assert code == 3
    assert line.startswith("dates without years have no trend")


def test_a_wrong_scale(tmp_path: Path, capsys):
    path = cubes.make(tmp_path / "raw.zarr", scale=1.0, offset=0.0).path
    code, line = refused([str(path), "--index", "ndvi", "--out", str(tmp_path / "o")], capsys)
    assert code == 3
    assert line.startswith("impossible reflectances")


def test_everything_is_masked(tmp_path: Path):
    with create_cube(
        tmp_path / "dark.zarr", grid=cubes.grid(), bandsets=[cubes.optical()], title="dark",
        license="none", provenance="tests",
    ) as writer:  # fmt: skip
        stored = np.full((cubes.DATES, 2, cubes.SIDE, cubes.SIDE), 9000, np.int32)
        writer.write("landsat", 0, 0, stored, np.zeros(stored.shape[:1] + stored.shape[2:], bool))
    found = rsvlm_jax.trend(tmp_path / "dark.zarr", index="ndvi", window=(4, 4, 8, 8), devices=1)
    assert (found["code"] == int(Code.ALL_MASKED)).all()
    assert found["slope"].isnull().all()
    assert found["p_corrected"].isnull().all()


OPTIONS = {
    "an index whose bands are missing": (
        ["--index", "NDMI"], 3, "a band is missing in index 'ndmi'; expected swir16; found",
    ),
    "no such index": (["--index", "ndiv"], 2, "no such index in --index"),
    "a band that is missing": (["--bands", "green"], 3, "a band is missing in --bands"),
    "no band set": (["--bandset", "landsta"], 3, "no such band set"),
    "no series": ([], 2, "which series?"),
    "fewer than four dates": (
        ["--index", "ndvi", "--dates", "2010-01-01", "2012-12-31"], 3,
        "too few dates for a trend",
    ),
    "no date": (["--index", "ndvi", "--dates", "2010", "yesterday"], 2, "no date in --dates"),
    "no such platform": (["--index", "ndvi", "--platforms", "landsat8"], 2, "no such platform"),
    "a platform that is not there": (
        ["--index", "ndvi", "--platforms", "landsat-5"], 3, "too few dates for a trend",
    ),
    "a region elsewhere": (
        ["--index", "ndvi", "--where", "20", "10", "21", "11"], 3,
        "the region and the cube do not meet",
    ),
    "a box the wrong way round": (
        ["--index", "ndvi", "--where", "46", "15.2", "45", "15.1"], 3, "no box",
    ),
    "three numbers": (["--index", "ndvi", "--where", "1", "2", "3"], 2, "no place in --where"),
    "no such file": (["--index", "ndvi", "--where", "no.geojson"], 3, "unreadable region"),
    "a window outside": (["--index", "ndvi", "--window", "30", "0", "8", "8"], 3, "window outside"),
    "no block": (["--index", "ndvi", "--block", "0"], 2, "impossible block"),
    "no such devices": (
        ["--index", "ndvi", "--devices", "99"], 2, "no such number of devices in --devices",
    ),
    "no workers": (["--index", "ndvi", "--workers", "0"], 2, "impossible workers in --workers"),
    "an impossible level": (["--index", "ndvi", "--alpha", "5"], 2, "no level of significance"),
    "an impossible block": (["--index", "ndvi", "--block", "-1"], 2, "impossible block"),
    "no scheduler": (["--index", "ndvi", "--scheduler", "slurm"], 3, "no such scheduler"),
    "no such method": (["--method", "magic"], 2, ""),
    "an option of another method": (
        ["--index", "ndvi", "--harmonics", "3"], 2, "the method has no such option in --harmonics",
    ),
    "the default of an option of another method": (
        ["--index", "ndvi", "--method", "harmonic", "--test", "original"], 2,
        "the method has no such option in --test",
    ),
    "a threshold that is none": (
        ["--method", "breaks", "--threshold", "0"], 2, "no such threshold in --threshold",
    ),
    "a forecast of what is past": (
        ["--index", "ndvi", "--method", "forecast", "--at", "2015-01-01"], 2,
        "a forecast of what is past in --at; expected a day after 2020-07-01",
    ),
    "monitored from after the last date": (
        ["--index", "ndvi", "--method", "monitor", "--since", "2021-01-01"], 2,
        "nothing to monitor, or no history in --since",
    ),
    "a year that no date reaches": (
        ["--index", "ndvi", "--method", "forecast", "--at", "2300-01-01"], 2, "no date in --at",
    ),
    "too many waves": (
        ["--index", "ndvi", "--method", "harmonic", "--harmonics", "9"], 2, "no such harmonics",
    ),
    "a forecast of no day": (
        ["--index", "ndvi", "--method", "forecast", "--at", "soon"], 2, "no date in --at",
    ),
    "a season over New Year": (
        ["--index", "ndvi", "--season", "11-01", "02-28"], 2, "a season that ends before",
    ),
    "no day to monitor from": (
        ["--index", "ndvi", "--method", "monitor"], 2, "monitored since when?",
    ),
    "a level that was not simulated": (
        ["--index", "ndvi", "--method", "monitor", "--since", "2015-01-01", "--alpha", "0.1"], 2,
        "no critical value is known",
    ),
    "two bands of one series": (
        ["--bands", "nir08", "red"], 2, "a method of one series in --bands",
    ),
    "no season": (
        ["--index", "ndvi", "--season", "02-30", "03-01"], 2,
        "no date in --season; expected MM-DD; found 02-30",
    ),
    "dates the wrong way round": (
        ["--index", "ndvi", "--dates", "2020-01-01", "2010-01-01"], 2,
        "dates that end before they begin",
    ),
    "an endless penalty": (
        ["--index", "ndvi", "--method", "lasso", "--penalty", "inf"], 2, "no such penalty",
    ),
    "no such test": (["--test", "magic"], 2, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, known: Path, tmp_path: Path, capsys):
    words, code, start = OPTIONS[name]
    found, line = refused([str(known), "--out", str(tmp_path / "out"), *words], capsys)
    assert found == code
    assert line.startswith(start)


# ---- outputs -------------------------------------------------------------------------------------


def test_an_output_of_another_grid(known: Path, tmp_path: Path, capsys):
    args = [str(known), "--index", "ndvi", "--out", str(tmp_path / "out"), "--no-figure"]
    assert main(["trend", *args, "--window", "0", "0", "8", "8", "--devices", "1"]) == 0
    capsys.readouterr()
    code, line = refused([*args, "--window", "0", "0", "8", "9"], capsys)
    assert code == 2
    assert line.startswith("the output directory holds something else")
    assert "a trend of other data or options" in line


def test_an_output_of_another_command(known: Path, tmp_path: Path, capsys):
    (tmp_path / "out" / "map.zarr").mkdir(parents=True)
    args = [str(known), "--index", "ndvi", "--out", str(tmp_path / "out")]
    code, line = refused(args, capsys)
    assert code == 2
    assert line.startswith("the output directory holds something else")
    assert "found map.zarr" in line


def test_blocks_of_another_command(known: Path, tmp_path: Path, capsys):
    blocks = tmp_path / "out" / "blocks"
    blocks.mkdir(parents=True)
    (blocks / "block_0_0.npz").write_bytes(b"")
    (blocks / "tiles.json").write_text(json.dumps({"key": "a", "tile": 8, "shape": [32, 32]}))
    args = [str(known), "--index", "ndvi", "--out", str(tmp_path / "out")]
    code, line = refused(args, capsys)
    assert code == 2
    assert line.startswith("the output directory holds blocks of another computation")


def test_an_output_that_cannot_be_written(known: Path, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    code, line = refused(
        [str(known), "--index", "ndvi", "--out", str(tmp_path / "file" / "o")], capsys
    )
    assert code == 2
    assert line.startswith("cannot")


# ---- arrays --------------------------------------------------------------------------------------


def array(times=None, values=None) -> xr.DataArray:
    times = (
        np.array([f"201{y}-07-01" for y in range(8)], "datetime64[ns]") if times is None else times
    )
    values = 0.1 * np.arange(len(times)) if values is None else values
    cube = np.stack([values, -values], axis=1)
    return xr.DataArray(cube, dims=("time", "place"), coords={"time": times}, name="ndvi")


def test_an_array_in_any_order():
    whole = array()
    expected = rsvlm_jax.trend(whole, devices=1)
    mixed = rsvlm_jax.trend(whole.isel(time=[3, 1, 7, 0, 2, 6, 5, 4]), devices=1)
    xr.testing.assert_identical(mixed, expected)
    np.testing.assert_allclose(expected["slope"], [0.1, -0.1], rtol=1e-3)
    assert "units" not in expected["slope"].attrs  # nobody has said of what
    one = rsvlm_jax.trend(whole.assign_attrs(units="1"), devices=1)
    assert one["slope"].attrs["units"] == "year-1"
    assert one["code"].attrs["flag_values"].dtype == one["code"].dtype == np.uint8
    assert expected["slope"].dims == ("place",)


def test_gaps_and_constants_of_an_array_are_coded():
    values = np.full((8, 3), np.nan, np.float32)
    values[:3, 0], values[:, 1] = [1, 2, 3], 4
    data = xr.DataArray(values, dims=("time", "place"), coords={"time": array()["time"]})
    found = rsvlm_jax.trend(data, devices=1)
    assert found["code"].values.tolist() == [Code.TOO_FEW, Code.CONSTANT, Code.ALL_MASKED]
    assert found["slope"].isnull().all()


@pytest.mark.parametrize("attribute", ["_FillValue", "missing_value", "nodata", "nodatavals"])
def test_what_attributes_call_missing_is_missing(attribute: str):
    values = (10 * np.arange(8)).astype(np.int16)
    values[[2, 5]] = -9999
    listed = [-9999] if attribute == "nodatavals" else -9999
    data = array(values=values)[:, :1].assign_attrs({attribute: listed})
    found = rsvlm_jax.trend(data, devices=1)
    assert found["n"].item() == 6
    expected = rsvlm_jax.trend(array(values=np.where(values < 0, np.nan, values)), devices=1)
    assert found["slope"].item() == expected["slope"].values[0]
    with pytest.raises(DataError, match=f"no number for what is missing in ndvi.{attribute}"):
        rsvlm_jax.trend(data.assign_attrs({attribute: "none"}), devices=1)


@pytest.mark.parametrize("fill", [1e20, -9999.9])
def test_a_fill_value_is_that_of_the_type(fill: float):
    values = (0.1 * np.arange(8)).astype(np.float32)
    gone = values.copy()
    gone[[2, 5]] = fill  # which float32 rounds
    expected = rsvlm_jax.trend(array(values=np.where(gone == values, values, np.nan)), devices=1)
    found = rsvlm_jax.trend(array(values=gone)[:, :1].assign_attrs(_FillValue=fill), devices=1)
    assert found["n"].item() == 6
    assert found["slope"].item() == expected["slope"].values[0]


@pytest.mark.parametrize("method", ["sen", "forecast"])
def test_doubles_far_from_zero_keep_their_digits(method: str):
    t = np.array([f"{y}-{m:02}-15" for y in range(2010, 2014) for m in (1, 4, 7, 10)], "M8[ns]")
    values = np.random.default_rng(0).normal(size=(3, len(t))) + 0.1 * np.arange(len(t))
    values[1] += 1e8  # in steps of 8, as float32
    values[2, 3] = np.nan
    data = xr.DataArray(values, dims=("place", "time"), coords={"time": t}, name="x")
    more = {"harmonics": 1} if method == "forecast" else {}
    found = rsvlm_jax.trend(data, method=method, devices=1, **more)
    far = np.array([0, 1e8, 0])
    near = rsvlm_jax.trend(data - far[:, None], method=method, devices=1, **more)
    for name, got in found.data_vars.items():
        level = far if name in ("intercept", "forecast", "forecast_lo", "forecast_hi") else 0 * far
        np.testing.assert_allclose(
            got - level, near[name], rtol=2e-5, atol=max(1e-6, level.max() * 1e-7)
        )


def test_breaks_of_an_array_take_its_bands_together():
    t = np.arange("2012-01-05", "2016-01-01", 16, dtype="M8[D]").astype("M8[ns]")
    x = np.random.default_rng(0).normal(0.3, 0.01, (2, 1, len(t)))
    x[:, 0, 45:] += 0.2
    data = xr.DataArray(
        x, dims=("band", "place", "time"), coords={"time": t, "band": ["red", "nir08"]}
    )
    found = rsvlm_jax.trend(data, method="breaks", devices=1)
    assert found["break_date"].dims == ("place",)
    assert found["break_date"].values[0] == t[45]


def test_two_platforms_of_an_array_may_share_an_instant():
    times = array()["time"].values.copy()
    times[4] = times[3]
    whose = ["landsat-8"] * 4 + ["landsat-9"] * 4
    data = array(times).assign_coords(platform=("time", whose))
    expected = rsvlm_jax.trend(data, test="hamed_rao", devices=1)
    assert (expected["n"] == 8).all()
    mixed = rsvlm_jax.trend(data[::-1], test="hamed_rao", devices=1)
    xr.testing.assert_identical(mixed, expected)
    with pytest.raises(DataError, match="a date twice"):
        rsvlm_jax.trend(data.assign_coords(platform="landsat-8"), devices=1)


UTC = datetime.UTC
TIMES = {
    "duplicate": (np.array(["2010-07-01", "2010-07-01", "2011-07-01", "2012-07-01", "2013-07-01"],
                           "datetime64[ns]"), "a date twice"),
    "NaT": (np.array(["2010-07-01", "NaT", "2011-07-01", "2012-07-01", "2013-07-01"],
                     "datetime64[ns]"), "a date that is missing"),
    "a time zone": (np.array([datetime.datetime(y, 7, 1, tzinfo=UTC) for y in range(2010, 2015)],
                             object), "a date with a time zone"),
    "numbers": (np.arange(5), "no dates"),
    "a year beyond nanoseconds": (
        np.array([f"{y}-07-01" for y in range(2260, 2265)], "datetime64[s]").astype(object),
        "a year that nanoseconds do not reach",
    ),
    "three dates": (np.array(["2010-07-01", "2011-07-01", "2012-07-01"], "datetime64[ns]"),
                    "too few dates"),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMES)
def test_dates_of_an_array(name: str):
    times, words = TIMES[name]
    with pytest.raises(DataError, match=words):
        rsvlm_jax.trend(array(times), devices=1)


def test_arrays_that_are_no_series():
    with pytest.raises(DataError, match="no axis of dates"):
        rsvlm_jax.trend(array().rename(time="t"), devices=1)
    with pytest.raises(DataError, match="several arrays"):
        rsvlm_jax.trend(array().to_dataset(), devices=1)
    with pytest.raises(ConfigError, match="only of cubes in index"):
        rsvlm_jax.trend(array(), index="ndvi")


def test_mixed_scales_of_an_array():
    data = array().assign_attrs(scale_factor=1e-4)
    with pytest.raises(DataError, match="stored numbers that are not scaled in ndvi"):
        rsvlm_jax.trend(data, devices=1)


def test_a_stable_history_of_float32_is_refused():
    values, times = np.zeros((1, 40), np.float32), np.arange(40) / 8 + 2010.0
    with pytest.raises(ConfigError, match="a stable history takes float64"):
        monitor_breaks(values, times, since=2014.0, history="roc")


WORDS = {
    "a level as text": ({"alpha": "0.05"}, "no number in --alpha"),
    "half a wave": ({"method": "harmonic", "harmonics": 1.5}, "no whole number in --harmonics"),
    "three corners": ({"where": [1, 2, 3]}, "no place in --where"),
    "corners that are none": ({"where": object()}, "no place in --where"),
    "one date": ({"dates": ("2010-01-01",)}, "not as many words as it takes in --dates"),
    "a date of one word": ({"dates": "2010-01-01"}, "not as many words as it takes in --dates"),
    "half a window": ({"window": (1, 2)}, "not as many words as it takes in --window"),
    "an index that is a number": ({"index": 3}, "no such index"),
    "platforms that are numbers": ({"platforms": (8,)}, "no name in --platforms"),
    "a regression that does not exist": ({"harmonize": "pca"}, "no such regression"),
    "a default of another method": (
        {"method": "harmonic", "test": "original"}, "the method has no such option in --test",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_words_in_python(name: str, known: Path, untyped):
    more, words = WORDS[name]
    with pytest.raises(ConfigError, match=words):
        rsvlm_jax.trend(known, **{"index": "ndvi", **more})


def test_a_day_is_text_or_a_date(untyped):
    day = datetime.date(2015, 1, 1)
    for since in ("2015-01-01", day, np.datetime64(day)):
        assert Options(method="monitor", since=since).since == "2015-01-01"


@pytest.mark.parametrize("text", ["2020", "2020-06", "today", "2020-13-01"])
def test_a_part_of_a_date_is_none(text: str):
    with pytest.raises(ConfigError, match="no date in --at; expected YYYY-MM-DD"):
        Options(method="forecast", at=text)
