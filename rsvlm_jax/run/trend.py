"""`trend(cube_or_array, ...)`: is there a trend, how steep, from when on; for every pixel.

    OUT/trend.zarr     one layer a variable, [y, x] or [site], CF and GeoZarr, code table in `code`
    OUT/trend.tif      the same as float32 bands (not of sites)
    OUT/code.tif       the codes as bytes
    OUT/trend.csv      a row a site (of sites)
    OUT/trend.json     what was computed, how many pixels have which code; written last

Finished blocks lie in OUT/blocks until all of this is there. `p_corrected` looks at every p of the
map, so it comes after the last block; it is the only thing that needs a layer in memory.
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

import jax
import numpy as np

from data_zarr.cube import Cube
from data_zarr.maps import write_geotiff, write_map
from data_zarr.regions import Region
from data_zarr.schema import check_inputs
from data_zarr.sites import Sites
from rsvlm_jax.config import ConfigError
from rsvlm_jax.timeseries import false_discovery

from .blocks import Blocks, Box, Layer
from .cubes import find_cube
from .rundir import write_atomic
from .series import EPOCH, Source, choose
from .spread import Spread
from .trend_fits import settled
from .trend_methods import CODES, METHODS, OUTSIDE, attributes_of, run_method
from .trend_options import WORDS, Options
from .trend_table import write_table

if TYPE_CHECKING:
    import xarray

NUMBERS = 2**24
"""Stored numbers of a block, about: 32 MB of int16, and a few times that while it is computed."""

WORKERS = 2
"""Blocks under way at a time on one machine: one is read while the other is computed."""

FILES = ("trend.zarr", "trend.tif", "code.tif", "trend.csv", "trend.json")

Progress = Callable[[int, int, float], None]
"""(pixels done, pixels in all, pixels a second of this call)"""


@dataclasses.dataclass(frozen=True)
class TrendReport:
    """What a call did, and what it found.

    Attributes:
      pixels: that were asked for;  seconds, pixels_per_second: of what this call computed.
      blocks, computed: in all, and by this call.
      significant: share of the tested pixels with `p_corrected` <= alpha; NaN where none was.
      codes: pixels by the name of their code.
    """

    pixels: int
    seconds: float
    pixels_per_second: float
    blocks: int
    computed: int
    significant: float
    codes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Trends:
    """What was written, and what it is of."""

    out: Path
    source: Source
    options: Options
    report: TrendReport

    @property
    def zarr(self) -> Path:
        return self.out / "trend.zarr"

    def files(self) -> list[Path]:
        """Those that there are."""
        return [self.out / name for name in FILES if (self.out / name).exists()]

    def open(self) -> xarray.Dataset:
        """The variables, read when they are used."""
        import xarray as xr

        found = xr.open_zarr(self.zarr, consolidated=False, chunks=None, decode_coords="all")
        return found[list(METHODS[self.options.method].variables)]


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
        `rsvlm_jax.run.series`.
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
    edge = block or _edge(source)
    what = {
        **source.describe(),
        **options.describe(),
        "version": importlib.metadata.version("rsvlm-jax"),
        "dtype": "float32",
    }
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    pixels = source.shape[0] * source.shape[1]
    if known := _finished(out, key):
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
    report = _write(store, source, options, out, geotiff, command, what, key, computed)
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


def _edge(source: Source) -> int:
    """Of a block: a few chunks of the cube, or one."""
    chunk = source.info.chunks[2]
    dates = len(source.rows) * len(source.bands)
    edge = chunk
    while edge * 2 <= 1024 and dates * (edge * 2) ** 2 <= NUMBERS:
        edge *= 2
    return edge


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    """What a finished `out` says of itself; None where there is work to do.

    Raises:
      ConfigError: the result of something else.
    """
    try:
        there = sorted(p.name for p in out.iterdir())
        known = json.loads((out / "trend.json").read_text()) if "trend.json" in there else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError("cannot read the output", where=out, found=error) from error
    if known.get("key") == key:
        return known
    if known or (there and "blocks" not in there):
        raise ConfigError(
            "the output directory holds something else",
            where=out,
            expected=f"nothing, or this trend ({key[:12]})",
            found=f"a trend of other data or options ({known.get('key', '')[:12]})"
            if known
            else ", ".join(there[:4]),
            remedy="delete it, or choose another --out",
        )
    return None


def _write(
    store: Blocks, source: Source, options: Options, out: Path, geotiff: bool, command: str,
    what: dict[str, Any], key: str, computed: int,
) -> TrendReport:  # fmt: skip
    row = METHODS[options.method]
    layers: dict[str, Any] = {v: store.layer(v) for v in row.variables if v != "p_corrected"}
    code = layers["code"][:]
    if "p_corrected" in row.variables:
        layers["p_corrected"] = corrected(layers["p"][:], options.alpha)
    asked = code != OUTSIDE
    numbers, counts = np.unique(code, return_counts=True)
    tested = layers["p_corrected"][:] if "p_corrected" in layers else np.full(1, np.nan)
    tested = tested[np.isfinite(tested)]
    report = TrendReport(
        int(asked.sum()), 0.0, 0.0, len(store.boxes), computed,
        float((tested <= options.alpha).mean()) if tested.size else float("nan"),
        {CODES[int(c)]: int(k) for c, k in zip(numbers, counts, strict=True)},
    )  # fmt: skip
    variables = {
        v: (layers[v], attributes_of(v, source.name, source.unit, options)) for v in row.variables
    }
    described = {
        "title": f"{WORDS[options.method]}: {source.name} of {source.cube.title}",
        "source": source.cube.title,
        "source_license": str(source.cube.attrs.get("license", "not stated")),
        "input_digest": source.cube.digest(),
        "command": command,
        **{k: v for k, v in options.describe().items() if v is not None},
        "series": source.name,
        "bands": " ".join(source.bands),
        "first_date": str(source.dates[0]),
        "last_date": str(source.dates[-1]),
        "platforms": " ".join(source.platforms),
        "epoch": f"{EPOCH}-01-01",
        "software": f"rsvlm-jax {what['version']}, jax {jax.__version__}",
        "key": key,
    }
    try:
        write_map(out / "trend.zarr", source.grid, variables, described)
        if isinstance(source.grid, Sites):
            write_table(out / "trend.csv", source.grid, layers, row.variables)
        elif geotiff:
            _write_geotiffs(source, out, variables, described)
        facts = {
            "key": key,
            **{k: getattr(report, k) for k in ("pixels", "blocks", "codes")},
            "significant": report.significant if tested.size else None,
            "described": described,
            "variables": {v: a for v, (_, a) in variables.items()},
        }
        write_atomic(out / "trend.json", json.dumps(facts, indent=1))
    except OSError as e:
        raise ConfigError(
            f"cannot write the result ({e.strerror})", where=out, remedy="choose another --out"
        ) from e
    return report


def corrected(p: np.ndarray, alpha: float) -> np.ndarray:
    """p corrected over all of it, float32; NaN where p is."""
    known = np.isfinite(p)
    result = np.full(p.shape, np.nan, np.float32)
    if known.any():
        with jax.enable_x64(True):  # the rank of a pixel among millions
            result[known] = np.asarray(false_discovery(p[known].astype(np.float64), alpha).q)
    return result


def _write_geotiffs(
    source: Source, out: Path, variables: dict[str, Any], described: dict[str, Any]
) -> None:
    """All but the codes as float32 bands, and the codes."""
    tags = {k: str(v) for k, v in described.items()}
    layers = {k: v for k, (v, _) in variables.items() if k != "code"}
    floats = {
        k: dataclasses.replace(v, dtype=np.dtype(np.float32)) if isinstance(v, Layer) else v
        for k, v in layers.items()
    }
    units = {k: str(a["units"]) for k, (_, a) in variables.items()}
    write_geotiff(
        out / "trend.tif", source.grid, floats, unit=units, tags=tags,
        description=str(described["title"]),
    )  # fmt: skip
    code, attrs = variables["code"]
    table = {k: str(attrs[k]) for k in ("flag_values", "flag_meanings")}
    write_geotiff(
        out / "code.tif", source.grid, {"code": code}, nodata=OUTSIDE, tags={**tags, **table}
    )
