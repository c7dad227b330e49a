"""`trend(cube_or_array, ...)`: is there a trend, how steep, from when on; for every pixel.

    trend(cube, index="ndvi") -> xarray.Dataset       in memory, or opened in `out`
    trend_cube(source, options, OUT) -> Trends        block by block; what lies in OUT afterwards is
                                                      described in `trend_result.py`

Finished blocks lie in OUT/blocks until the result is there. Not here: what is computed
(`trend_methods.py`), and of what (`series.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_zarr.cube import Cube
from data_zarr.regions import Region
from data_zarr.schema import check_inputs
from rsvlm_jax.config import ConfigError

from .blocks import Blocks, Box
from .cubes import find_cube
from .series import Source
from .series_choice import choose
from .spread import Spread
from .trend_fits import settled
from .trend_methods import run_method
from .trend_options import Options
from .trend_result import TrendReport, Trends, finished, write_result

if TYPE_CHECKING:
    import xarray

NUMBERS = 2**24
"""Stored numbers of a block, about: 32 MB of int16, and a few times that while it is computed."""

WORKERS = 2
"""Blocks under way at a time on one machine: one is read while the other is computed."""

Progress = Callable[[int, int, float], None]
"""(pixels done, pixels in all, pixels a second of this call)"""


def trend(
    data: Any,
    *,
    method: str = "sen",
    alpha: float = 0.05,
    index: str | None = None,
    bands: Sequence[str] = (),
    bandset: str | None = None,
    dates: tuple[str, str] | None = None,
    season: tuple[str, str] | None = None,
    platforms: Sequence[str] = (),
    where: Region | tuple[float, float, float, float] | str | os.PathLike[str] | None = None,
    window: tuple[int, int, int, int] | None = None,
    out: str | os.PathLike[str] | None = None,
    devices: int = -1,
    **more: Any,
) -> xarray.Dataset:
    """The trend of every pixel of a cube, or of every series of an array.

    Args:
      data: a cube, its path or name; or an `xarray.DataArray` with an axis "time" of dates, in any
        order, and NaN for what is missing.
      method, alpha, more: fields of `rsvlm_jax.run.trend_options.Options`: test, harmonics ...
      index, bands, bandset, dates, season, platforms, window: of a cube; see `choose` in
        `rsvlm_jax.run.series_choice`.
      where: of a cube: (west, south, east, north) in degrees, or the path of a GeoJSON file.
      out: of a cube: a directory to leave the result in, restartable; None: in memory.
      devices: -1: pixels over all there are; 1: the first.

    Returns:
      A dataset with the variables of the method, on the axes of the data but "time"; slopes are per
      calendar year, intercepts at 2000-01-01; `code` says why a pixel has no answer.

    Raises:
      ConfigError: an option. DataError: dates that are missing, twice, with a time zone, too few.
      CubeError: a cube that cannot be read so.
    """
    import xarray as xr

    options = options_of({"method": method, "alpha": alpha, **more})
    if isinstance(data, (xr.DataArray, xr.Dataset)):
        given = {
            "index": index, "bands": bands, "bandset": bandset, "dates": dates, "season": season,
            "platforms": platforms, "where": where, "window": window, "out": out,
        }  # fmt: skip
        if named := [k for k, v in given.items() if v]:
            raise ConfigError(
                "only of cubes", where=named[0], found="an array", remedy="select by xarray"
            )
        from .trend_array import trend_array

        return trend_array(data, options, Spread.over(devices))
    cube = data if isinstance(data, Cube) else find_cube(data)
    source = choose(
        cube, index=index, bands=bands, bandset=bandset, dates=dates, season=season,
        platforms=platforms, where=region_of(where), window=window,
        several=options.method == "breaks",
    )  # fmt: skip
    if out is not None:
        return trend_cube(source, options, out, devices=devices).open()
    with tempfile.TemporaryDirectory(prefix="rsvlm_trend_") as folder:
        made = trend_cube(source, options, Path(folder) / "out", devices=devices, geotiff=False)
        with made.open() as found:
            return found.load()


def options_of(words: dict[str, Any]) -> Options:
    """`Options` of keywords; ConfigError for one that does not exist."""
    known = [f.name for f in dataclasses.fields(Options)]
    for word in words:
        if word not in known:
            raise ConfigError(
                "no such option", where="trend", expected=", ".join(known), found=word
            )
    return Options(**words)


def region_of(where: Any) -> Region | None:
    """A region from four numbers, the path of a GeoJSON file, or itself."""
    if where is None or isinstance(where, Region):
        return where
    return Region.read(where) if isinstance(where, (str, os.PathLike)) else Region.box(*where)


def trend_cube(
    source: Source,
    options: Options,
    out: str | os.PathLike[str],
    *,
    block: int | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    devices: int = -1,
    geotiff: bool = True,
    command: str = "rsvlm_jax.trend",
    progress: Progress | None = None,
) -> Trends:
    """Computes every block that is not there, then writes the result.

    Args:
      block: edge of a block in pixels; None: as large as `NUMBERS` allow, by chunks of the cube.
      scheduler: "threads" (this process), "processes", or the address of a dask cluster whose
        workers see the same files.
      devices: of each process; see `Spread.over`.
      command: kept in the result.

    Raises:
      CubeError: impossible numbers (`check_inputs`), or a chunk that cannot be read (named).
        Finished blocks stay: restore the chunk, run again.
      ConfigError: `out` cannot be written, or holds something else.
    """
    out, started = Path(out), time.monotonic()
    options = settled(options, source.dates)
    edge = block or block_edge(source)
    what = {
        **source.describe(),
        **options.describe(),
        "version": importlib.metadata.version("rsvlm-jax"),
        "dtype": "float32",
    }
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    pixels = source.shape[0] * source.shape[1]
    if known := finished(out, key):
        share = float("nan") if known["significant"] is None else known["significant"]
        report = TrendReport(known["pixels"], 0.0, 0.0, known["blocks"], 0, share, known["codes"])
        return Trends(out, source, options, report)
    check_inputs(source.cube, [source.info.name])
    store = Blocks(out / "blocks", source.shape, block=edge, what={"command": "trend", "key": key})
    first: list[int] = []

    def say(done: int, total: int) -> None:
        first.append(done)
        seconds = time.monotonic() - started
        if progress is not None:
            rate = (done - first[0]) / total * pixels / max(seconds, 1e-9)
            progress(round(done / total * pixels), pixels, rate)

    here = scheduler == "threads"
    work = _Work(source, options, devices, WORKERS if here else 0)
    workers = WORKERS if here and workers is None else workers
    computed = store.fill(work, scheduler=scheduler, workers=workers, progress=say)
    seconds = time.monotonic() - started
    report = write_result(store, source, options, out, geotiff, command, what, key, computed)
    rate = pixels * computed / len(store.boxes) / max(seconds, 1e-9)
    report = dataclasses.replace(report, seconds=seconds, pixels_per_second=rate)
    shutil.rmtree(out / "blocks", ignore_errors=True)
    return Trends(out, source, options, report)


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """One block, wherever it is computed."""

    source: Source
    options: Options
    devices: int
    share: int
    """Blocks under way beside each other in this process; 0: workers of a cluster, a core each."""

    def __call__(self, box: Box) -> dict[str, np.ndarray]:
        found = run_method(self.source.read(box), self.options, _spread(self.devices, self.share))
        shape = (box[2] - box[0], box[3] - box[1])
        return {name: values.reshape(shape) for name, values in found.items()}


@functools.cache
def _spread(devices: int, share: int) -> Spread:
    return Spread.over(devices, share=share or os.cpu_count() or 1)


def block_edge(source: Source) -> int:
    """Of a block: chunks of the cube, doubled as long as the numbers of a block are few."""
    chunk = source.info.chunks[2]
    dates = len(source.rows) * len(source.bands)
    edge = chunk
    while edge * 2 <= 1024 and dates * (edge * 2) ** 2 <= NUMBERS:
        edge *= 2
    return edge
