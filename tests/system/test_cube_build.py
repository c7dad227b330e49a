"""`rsvlm cube build`: a dry run, a cube, and refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_zarr import open_cube
from rsvlm_jax.cli.main import main

RECIPE = """
title = "two dates"
license = "CC0-1.0"
provenance = "made by a test"

[[bandset]]
name = "ndvi"

[[bandset.source]]
kind = "geotiff"
path = "*.tif"
date = "%Y%m%d"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, date in enumerate(("20200101", "20200201")):
        values = np.full((1, 20, 30), 0.1 * i, np.float32)
        with rasterio.open(
            tmp_path / f"{date}.tif", "w", driver="GTiff", count=1, height=20, width=30,
            dtype="float32", crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6),
        ) as file:  # fmt: skip
            file.write(values)
    (tmp_path / "two.toml").write_text(RECIPE)
    return tmp_path


def test_dry_run_then_build(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = str(folder / "two.toml"), folder / "two.zarr"
    assert main(["cube", "build", recipe, "--out", str(out), "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out.splitlines()[-1])
    assert facts["bandsets"][0]["shape"] == [2, 1, 20, 30]
    assert "ndvi: 2 x 1 x 20 x 30 float32, 2 dates 2020-01-01..2020-02-01" in said.err
    assert not out.exists()

    assert main(["cube", "build", recipe, "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["digest"] == open_cube(out).digest()
    assert (facts["tasks"], facts["written"]) == (1, 1)
    assert main(["cube", "validate", str(out)]) == 0
    capsys.readouterr()
    assert main(["cube", "build", recipe, "--out", str(out)]) == 3
    assert "cube exists" in capsys.readouterr().err.splitlines()[-1]


def test_sources_in_another_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away")
    page = (folder / "two.toml").rename(away / "two.toml")
    args = ["cube", "build", str(page), "--out", str(away / "two.zarr")]
    assert main(args) == 3
    assert main([*args, "--root", str(folder)]) == 0
    assert open_cube(away / "two.zarr").bandsets["ndvi"].shape == (2, 1, 20, 30)


def test_a_misspelt_key_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "two.toml"
    page.write_text(page.read_text().replace("path =", "pathh ="))
    assert main(["cube", "build", str(page)]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: unknown key 'pathh'")
    assert line.endswith("did you mean 'path'?")


def test_an_unknown_scheduler_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["cube", "build", str(folder / "two.toml"), "--out", str(folder / "o.zarr")]
    assert main([*args, "--scheduler", "process"]) == 3
    assert "error: no such scheduler" in capsys.readouterr().err
