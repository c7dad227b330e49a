"""`rsvlm trend CUBE --out OUT`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from .options import parse, say, stop_on_sigterm

COMPUTED = (
    *("method", "test", "alpha", "harmonics", "estimator", "disturbance"),
    *("threshold", "confirm", "penalty", "since", "model", "at"),
)
CHOSEN = (
    *("index", "bands", "bandset", "dates", "season", "platforms", "where", "window"),
    "harmonize",
)
"""What decides the numbers: of the computation, and of the series."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The trend of every pixel of a cube, or of every site, with its significance. Restartable."""

    cube: Positional[str]
    """Path or URL of a cube, sample:NAME or world:PRESET."""
    out: Path
    """Directory of the result."""
    method: Literal[
        "sen", "harmonic", "lasso", "stl", "breaks", "monitor", "landtrendr", "forecast"
    ] = "sen"  # fmt: skip
    """sen: Theil-Sen slope and Mann-Kendall test. harmonic: slope beside the waves of a year.
    lasso: the same as CCDC fits it. stl: trend and season of months by local lines.
    breaks: the largest, in the manner of COLD. monitor: the first since a day (BFAST-monitor).
    landtrendr: the largest disturbance of annual medians. forecast: what is expected on a day."""
    test: Literal[
        "original", "hamed_rao", "yue_wang", "pre_whitening", "trend_free", "seasonal",
        "correlated_seasonal", "regional", "multivariate", "correlated_multivariate",
    ] = "original"  # fmt: skip
    """sen: which Mann-Kendall test; the seasonal ones compare medians of a month over the years,
    the multivariate ones take several bands, regional is one test of all places asked for."""
    alpha: float = 0.05
    """Level of significance; intervals cover 1 - alpha."""
    harmonics: int = 2
    """harmonic, lasso, monitor, forecast: waves of a year, 1 to 4."""
    estimator: Literal["ols", "huber"] = "ols"
    """harmonic: least squares, or Huber's, which outliers hardly move."""
    disturbance: Literal["fall", "rise"] = "fall"
    """landtrendr: what a disturbance does to the series."""
    threshold: float = 0.01
    """breaks: chance of an observation to lie outside of what counts as no change."""
    confirm: int = 6
    """breaks: consecutive observations outside that make one."""
    penalty: float = 0.002
    """lasso, breaks: of the LASSO, in the unit of the series; COLD's, of reflectances."""
    since: str | None = None
    """monitor: from this day on, YYYY-MM-DD; what is before is history."""
    model: Literal["harmonic", "seasonal_naive"] = "harmonic"
    """forecast: waves and line continued, or the last month of the same name again."""
    at: str | None = None
    """forecast: the day, YYYY-MM-DD; a year after the last date by default."""
    index: str | None = None
    """Spectral index of reflectances: ndvi, ndmi, nbr, ndwi, mndwi, evi, savi, ndre."""
    bands: tuple[str, ...] = ()
    """One band instead, by its name or common name; several for breaks, which reports the first,
    and for multivariate tests."""
    bandset: str | None = None
    """Band set; by default the first with dates that has the bands."""
    dates: tuple[str, str] | None = None
    """First and last day, e.g. 2015-01-01 2020-12-31."""
    season: tuple[str, str] | None = None
    """First and last day of each year, e.g. 06-01 09-15."""
    platforms: tuple[str, ...] = ()
    """Only these, e.g. landsat-8 landsat-9."""
    where: tuple[str, ...] = ()
    """Only there: WEST SOUTH EAST NORTH in degrees, or a GeoJSON file of polygons."""
    window: tuple[int, int, int, int] | None = None
    """Only there: ROW COLUMN HEIGHT WIDTH in pixels."""
    harmonize: Literal["none", "ols", "rma"] = "none"
    """Reflectances of Landsat 4 to 7 and of Sentinel-2 as those of Landsat 8 and 9, by published
    lines: ols predicts best, rma keeps the spread. none: as they are, with a warning of several."""
    block: int | None = None
    """Edge in pixels of a block that is computed and kept by itself; by the cube's chunks."""
    scheduler: str = "threads"
    """threads (this process), processes (a local dask cluster), or an address: tcp://host:8786."""
    workers: int | None = None
    """Blocks at a time in this process (2 by default: their memory adds up), or processes."""
    devices: int = -1
    """-1: pixels over all devices of a process; 1: the first."""
    geotiff: bool = True
    """Write GeoTIFFs beside the Zarr store."""
    figure: bool = True
    """Draw trend.png."""
    sites: int = 6
    """Of a cube of places: how many are drawn as series."""


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm trend")
    with stop_on_sigterm() as stop:
        return _run(options, _given(args), stop)


def _given(args: Sequence[str]) -> set[str]:
    """Options that stand on the command line, their defaults included."""
    words = (a.partition("=")[0] for a in args if a.startswith("--"))
    return {w.removeprefix("--").replace("-", "_") for w in words}


def _run(o: Options, given: set[str], stop: Any) -> dict[str, object]:
    from rsvlm_jax.config import Preempted
    from rsvlm_jax.run.cubes import find_cube
    from rsvlm_jax.run.series_choice import choose
    from rsvlm_jax.run.trend import options_of, region_of, trend_cube

    from .progress import Bars

    settings = options_of({name: getattr(o, name) for name in COMPUTED if name in given})
    source = choose(
        find_cube(o.cube),
        index=o.index,
        bands=o.bands,
        bandset=o.bandset,
        dates=o.dates,
        season=o.season,
        platforms=o.platforms,
        where=region_of(o.where[0] if len(o.where) == 1 else o.where or None),
        window=o.window,
        harmonize=o.harmonize,
        several=settings.several,
    )
    with Bars() as bars:

        def progress(done: int, total: int, rate: float) -> None:
            bars.update("pixels", done, total, {"pixels_per_second": rate})
            if stop() and done < total:
                raise Preempted("stopped", where=o.out, remedy="run again: it goes on from here")

        made = trend_cube(
            source,
            settings,
            o.out,
            block=o.block,
            scheduler=o.scheduler,
            workers=o.workers,
            devices=o.devices,
            geotiff=o.geotiff,
            command=_command(o),
            progress=progress,
        )
    files = [str(f) for f in made.files()]
    if o.figure:
        from rsvlm_jax.evaluate.trendfigure import trend_figure

        files.append(str(trend_figure(made, o.out / "trend.png", sites=o.sites)))
    report = dataclasses.asdict(made.report)
    for line in _lines(made, o.alpha):
        say(line)
    return {"out": str(o.out), "files": files, "series": source.name, **report}


def _command(o: Options) -> str:
    """The command without what does not change its result."""
    words = ["rsvlm", "trend", o.cube]
    default = Options(o.cube, o.out)
    for name in (*COMPUTED, *CHOSEN):
        value = getattr(o, name)
        if value != getattr(default, name):
            several = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *(str(v) for v in several)]
    return shlex.join(words)


def _lines(made: Any, alpha: float) -> list[str]:
    """The result for people."""
    report, what = made.report, "sites" if made.source.cube.points else "pixels"
    codes = ", ".join(f"{name} {count}" for name, count in report.codes.items())
    lines = [f"{report.pixels} {what}: {codes}"]
    if report.significant == report.significant:
        lines.append(
            f"{report.significant:.1%} of those tested are significant (p_corrected <= {alpha:g})"
        )
    if report.computed:
        rate = f"{report.pixels_per_second:.0f} {what}/s"
        lines.append(f"{report.seconds:.1f} s, {rate}: {made.zarr}")
    else:
        lines.append(f"nothing to do: {made.zarr} is finished")
    return lines
