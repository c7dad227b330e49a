"""`rsvlm trend` over a whole cube: pixels a second, and the memory that it takes beyond a start.

    trend_cube.rate       Theil-Sen with interval and Mann-Kendall of NDVI, reading and writing
                          included, in a process of its own; compilation too
    trend_cube.memory     its largest resident memory, less what it had before the first block

A part names the layout: `trend_cube` is of chunks for series, `trend_cube:image` of whole scenes.
The cube has 2,000 x 2,000 pixels and 60 dates of two bands, a quarter of it masked; --short: 256 x
256. It is kept beside other synthetic cubes (`rsvlm_jax.run.cubes.cache_folder`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from data_zarr import BandSetData, Grid, create_cube
from data_zarr.format import MANIFEST
from data_zarr.layout import Layout
from data_zarr.sensors import BANDSETS
from rsvlm_jax.run.cubes import cache_folder

from .figure import Figure

DATES, SHARD, GIB = 60, 256, 2**30
DRIFT, NOISE, CLOUDY = 3, 120, 0.25
"""Of stored numbers, reflectance x 10000, from date to date; and the share that is masked."""

MEASURED = """
import json, sys, jax
from experiments.bench.memory import peak
from data_zarr import open_cube
from rsvlm_jax.run.series_choice import choose
from rsvlm_jax.run.trend import trend_cube
from rsvlm_jax.run.trend_options import Options
jax.devices()
source = choose(open_cube(sys.argv[1]), index="ndvi")
before = peak()
report = trend_cube(source, Options(), sys.argv[2], geotiff=True).report
print(json.dumps({"rate": report.pixels_per_second, "memory": peak() - before,
                  "pixels": report.pixels, "codes": report.codes}))
"""


def make(size: int, layout: Layout = "series") -> Path:
    """The cube, written on first use; a killed writing goes on."""
    path = cache_folder() / f"bench_trend_{layout}_{size}.zarr"
    if (path / MANIFEST).is_file():
        return path
    row = BANDSETS["landsat_sr6"]
    bands = [b for b in row.bands if b.common_name in ("red", "nir08")]
    dates = np.datetime64("2004-01-10") + 122 * np.arange(DATES) * np.timedelta64(1, "D")
    grid = Grid.from_epsg(32633, (30.0, 0.0, 5e5, 0.0, -30.0, 5.1e6), size, size)
    data = BandSetData("landsat", "optical", bands, dates, "landsat-7", scale=1e-4)
    with create_cube(
        path, grid=grid, bandsets=[data], shard=SHARD, layout=layout, title="bench",
        license="CC0-1.0", provenance="experiments.bench.trend_cube", level=1,
    ) as writer:  # fmt: skip
        for y, x in writer.regions():
            if writer.done("landsat", y, x):
                continue
            h, w = min(SHARD, size - y), min(SHARD, size - x)
            rng = np.random.default_rng([y, x])
            t = np.arange(DATES, dtype=np.float32)[:, None, None]
            drift = rng.normal(0, DRIFT, (1, h, w)).astype(np.float32) * t
            season = 400 * np.sin(2 * np.pi * t / 3)
            noise = rng.normal(0, NOISE, (2, DATES, h, w)).astype(np.float32)
            both = np.stack([900 - drift - season / 4 + noise[0], 3000 + drift + season + noise[1]])
            valid = rng.random((DATES, h, w), np.float32) > CLOUDY
            writer.write("landsat", y, x, both.transpose(1, 0, 2, 3).astype(np.int16), valid)
    return path


def figures(part: str = "series") -> Iterator[Figure]:
    layout = next((one for one in get_args(Layout) if one == part), None)
    if layout is None:
        raise SystemExit(f"error: no layout {part!r}; expected {', '.join(get_args(Layout))}")
    size = 256 if os.environ.get("RSVLM_BENCH_SHORT") else 2000
    path = make(size, layout)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", MEASURED, str(path), str(Path(folder) / "out")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    name = "trend_cube" if layout == "series" else f"trend_cube.{layout}"
    yield Figure(f"{name}.pixels", found["pixels"], "pixels")
    yield Figure(f"{name}.rate", found["rate"], "pixels/s")
    yield Figure(f"{name}.memory", found["memory"] / GIB, "GiB", at_most=2.0)
