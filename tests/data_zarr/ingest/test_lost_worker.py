"""A dask cluster of two processes, one killed in the middle: the bytes of an undisturbed build."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import raster, recipe
from distributed import LocalCluster

from data_zarr.errors import CubeError
from data_zarr.ingest import BandSetRecipe, GridSpec, Recipe, build, schedule
from data_zarr.ingest.sources import GeoTiffs

EDGE, DATES = 256, ("20200101", "20200201", "20200301")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Sixteen shards and more, warped, so that a task takes a moment."""
    folder, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(0)
    for date in DATES:
        values = rng.integers(7300, 20000, (3, EDGE, EDGE)).astype(np.uint16)
        raster(folder / f"L_{date}.tif", values, names=("green", "red", "nir08"), nodata=0)
    source = GeoTiffs(str(folder / "*.tif"), date="%Y%m%d", scale=2.75e-5, offset=-0.2)
    bands = BandSetRecipe("l", (source,), sensor="landsat_sr6", bands=("green", "red", "nir08"),
                          resampling="cubic")  # fmt: skip
    return recipe(bands, grid=GridSpec(crs="EPSG:32632", resolution=9), shard=64)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as made:  # fmt: skip
        yield made


def test_a_killed_worker_loses_nothing(job: Recipe, cluster: Any, tmp_path: Path) -> None:
    whole = build(job, tmp_path / "whole.zarr")
    assert whole.tasks >= 16
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if done >= total // 3 and not killed:
            victim = next(iter(cluster.workers.values())).pid
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    built = build(job, tmp_path / "cube.zarr", scheduler=cluster.scheduler_address,
                  progress=kill_one)  # fmt: skip
    assert killed
    assert built.written == built.tasks == whole.tasks
    assert built.digest == whole.digest


def test_processes_of_its_own(job: Recipe, tmp_path: Path) -> None:
    done: list[int] = []
    built = build(job, tmp_path / "a.zarr", scheduler="processes", workers=2,
                  progress=lambda i, n: done.append(i))  # fmt: skip
    assert done == list(range(built.tasks + 1))


def test_an_error_in_a_task_comes_back(cluster: Any, tmp_path: Path) -> None:
    """A number that the cube cannot hold, seen by one task of four, in its own words."""
    values = np.full((128, 128), 9000, np.uint16)
    values[100, 100] = 65535
    raster(tmp_path / "L_20200101.tif", values, names=["red"])
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d", scale=2.75e-5, offset=-0.2)
    bands = BandSetRecipe("l", (source,), sensor="landsat_sr6", bands=("red",))
    with pytest.raises(CubeError, match=r"value cannot be stored in L_20200101\.tif, band 0"):
        build(recipe(bands, shard=64), tmp_path / "a.zarr", scheduler=cluster.scheduler_address)


def test_no_scheduler_answers(job: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "CONNECT", "0.5s")
    with pytest.raises(CubeError, match="no dask scheduler answers in tcp://127"):
        build(job, tmp_path / "a.zarr", scheduler="tcp://127.0.0.1:9")
