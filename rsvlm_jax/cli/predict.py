"""`rsvlm predict RUN --cube IN --out OUT`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .options import parse, say


@dataclasses.dataclass(frozen=True)
class Options:
    """A wall-to-wall map of a cube, with its 90 % interval, as Zarr and GeoTIFF. Restartable."""

    run: Positional[Path]
    """Run directory of `rsvlm train`."""
    cube: str
    """Path of a cube, sample:NAME or world:PRESET."""
    out: Path
    """Directory of the map."""
    step: int | Literal["best"] | None = None
    """Checkpoint: a step, or that of the lowest held-out loss; the newest by default."""
    dates: Literal["fused", "each"] = "fused"
    """One map of all dates, or one of every acquisition date."""
    since: str | None = None
    """Only dates from this day, month or year on: YYYY-MM-DD, YYYY-MM or YYYY."""
    until: str | None = None
    """Only dates up to this day, or to the end of this month or year."""
    devices: Literal["run", "all", "one"] = "run"
    """Windows are split over the devices of the training run's mesh, all there are, or one."""
    overlap: int | None = None
    """Shared pixels of neighbouring windows; half a window by default."""
    block: int = 256
    """Edge in pixels of a block that is computed and kept by itself."""
    batch_size: int = 64
    """Windows at a time."""
    geotiff: bool = True
    """Write a GeoTIFF beside the Zarr store."""


def run(args: Sequence[str]) -> dict[str, object]:
    options = parse(Options, args, prog="rsvlm predict")
    from rsvlm_jax.config import MeshConfig
    from rsvlm_jax.run.cubes import find_cube
    from rsvlm_jax.run.predict import predict
    from rsvlm_jax.run.trained import load_run

    from .progress import Bars

    mesh = {"run": None, "all": MeshConfig(data=-1), "one": MeshConfig()}[options.devices]
    loaded = load_run(options.run, step=options.step, mesh=mesh)
    with Bars() as bars:
        made = predict(
            loaded,
            find_cube(options.cube),
            options.out,
            dates=options.dates,
            since=options.since,
            until=options.until,
            overlap=options.overlap,
            block=options.block,
            batch_size=options.batch_size,
            geotiff=options.geotiff,
            progress=lambda done, total: bars.update("blocks", done, total),
        )
    report = made.report
    say(f"map: {made.zarr}" + (f", {made.tif}" if made.tif else ""))
    if report.windows:
        rate = report.windows_per_second
        say(f"{report.windows} windows in {report.seconds:.1f} s: {rate:.0f} a second")
    else:
        say("complete already")
    return {
        "map_zarr": str(made.zarr),
        "map_tif": None if made.tif is None else str(made.tif),
        "step": loaded.step,
        "windows_per_second": report.windows_per_second if report.windows else None,
        **dataclasses.asdict(report),
    }
