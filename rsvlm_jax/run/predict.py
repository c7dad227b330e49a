"""`predict(loaded, cube, out)`: a wall-to-wall map with its interval, restartable.

    fused     one map: a window is read as in training, with all its dates (the clearest of them)
    each      a map of every acquisition date, from what was seen on that day alone

Blocks are computed one by one and lie in OUT/blocks until the map is complete; a map is never in
memory as a whole, nor is the cube. Killed and run again, the files are the same to the byte. Not
here: blending (`tiles.py`), files (`mapped.py`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from data_zarr.cube import Cube
from data_zarr.ingest.schedule import alone
from data_zarr.maps import check_geotiff, remove_leftovers
from data_zarr.sampling import WindowTable
from data_zarr.schema import check_inputs
from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.data.batch import to_days
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.data.specs import bandset_specs

from .blocks import Blocks
from .mapped import ZARR, Map, finished, tif_of, write
from .tiles import TilesReport, mosaic
from .trained import Loaded

Day = np.datetime64


def predict(
    loaded: Loaded,
    cube: Cube,
    out: str | os.PathLike[str],
    *,
    dates: Literal["fused", "each"] = "fused",
    since: str | None = None,
    until: str | None = None,
    overlap: int | None = None,
    block: int = 256,
    batch_size: int = 64,
    geotiff: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Map:
    """Predict every pixel of a cube from overlapping windows, blended linearly.

    Mean and spread are blended (of a dense head those of pixels), then the interval is taken from
    the run's calibration. A window of which no date shows a valid pixel has no answer: its pixels
    take those of the windows over it, and are NaN where there are none.

    Args:
      dates: "fused": one map, [y, x]; "each": one of every acquisition date, [time, y, x], the
        model seeing that date of each band set alone (static layers always). Its interval is then
        calibrated on windows with all their dates, which promises nothing: the file says so.
      since, until: only dates from the one to the other, YYYY-MM-DD, both included; of a
        month or a year the whole.
      overlap: shared pixels of neighbouring windows; None: half a window.
      block: edge of an independently computed block in pixels.
      progress: called with (finished blocks, all blocks).

    Raises:
      DataError: the cube does not fit the model; no acquisition in the period.
      CubeError: impossible numbers (`check_inputs`), or a chunk that cannot be read (named): a map
        has no holes that nobody asked for. Finished blocks stay: restore the chunk, run again.
        Another run writes the same map. GeoTIFF without rasterio.
      ConfigError: `out` cannot be written, or holds another map, or blocks of another computation.
    """
    size, out = loaded.experiment.data.window, Path(out)
    overlap = size // 2 if overlap is None else overlap
    geotiff = geotiff and not cube.points
    check_inputs(cube, [s.name for s in bandset_specs(cube, loaded.processor.bandsets)])
    days = days_of(loaded, cube, since, until, each=dates == "each")
    whole = since is None and until is None
    periods = (
        [(d, d) for d in days] if dates == "each" else [None if whole else (days[0], days[-1])]
    )
    key = f"{loaded.digest} {cube.digest()}"
    what = {
        "key": key, "window": size, "overlap": overlap, "dates": dates, "days": [*map(str, days)],
        "version": importlib.metadata.version("rsvlm-jax"),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    if geotiff:
        check_geotiff(out)
    with alone(out, "map"):
        if finished(out, digest, geotiff=geotiff):
            return Map(out, loaded.processor.target.name, geotiff, TilesReport(0, 0, 0))
        each = days if dates == "each" else [None]
        for file in (out / ZARR, *(tif_of(out, day) for day in each)):
            remove_leftovers(file)  # of a run that was killed while it wrote
        stores: list[Blocks] = []
        reports: list[TilesReport] = []
        for i, period in enumerate(periods):

            def say(done: int, total: int, before: int = i) -> None:
                if progress is not None:
                    progress(before * total + done, len(periods) * total)

            folder = out / "blocks"
            store, report = mosaic(
                (cube.grid.height, cube.grid.width),
                _windows(loaded, cube, size, batch_size, period),
                folder if period is None else folder / "_".join(map(str, dict.fromkeys(period))),
                key=key,
                tile=size,
                overlap=overlap,
                gaps="bridged",
                block=block,
                progress=say,
            )
            stores.append(store)
            reports.append(report)
        write(
            loaded, cube, out, stores, np.array(days) if dates == "each" else None,
            geotiff=geotiff, attrs=_dated(dates, days) | {"key": digest},
        )  # fmt: skip
        shutil.rmtree(out / "blocks", ignore_errors=True)
    numbers = zip(*((r.blocks, r.computed, r.windows, r.seconds) for r in reports), strict=True)
    blocks, computed, windows, seconds = (sum(x) for x in numbers)
    report = TilesReport(int(blocks), int(computed), int(windows), seconds)
    return Map(out, loaded.processor.target.name, geotiff, report)


def days_of(
    loaded: Loaded, cube: Cube, since: str | None, until: str | None, *, each: bool
) -> list[Day]:
    """Acquisition days of the model's inputs in a period, ascending; empty for static inputs."""
    infos = [cube.bandsets[s.name] for s in bandset_specs(cube, loaded.processor.bandsets)]
    dated = [i.dates.ravel() for i in infos if not i.static]
    asked = each or since is not None or until is not None
    if asked and not dated:
        raise DataError("inputs without dates", where=cube.path, remedy="leave dates out")
    if each and cube.points:
        raise DataError(
            "sites have dates of their own", where=cube.path, expected='dates="fused"',
            found='"each"',
        )  # fmt: skip
    first, last = _day(since, "since", 0), _day(until, "until", 1)
    if not dated:
        return []
    known = np.concatenate(dated)
    days = np.unique(known[~np.isnat(known)].astype("datetime64[D]"))
    kept = days if first is None else days[days >= first]
    kept = kept if last is None else kept[kept <= last]
    if not len(kept):
        raise DataError(
            "no acquisition in the period", where=cube.path,
            expected=f"{days[0]} to {days[-1]}", found=f"{since or '...'} to {until or '...'}",
        )  # fmt: skip
    return list(kept)


def _day(word: str | None, name: str, end: Literal[0, 1]) -> Day | None:
    """A day; of a month or a year its first (end 0) or its last."""
    if word is None:
        return None
    try:
        day = np.datetime64(word)
        unit = np.datetime_data(day.dtype)[0]
    except ValueError:
        day, unit = np.datetime64("NaT"), ""
    if np.isnat(day):
        raise ConfigError(
            "no date", where=name, expected="YYYY-MM-DD, YYYY-MM or YYYY", found=repr(word)
        )
    if unit not in ("Y", "M"):
        return day.astype("datetime64[D]")
    return (day + end).astype("datetime64[D]") - end


def _windows(
    loaded: Loaded, cube: Cube, size: int, batch_size: int, period: tuple[Day, Day] | None
) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """The window function of `mosaic`: mean, spread and interval of every target, of a dense head
    pixel by pixel."""
    span = None
    if period is not None:
        first, last = to_days(np.array(period))
        span = float(first), float(last)

    def fn(y: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        table = WindowTable(y, x, size)
        source = CubeSource.of(loaded.processor, cube, table, error_budget=0.0, period=span)
        found = loaded.regress_maps(source, batch_size=batch_size, blind=False)
        one, *others = found.values()
        layers = {"mean": one.mean, "scale": one.scale, "lo": one.lo, "hi": one.hi}
        for i, other in enumerate(others, 1):
            layers |= {f"mean{i}": other.mean, f"lo{i}": other.lo, f"hi{i}": other.hi}
        return layers

    return fn


def _dated(dates: str, days: list[Day]) -> dict[str, object]:
    """What a file says of its dates."""
    if not days:
        return {}
    return {"dates": dates, "first_date": str(days[0]), "last_date": str(days[-1])}
