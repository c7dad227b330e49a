"""`rsvlm predict` at depth: every date, a period, gaps, restart, devices, what reads the files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_zarr.errors import CubeError
from data_zarr.ingest.schedule import alone
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import ConfigError, DataError, MeshConfig
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.mapped import Map
from rsvlm_jax.run.predict import days_of, predict
from rsvlm_jax.run.tiles import tiles
from rsvlm_jax.run.trained import Loaded, load_run

DATES = ["2015-07-11", "2015-07-31", "2015-08-20", "2015-08-30", "2015-09-09"]
CLEAR = np.array([True, False, False, True, True])
"""Of the shipped cube; what is not clear is cloudy everywhere."""


@pytest.fixture(scope="module")
def loaded(finished: Path) -> Loaded:
    return load_run(finished)


@pytest.fixture(scope="module")
def cube():
    return find_cube("sample:slovenia_s2")


@pytest.fixture(scope="module")
def each(loaded: Loaded, cube, tmp_path_factory: pytest.TempPathFactory) -> Map:
    return predict(loaded, cube, tmp_path_factory.mktemp("each"), dates="each", overlap=0)


def files(out: Path) -> dict[str, bytes]:
    """Every file below."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_every_date_has_a_map_and_a_cloudy_one_has_no_answer(each: Map):
    assert each.mean.shape == (5, 101, 100)
    np.testing.assert_array_equal(np.isfinite(each.mean).all((1, 2)), CLEAR)
    np.testing.assert_array_equal(np.isnan(each.mean).all((1, 2)), ~CLEAR)
    assert (each.lower[CLEAR] <= each.upper[CLEAR]).all()
    assert np.abs(each.mean[0] - each.mean[4]).max() > 1e-3, "dates are told apart"


def test_a_date_alone_is_the_period_of_that_day(each: Map, loaded: Loaded, cube, tmp_path: Path):
    one = predict(loaded, cube, tmp_path, since=DATES[3], until=DATES[3], overlap=0, geotiff=False)
    np.testing.assert_array_equal(one.mean, each.mean[3])


def test_files_open_in_xarray_rioxarray_and_gdal(each: Map):
    import rasterio
    import rioxarray  # noqa: F401
    import xarray

    made = xarray.open_zarr(each.zarr, consolidated=False)
    assert made["tree_cover"].dims == ("time", "y", "x")
    assert [str(t)[:10] for t in made["time"].values] == DATES
    assert made["tree_cover"].rio.crs.to_epsg() == 32633
    assert "all their dates" in made.attrs["interval"] or "own" in made.attrs["interval"]
    np.testing.assert_array_equal(made["tree_cover"].values, each.mean)
    assert sorted(p.name for p in each.out.glob("*.tif")) == [f"map_{d}.tif" for d in DATES]
    with rasterio.open(each.out / f"map_{DATES[4]}.tif") as tif:
        assert tif.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert tif.descriptions[:2] == ("tree_cover", "tree_cover_lower")
        assert tif.tags()["last_date"] == DATES[4]
        np.testing.assert_array_equal(tif.read(1), each.mean[4])
    opened = xarray.open_dataarray(each.out / f"map_{DATES[4]}.tif", engine="rasterio")
    np.testing.assert_allclose(opened.x, made.x)


def test_the_zarr_holds_only_codecs_that_gdal_reads(each: Map):
    """Of Python 3.11 rasterio's GDAL (3.10) reads no Zarr v3 of today; from 3.12 on it opens it."""
    import rasterio
    from rasterio.errors import RasterioIOError

    for file in each.zarr.rglob("zarr.json"):
        known = {c["name"] for c in json.loads(file.read_text()).get("codecs", [])}
        assert known <= {"bytes", "blosc", "zstd"}, file
    where = f'ZARR:"{each.zarr}":/tree_cover:4'
    if tuple(map(int, rasterio.__gdal_version__.split(".")[:2])) < (3, 12):
        with pytest.raises(RasterioIOError, match="Unsupported codec: bytes"):
            rasterio.open(where)
        return
    with rasterio.open(where) as layer:
        assert layer.crs.to_epsg() == 32633
        assert layer.transform.e == -10
        np.testing.assert_array_equal(layer.read(1), each.mean[4])


def test_a_finished_map_is_not_made_again(each: Map, loaded: Loaded, cube):
    before = files(each.out)
    again = predict(loaded, cube, each.out, dates="each", overlap=0)
    assert (again.report.computed, again.report.windows) == (0, 0)
    assert files(each.out) == before
    lost = each.out / f"map_{DATES[0]}.tif"
    lost.unlink()
    predict(loaded, cube, each.out, dates="each", overlap=0)
    assert lost.read_bytes() == before[lost.name]


KILLED = """
import os, signal, sys
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.predict import days_of, predict
from rsvlm_jax.run.trained import load_run

def die(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

predict(load_run(sys.argv[1]), find_cube("sample:slovenia_s2"), sys.argv[2], block=64, progress=die)
"""


def test_killed_and_run_again_gives_the_same_bytes(
    finished: Path, loaded: Loaded, cube, tmp_path: Path
):
    out = tmp_path / "cut"
    same = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as conftest compiles
    args = [sys.executable, "-c", KILLED, str(finished), str(out)]
    died = subprocess.run(args, check=False, env=same)
    assert died.returncode == -signal.SIGKILL
    assert len(list((out / "blocks").glob("block_*.npz"))) == 3
    assert not list(out.glob("map*"))
    again = predict(loaded, cube, out, block=64)
    assert (again.report.blocks, again.report.computed) == (4, 1)
    predict(loaded, cube, tmp_path / "whole", block=64)
    assert files(out) == files(tmp_path / "whole")


def test_on_eight_devices(each: Map, finished: Path, cube, tmp_path: Path):
    split = load_run(finished, mesh=MeshConfig(data=-1))
    assert split.mesh.size == 8
    one = predict(split, cube, tmp_path, since=DATES[4], overlap=0, geotiff=False)
    np.testing.assert_allclose(one.mean, each.mean[4], atol=1e-5)


def test_a_window_without_an_answer_leaves_its_pixels_to_its_neighbours(tmp_path: Path):
    def half(y: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        return {"value": np.where(x < 4, np.nan, 10.0 * y + x)}

    how = {"key": "k", "tile": 8, "overlap": 4}
    spread, _ = tiles((16, 16), half, tmp_path / "a", **how)
    bridged, _ = tiles((16, 16), half, tmp_path / "b", gaps="bridged", **how)
    assert np.isnan(spread["value"][:, :8]).all()
    assert np.isfinite(spread["value"][:, 8:]).all()
    assert np.isnan(bridged["value"][:, :4]).all()
    assert (bridged["value"][0, 4:8] == 4).all(), "those of the window at column 4 alone"
    np.testing.assert_array_equal(bridged["value"][:, 8:], spread["value"][:, 8:])


def test_predict_verb_says_windows_a_second(each: Map, finished: Path, tmp_path: Path, capsys):
    args = ["predict", str(finished), "--cube", "sample:slovenia_s2", "--out", str(tmp_path / "o")]
    assert main([*args, "--since", DATES[4], "--overlap", "0", "--devices", "one", "--json"]) == 0
    said = capsys.readouterr()
    last = json.loads(said.out.splitlines()[-1])
    assert last["windows"] == 13 * 13
    assert last["windows_per_second"] > 0
    assert "a second" in said.out + said.err


# ---- bad input -----------------------------------------------------------------------------------


def test_a_period_without_an_acquisition(loaded: Loaded, cube, tmp_path: Path):
    with pytest.raises(DataError, match=r"no acquisition .* 2015-07-11 to 2015-09-09; found 2020"):
        predict(loaded, cube, tmp_path, since="2020-01-01")


def test_a_period_that_is_no_date(loaded: Loaded, cube, tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"no date in until; expected YYYY-MM-DD, .*; found 'soon'"
    ):
        predict(loaded, cube, tmp_path, until="soon")


def test_a_period_of_months_and_years_is_whole(loaded: Loaded, cube):
    every = days_of(loaded, cube, "2015", "2015", each=True)
    assert every == days_of(loaded, cube, None, None, each=True)
    august = days_of(loaded, cube, "2015-08", "2015-08", each=True)
    assert august == [d for d in every if str(d).startswith("2015-08")]
    assert august != [d for d in august if str(d) <= "2015-08-01"]


def test_an_output_of_another_map_or_grid(each: Map, loaded: Loaded, cube):
    with pytest.raises(ConfigError, match="holds another map"):
        predict(loaded, cube, each.out, overlap=0)


def test_an_output_that_another_run_writes(loaded: Loaded, cube, tmp_path: Path):
    with alone(tmp_path / "o"), pytest.raises(CubeError, match="map is being built by another"):
        predict(loaded, cube, tmp_path / "o")
