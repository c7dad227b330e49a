"""Warnings of a finished cube: an offset that came and went, and too many negative numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archives import raster, recipe

from data_zarr.errors import CubeError, CubeWarning
from data_zarr.ingest import BandSetRecipe, GridSpec, build, make_plan
from data_zarr.ingest.checks import offset_step
from data_zarr.ingest.sources import GeoTiffs

DATES = np.arange("2018-01-15", "2026-01-15", 30, dtype="datetime64[D]").astype("datetime64[s]")


def seasonal() -> np.ndarray:
    """Reflectances that swing by 0.3 over the year."""
    return 0.2 + 0.15 * np.sin(2 * np.pi * (DATES.astype("int64") / 86400 / 365.25))


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_step_of_a_tenth_at_baseline_0400(sign: int) -> None:
    late = np.where(np.datetime64("2022-01-25") <= DATES, 0.1 * sign, 0.0)
    assert offset_step(DATES, seasonal() + late) == pytest.approx(0.1 * sign, abs=0.02)


def test_no_step_in_a_season(recwarn: pytest.WarningsRecorder) -> None:
    """A season as large as the offset, a slow trend, or an earlier step are not it."""
    years = (DATES - DATES[0]).astype("int64") / 86400 / 365.25
    assert offset_step(DATES, seasonal()) is None
    assert offset_step(DATES, seasonal() + 0.005 * years) is None
    assert offset_step(DATES, seasonal() + np.where(years > 1, 0.5, 0.0)) is None
    assert offset_step(DATES[:20], seasonal()[:20]) is None
    assert not recwarn


def test_the_build_warns_of_a_step(tmp_path: Path) -> None:
    """A stack whose new scenes kept the offset in their numbers."""
    rng = np.random.default_rng(0)
    for date in ("20210601", "20210701", "20220601", "20220701"):
        values = rng.integers(900, 1500, (1, 20, 20)) + (1000 if date > "2022" else 0)
        raster(tmp_path / f"{date}.tif", values.astype(np.uint16), names=["B04"])
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d", scale=1e-4)
    item = BandSetRecipe("s2_l2a", (source,), bands=("B04",))
    with pytest.warns(CubeWarning, match=r"steps by \+0\.10 at 2022-01-25"):
        built = build(recipe(item), tmp_path / "c.zarr")
    assert len(built.warnings) == 1


def test_the_build_warns_of_negative_reflectances(tmp_path: Path) -> None:
    """An offset applied to numbers that had none."""
    values = np.random.default_rng(0).integers(200, 1600, (1, 20, 20)).astype(np.uint16)
    raster(tmp_path / "20210601.tif", values, names=["B04"])
    source = GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d", scale=1e-4, offset=-0.1)
    item = BandSetRecipe("s2_l2a", (source,), bands=("B04",))
    with pytest.warns(CubeWarning, match=r"5\d% of the reflectances are negative"):
        build(recipe(item), tmp_path / "c.zarr")


def test_small_chunks_are_doubted_before_anything_is_read(tmp_path: Path) -> None:
    for i in range(30):
        raster(tmp_path / f"2021{i:03d}.tif", np.zeros((1, 8, 8), np.float32) + 0.1)

    source = GeoTiffs(str(tmp_path / "2*.tif"), date="%Y%j")
    grid = GridSpec(resolution=10, bounds=(500000, 4800000, 700000, 5000000))
    # Day 0 of a year is none: that file is refused by name.
    with pytest.raises(CubeError, match="no date in the file name"):
        make_plan(recipe(BandSetRecipe("ndvi", (source,)), grid=grid))
    (tmp_path / "2021000.tif").unlink()
    plan = make_plan(recipe(BandSetRecipe("ndvi", (source,), dtype="int16", scale=1e-4), grid=grid))
    assert any("chunks of 8192 bytes are small and many" in w for w in plan.warnings)


def test_a_worker_that_would_hold_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dates of 128 x 128 floats with their masks: 160 KiB."""
    from data_zarr.ingest import plan as module

    for day in ("20210101", "20210201"):
        raster(tmp_path / f"{day}.tif", np.zeros((1, 128, 128), np.float32))
    item = BandSetRecipe("ndvi", (GeoTiffs(str(tmp_path / "*.tif"), date="%Y%m%d"),))
    assert make_plan(recipe(item)).warnings == ()
    monkeypatch.setattr(module, "LARGE_TASK", 2**17)
    assert "all dates of a shard of 128 pixels" in make_plan(recipe(item)).warnings[0]
