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
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_zarr.cube import Cube
from data_zarr.grid import Grid
from data_zarr.ingest.schedule import alone
from data_zarr.maps import check_geotiff
from data_zarr.regions import Region
from data_zarr.schema import check_inputs
from rsvlm_jax.config import ConfigError

from .blocks import Blocks, Box
from .cubes import find_cube
from .series import Harmonize, Source
from .series_choice import choose
from .spread import Spread
from .trend_files import clear, forget_blocks
from .trend_fits import settled
from .trend_methods import run_method
from .trend_options import Options, not_heeded
from .trend_result import TrendReport, Trends, complete, finished, write_result

if TYPE_CHECKING:
    import xarray

NUMBERS = 2**24
"""Stored numbers of a block, about: 32 MB of int16, and a few times that while it is computed."""

LEAST_EDGE = 16
"""Of a block, however many dates there are."""

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
    harmonize: Harmonize = "none",
    geotiff: bool = True,
    devices: int = -1,
    **more: Any,
) -> xarray.Dataset:
    """The trend of every pixel of a cube, or of every series of an array.

    Args:
      data: a cube, its path or name; or an `xarray.DataArray` with an axis "time" of dates, in any
        order, and NaN for what is missing. A coordinate "platform" of dates says who took them;
        `breaks` and the multivariate tests take an axis "band" together.
      method, alpha, more: fields of `rsvlm_jax.run.trend_options.Options`: test, harmonics ...
      index, bands, bandset, dates, season, platforms, window: of a cube; see `choose` in
        `rsvlm_jax.run.series_choice`.
      where: of a cube: (west, south, east, north) in degrees, or the path of a GeoJSON file.
      out: of a cube: a directory to leave the result in, restartable; None: in memory.
      harmonize: of a cube: "ols" or "rma": reflectances of every platform as those of OLI.
      geotiff: whether GeoTIFFs are left in `out` too; takes rasterio.
      devices: -1: pixels over all there are; 1: the first.

    Returns:
      A dataset with the variables of the method, on the axes of the data but "time"; slopes are per
      calendar year, intercepts at 2000-01-01; `code` says why a pixel has no answer.

    Raises:
      ConfigError: an option. DataError: dates that are missing, twice, with a time zone, too few.
      CubeError: a cube that cannot be read so.
    """
    import xarray as xr

    options = options_of(
        {"method": method, **({} if alpha == Options.alpha else {"alpha": alpha}), **more}
    )
    if isinstance(data, (xr.DataArray, xr.Dataset)):
        given = {
            "index": index, "bands": bands, "bandset": bandset, "dates": dates, "season": season,
            "platforms": platforms, "where": where, "window": window, "out": out,
            "harmonize": harmonize != "none",
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
        platforms=platforms, where=region_of(where), window=window, harmonize=harmonize,
        several=options.several,
    )  # fmt: skip
    if out is not None:
        return trend_cube(source, options, out, devices=devices, geotiff=geotiff).open()
    with tempfile.TemporaryDirectory(prefix="rsvlm_trend_") as folder:
        made = trend_cube(source, options, Path(folder) / "out", devices=devices, geotiff=False)
        with made.open() as found:
            return found.load()


def options_of(words: dict[str, Any]) -> Options:
    """`Options` of those that are given; ConfigError for one that the method does not heed."""
    known = [f.name for f in dataclasses.fields(Options)]
    for word in words:
        if word not in known:
            raise ConfigError(
                "no such option", where="trend", expected=", ".join(known), found=word
            )
    options = Options(**words)
    for word in words:
        if word not in ("method", *options.heeded):
            raise not_heeded(options.method, word, options.heeded)
    return options


def region_of(where: Any) -> Region | None:
    """A region from four numbers, the path of a GeoJSON file, or itself; ConfigError for others."""
    if where is None or isinstance(where, Region):
        return where
    if isinstance(where, (str, os.PathLike)):
        return Region.read(where)
    try:
        west, south, east, north = (float(v) for v in where)
    except (ValueError, TypeError) as error:
        found = " ".join(map(str, where)) if isinstance(where, (list, tuple)) else where
        raise ConfigError(
            "no place", where="--where", expected="WEST SOUTH EAST NORTH, or a GeoJSON file",
            found=found,
        ) from error  # fmt: skip
    return Region.box(west, south, east, north)


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
        Finished blocks stay: restore the chunk, run again. No rasterio for a GeoTIFF; another run
        that computes into `out`.
      ConfigError: `out` cannot be written, or holds something else.
    """
    out, started = Path(out), time.monotonic()
    options = settled(options, source.dates)
    if workers is not None and workers < 1:
        raise ConfigError(
            "impossible workers", where="--workers", expected="1 or more", found=workers
        )
    geotiff = geotiff and isinstance(source.grid, Grid)
    if geotiff:
        check_geotiff(out / "trend.tif")
    if options.whole:
        edge = _whole(source, block)
    else:
        edge = block_edge(source) if block is None else block
    what = {
        **source.describe(),
        **options.describe(),
        "version": importlib.metadata.version("rsvlm-jax"),
        "dtype": "float32",
    }
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    here = scheduler == "threads"
    workers = WORKERS if here and workers is None else workers
    with alone(out, "trend"):
        known = finished(out, key)
        clear(out)
        if known is not None:
            complete(known, source, out, geotiff)
            forget_blocks(out)
            share = float("nan") if known["significant"] is None else known["significant"]
            done = known["pixels"], 0.0, 0.0, known["blocks"], 0, share, known["codes"]
            return Trends(out, source, options, TrendReport(*done))
        check_inputs(source.cube, [source.info.name])
        what_of_blocks = {"command": "trend", "key": key}
        store = Blocks(out / "blocks", source.shape, block=edge, what=what_of_blocks)
        todo = store.missing()
        asked = [int(source.inside(box).sum()) for box in todo]
        ready = sum(int(source.inside(b).sum()) for b in set(store.boxes) - set(todo))

        def say(done: int, total: int) -> None:
            if progress is not None:
                now = sum(asked[: done - (total - len(todo))])
                seconds = max(time.monotonic() - started, 1e-9)
                progress(ready + now, ready + sum(asked), now / seconds)

        work = _Work(source, options, devices, (workers or 1) if here else 0)
        store.fill(work, scheduler=scheduler, workers=workers, progress=say, tasks=todo)
        seconds = time.monotonic() - started
        report = write_result(store, source, options, out, geotiff, command, what, key, len(todo))
        rate = sum(asked) / max(seconds, 1e-9)
        forget_blocks(out)
    report = dataclasses.replace(report, seconds=seconds, pixels_per_second=rate)
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


def _whole(source: Source, block: int | None) -> int:
    """The edge of the one block of a test of all; ConfigError where it is too large, or given."""
    if block is not None:
        raise ConfigError("one test has one block", where="--block", found=block)
    numbers = len(source.rows) * source.shape[0] * source.shape[1]
    if numbers > 16 * NUMBERS:
        raise ConfigError(
            "a region that is too large for one test", where="--where", found=source.shape,
            expected=f"{16 * NUMBERS // len(source.rows)} pixels with its surroundings at most",
        )  # fmt: skip
    return max(source.shape)


def block_edge(source: Source) -> int:
    """Of a block: chunks of the cube, doubled as long as the numbers of a block are few.

    Chunks of whole scenes are halved until they are: each is decoded more than once then.
    """

    def numbers(edge: int) -> int:
        pixels = edge if source.cube.points else edge * edge
        return len(source.rows) * len(source.bands) * pixels

    edge = source.info.chunks[2]
    while edge > LEAST_EDGE and numbers(edge) > NUMBERS:
        edge = -(-edge // 2)
    while edge * 2 <= 1024 and numbers(edge * 2) <= NUMBERS:
        edge *= 2
    return edge
