"""`rsvlm predict` over cubes of two sizes: windows a second, and memory beyond a start.

    predict_cube.rate     windows a second of the larger one: reading, blending, writing, compiling
                          included, in a process of its own
    predict_cube.memory   its largest resident memory, less what it had before the first block
    predict_cube.growth   the same, less that of the smaller cube: with sixteen times the pixels
                          (--short: four times)

A model of the smallest sizes, two steps old, that reads windows of 128 pixels, three dates of two
bands. The cubes have 1,500 and 6,000 pixels a side (--short: 256 and 512), and are kept beside
other synthetic ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_zarr import BandSetData, Grid, create_cube
from data_zarr.format import MANIFEST, TargetInfo
from data_zarr.sensors import BANDSETS
from rsvlm_jax.cli.options import load_experiment
from rsvlm_jax.config import (
    DataConfig,
    Experiment,
    InputConfig,
    SpectralConfig,
    TargetConfig,
    TrainConfig,
    nano,
)
from rsvlm_jax.run.cubes import cache_folder
from rsvlm_jax.run.fit import fit

from .figure import Figure

DATES, SHARD, WINDOW, GIB = 3, 256, 128, 2**30

MEASURED = """
import json, sys, time, jax
from experiments.bench.memory import peak
from data_zarr import open_cube
from rsvlm_jax.run.predict import predict
from rsvlm_jax.run.trained import load_run
loaded, cube = load_run(sys.argv[1]), open_cube(sys.argv[2])
before, start = peak(), time.monotonic()
report = predict(loaded, cube, sys.argv[3], overlap=0, block=1024, batch_size=16).report
rate = report.windows / (time.monotonic() - start)
print(json.dumps({"rate": rate, "memory": peak() - before, "windows": report.windows}))
"""


def make(size: int) -> Path:
    """The cube, written on first use; a killed writing goes on."""
    path = cache_folder() / f"bench_predict_{size}.zarr"
    if (path / MANIFEST).is_file():
        return path
    bands = [b for b in BANDSETS["landsat_sr6"].bands if b.common_name in ("red", "nir08")]
    dates = np.datetime64("2020-06-01") + 16 * np.arange(DATES) * np.timedelta64(1, "D")
    grid = Grid.from_epsg(32633, (30.0, 0.0, 5e5, 0.0, -30.0, 5.1e6), size, size)
    data = BandSetData("landsat", "optical", bands, dates, "landsat-8", scale=1e-4)
    target = TargetInfo("greenness", unit="1", long_name="greenness")
    with create_cube(
        path, grid=grid, bandsets=[data], targets=[target], shard=SHARD, title="bench",
        license="CC0-1.0", provenance="experiments.bench.predict_cube", level=1,
    ) as writer:  # fmt: skip
        for y, x in writer.regions():
            h, w = min(SHARD, size - y), min(SHARD, size - x)
            rng = np.random.default_rng([y, x])
            pixels = rng.integers(200, 4000, (DATES, 2, h, w), np.int16)
            valid = rng.random((DATES, h, w), np.float32) > 0.25
            if not writer.done("landsat", y, x):
                writer.write("landsat", y, x, pixels, valid)
            writer.write_target("greenness", y, x, pixels[0, 1].astype(np.float32) / 4000)
    return path


def trained(cube: Path, out: Path) -> Path:
    """A run on the cube, two steps long."""
    base: Experiment = load_experiment("forkme")
    inputs = (InputConfig("landsat", spectral=SpectralConfig(plan="wavelength")),)
    data = DataConfig(
        cube=str(cube), target=TargetConfig("greenness", "greenness"), window=WINDOW, stride=WINDOW
    )
    split = dataclasses.replace(data.split, block=WINDOW, folds=2)
    experiment = dataclasses.replace(
        base,
        data=dataclasses.replace(data, split=split),
        model=nano(inputs, image_size=WINDOW, patch_size=WINDOW // 4),
        train=TrainConfig(steps=2, batch_size=2, save_every=2),
    )
    return fit(experiment, out=out).path


def figures() -> Iterator[Figure]:
    sizes = (256, 512) if os.environ.get("RSVLM_BENCH_SHORT") else (1500, 6000)
    with tempfile.TemporaryDirectory() as folder:
        run = trained(make(sizes[0]), Path(folder) / "run")
        found = []
        for size in sizes:
            command = [sys.executable, "-c", MEASURED, str(run), str(make(size))]
            command.append(str(Path(folder) / str(size)))
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    small, large = found
    yield Figure("predict_cube.windows", large["windows"], "windows")
    yield Figure("predict_cube.rate", large["rate"], "windows/s")
    yield Figure("predict_cube.memory", large["memory"] / GIB, "GiB", at_most=2.0)
    growth = (large["memory"] - small["memory"]) / GIB
    yield Figure("predict_cube.growth", growth, "GiB", at_most=0.25)
