"""`predict(loaded, cube, out)`: a wall-to-wall map with its interval, restartable.

    OUT/map.zarr     {target}, {target}_lower, {target}_upper, {target}_width [y,x], CF and GeoZarr
    OUT/map.tif      the same as bands, with CRS, nodata, descriptions

Further targets (`TargetConfig.also`) are in the Zarr alone, with the head's own interval.
Finished blocks lie in OUT/blocks until the map is complete.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from data_zarr.cube import Cube
from data_zarr.sampling import WindowTable
from data_zarr.schema import check_inputs
from data_zarr.write import write_geotiff, write_map
from rsvlm_jax.config import ConfigError
from rsvlm_jax.data.source import CubeSource
from rsvlm_jax.data.specs import TargetSpec, bandset_specs
from rsvlm_jax.metrics import conformal

from .tiles import TilesReport, tiles
from .trained import ALPHA, Loaded

ENDS = {
    "": "",
    "_lower": ", lower end of the model's own 90 % interval",
    "_upper": ", upper end of the model's own 90 % interval",
}
"""Endings of the arrays of a further target, and of their long names."""


@dataclasses.dataclass(frozen=True)
class Map:
    """A map in memory, float32 [H,W] each, and where it was written."""

    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    zarr: Path
    tif: Path | None
    report: TilesReport


def predict(
    loaded: Loaded,
    cube: Cube,
    out: str | os.PathLike[str],
    *,
    overlap: int | None = None,
    block: int = 256,
    batch_size: int = 64,
    geotiff: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Map:
    """Predict every pixel of a cube from overlapping windows, blended linearly.

    Mean and spread are blended, then the interval is taken from the run's calibration.

    Args:
      overlap: shared pixels of neighbouring windows; None: half a window.
      block: edge of an independently computed block in pixels.
      progress: called with (finished blocks, all blocks).

    Raises:
      DataError: the cube does not fit the model.
      CubeError: impossible numbers (`check_inputs`), or a chunk that cannot be read (named): a map
        has no holes that nobody asked for. Finished blocks stay: restore the chunk, run again.
      ConfigError: `out` cannot be written, or holds blocks of another computation.
    """
    size = loaded.experiment.data.window
    out = Path(out)
    check_inputs(cube, [s.name for s in bandset_specs(cube, loaded.processor.bandsets)])

    def fn(y: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
        table = WindowTable(y, x, size)
        source = CubeSource.of(loaded.processor, cube, table, error_budget=0.0)
        found = loaded.regress_targets(source, batch_size=batch_size)
        one, *others = found.values()
        layers = {"mean": one.mean, "scale": one.scale, "lo": one.lo, "hi": one.hi}
        for i, other in enumerate(others, 1):
            layers |= {f"mean{i}": other.mean, f"lo{i}": other.lo, f"hi{i}": other.hi}
        return layers

    blended, report = tiles(
        (cube.grid.height, cube.grid.width),
        fn,
        out / "blocks",
        key=f"{loaded.digest} {cube.digest()}",
        tile=size,
        overlap=size // 2 if overlap is None else overlap,
        block=block,
        progress=progress,
    )
    mean, lower, upper = blended["mean"], blended["lo"], blended["hi"]
    scores = loaded.processor.conformal
    if scores is not None:
        bounds = loaded.processor.target.bounds
        lower, upper = conformal.interval(mean, blended["scale"], scores, ALPHA, bounds)
    more = {
        spec.name: (spec, [blended[f"{layer}{i}"] for layer in ("mean", "lo", "hi")])
        for i, spec in enumerate(loaded.processor.also, 1)
    }
    return write(loaded, cube, out, mean, lower, upper, report, geotiff=geotiff, more=more)


def write(
    loaded: Loaded,
    cube: Cube,
    out: Path,
    mean: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    report: TilesReport,
    *,
    geotiff: bool,
    attrs: dict[str, object] | None = None,
    more: Mapping[str, tuple[TargetSpec, list[np.ndarray]]] | None = None,
) -> Map:
    """The map as Zarr and GeoTIFF (not of sites); the blocks are removed once both are there.

    Args:
      more: further targets, with mean and the head's own interval: in the Zarr alone.
    """
    geotiff = geotiff and not cube.points
    target = loaded.processor.target
    name, words = target.name, target.long_name or target.name
    kind = "conformal" if loaded.processor.conformal is not None else "the model's own"
    arrays = {
        name: (mean, {"long_name": words}),
        f"{name}_lower": (lower, {"long_name": f"{words}, lower end of the 90 % interval"}),
        f"{name}_upper": (upper, {"long_name": f"{words}, upper end of the 90 % interval"}),
        f"{name}_width": (upper - lower, {"long_name": f"{words}, width of the 90 % interval"}),
    }
    variables = {
        k: (v.astype(np.float32), {**a, "units": target.unit}) for k, (v, a) in arrays.items()
    }
    bands = {k: v for k, (v, _) in variables.items()}
    for other, (spec, found) in (more or {}).items():
        said = spec.long_name or other
        variables |= {
            other + end: (x.astype(np.float32), {"long_name": said + of, "units": spec.unit})
            for x, end, of in zip(found, ENDS, ENDS.values(), strict=True)
        }
    described: dict[str, object] = {
        "title": f"{words}, predicted by {loaded.experiment.name}",
        "source": cube.title,
        "source_digest": cube.digest(),
        "model_digest": loaded.digest,
        "model_step": loaded.step,
        "window_pixels": loaded.experiment.data.window,
        "interval": f"90 %, {kind}",
        **(attrs or {}),
    }
    zarr_path, tif_path = out / "map.zarr", out / "map.tif"
    try:
        write_map(zarr_path, cube.grid, variables, described)
        if geotiff:
            write_geotiff(tif_path, cube.grid, bands, unit=target.unit)
    except OSError as e:
        raise ConfigError(
            f"cannot write the map ({e.strerror})", where=out, remedy="choose another --out"
        ) from e
    shutil.rmtree(out / "blocks", ignore_errors=True)
    return Map(mean, lower, upper, zarr_path, tif_path if geotiff else None, report)
