"""The page on the format: its example runs, its words are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

import data_zarr
from data_zarr.format import FORMAT, FORMAT_VERSION
from data_zarr.journal import CODECS
from data_zarr.schema import validate

PAGE = Path(data_zarr.__file__).parent / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_cube_in_fifteen_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks()[0]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 15
    monkeypatch.chdir(tmp_path)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(3, 2, 32, 32)"
    assert validate(tmp_path / "plot.zarr", deep=True).ok
    found: dict = {"xr": xr}
    exec(blocks()[1], found)
    assert found["data"]["pixels"].rio.crs.to_epsg() == 32633


def test_the_page_names_what_there_is() -> None:
    text = PAGE.read_text()
    assert f"`{FORMAT}`, {FORMAT_VERSION};" in text
    assert all(f'codec="{codec}"' in text for codec in CODECS)
    for name in ("open_cube", "copy_cube", "create_cube", "write_geotiff", "BandSetData", "Sites"):
        assert name in text
        assert hasattr(data_zarr, name)
