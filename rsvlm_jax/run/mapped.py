"""What `predict` leaves in OUT, and how it is read again.

    OUT/map.zarr           {target}, {target}_lower, {target}_upper, {target}_width [y,x], CF and
                           GeoZarr; [time,y,x] of every date
    OUT/map.tif            the same as bands of a cloud-optimised GeoTIFF, with CRS, nodata, units;
    OUT/map_YYYY-MM-DD.tif of every date, one a date

Further targets (`TargetConfig.also`) are in the Zarr alone, with the head's own interval. Layers
are computed from blocks by strips of rows, while they are written.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.cube import Cube
from data_zarr.maps import Layer, write_geotiff, write_map
from rsvlm_jax.config import ConfigError
from rsvlm_jax.metrics import conformal

from .blocks import Blocks
from .regressed import ALPHA
from .tiles import TilesReport
from .trained import Loaded

ZARR = "map.zarr"

ENDS = {
    "": "",
    "_lower": ", lower end of the {} 90 % interval",
    "_upper": ", upper end of the {} 90 % interval",
    "_width": ", width of the {} 90 % interval",
}
"""Endings of the arrays of a target, and of their long names."""


@dataclasses.dataclass(frozen=True)
class Map:
    """A map on disk; its layers float32 [H,W] or [T,H,W], read when they are asked for."""

    out: Path
    target: str
    geotiff: bool
    report: TilesReport

    @property
    def zarr(self) -> Path:
        return self.out / ZARR

    @property
    def tif(self) -> Path | None:
        """The GeoTIFF; of several dates the first."""
        files = sorted(self.out.glob("map*.tif")) if self.geotiff else []
        return files[0] if files else None

    @functools.cached_property
    def mean(self) -> np.ndarray:
        return self._layer("")

    @functools.cached_property
    def lower(self) -> np.ndarray:
        return self._layer("_lower")

    @functools.cached_property
    def upper(self) -> np.ndarray:
        return self._layer("_upper")

    def _layer(self, end: str) -> np.ndarray:
        import zarr

        group: Any = zarr.open_group(self.zarr, mode="r")
        return group[self.target + end][...]


@dataclasses.dataclass(frozen=True)
class Computed:
    """A layer, float32 [H,W], made of others row by row."""

    parts: tuple[Layer, ...]
    fn: Callable[..., np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parts[0].shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.fn(*(p[rows] for p in self.parts)).astype(np.float32)


def finished(out: Path, key: str, *, geotiff: bool) -> bool:
    """Whether `out` holds this map whole.

    Raises:
      ConfigError: it holds another: of other data, another model, other options or another grid.
    """
    import zarr

    if not (out / ZARR).exists():
        return False
    try:
        group: Any = zarr.open_group(out / ZARR, mode="r")
        known, dates = group.attrs.get("key"), group["time"][...] if "time" in group else None
    except (OSError, ValueError, KeyError):
        known, dates = None, None
    if known != key:
        raise ConfigError(
            "the output directory holds another map",
            where=out,
            expected=f"nothing, or this map ({key[:12]})",
            found=str(known)[:12] if known else "a store without a key",
            remedy="delete it, or choose another --out",
        )
    days = [None] if dates is None else [*dates.astype("datetime64[s]").astype("datetime64[D]")]
    return not geotiff or all(tif_of(out, day).exists() for day in days)


def tif_of(out: Path, day: np.datetime64 | None) -> Path:
    """The GeoTIFF of a day, or of all."""
    return out / ("map.tif" if day is None else f"map_{day}.tif")


def write(
    loaded: Loaded,
    cube: Cube,
    out: Path,
    stores: Sequence[Blocks],
    days: np.ndarray | None,
    *,
    geotiff: bool,
    attrs: Mapping[str, object],
) -> None:
    """Finished blocks as Zarr and GeoTIFF; ConfigError where they cannot be written.

    Args:
      days: of each of `stores`; None: there is one, of all dates.
      attrs: more attributes of the group.
    """
    processor = loaded.processor
    calibrated = processor.conformal is not None
    target, words = processor.target, processor.target.long_name or processor.target.name
    kind = "conformal" if calibrated else "the model's own"
    if calibrated and days is not None:
        kind = "calibrated on windows with all their dates"
    variables: dict[str, tuple[list[Layer], dict[str, str]]] = {}
    for i, spec in enumerate((target, *processor.also)):
        said = spec.long_name or spec.name
        owner = "model's own" if i else ""
        layers = [_layers(loaded, store, i) for store in stores]
        for end, of in ENDS.items():
            text = said + of.format(owner).replace("  ", " ")
            variables[spec.name + end] = (
                [one[end] for one in layers], {"long_name": text, "units": spec.unit},
            )  # fmt: skip
    if loaded.experiment.model.is_dense:
        kind += ", of a single pixel"
    described: dict[str, object] = {
        "title": f"{words}, predicted by {loaded.experiment.name}",
        "source": cube.title,
        "source_digest": cube.digest(),
        "model_digest": loaded.digest,
        "model_step": loaded.step,
        "window_pixels": loaded.experiment.data.window,
        "interval": f"90 %, {kind}",
        **attrs,
    }
    try:
        if geotiff:
            tags = {k: str(v) for k, v in described.items()}
            for t, day in enumerate([None] if days is None else days):
                bands = {target.name + end: variables[target.name + end][0][t] for end in ENDS}
                write_geotiff(tif_of(out, day), cube.grid, bands, unit=target.unit, tags=tags)
        # Last: a map is finished where its Zarr is.
        if days is None:
            write_map(
                out / ZARR, cube.grid, {k: (v[0], a) for k, (v, a) in variables.items()}, described
            )
        else:
            write_map(out / ZARR, cube.grid, variables, described, times=days)
    except OSError as e:
        raise ConfigError(
            f"cannot write the map ({e.strerror})", where=out, remedy="choose another --out"
        ) from e


def _layers(loaded: Loaded, store: Blocks, i: int) -> dict[str, Layer]:
    """The layers of target `i` by their endings."""
    processor = loaded.processor
    mean, lo, hi = (store.layer(f"{name}{i or ''}") for name in ("mean", "lo", "hi"))
    scores, bounds = processor.conformal, processor.target.bounds
    if i or scores is None:
        ends: list[Layer] = [lo, hi]
    else:
        parts = (mean, store.layer("scale"))
        ends = [
            Computed(parts, lambda m, s, k=k: conformal.interval(m, s, scores, ALPHA, bounds)[k])
            for k in (0, 1)
        ]
    width = Computed((ends[0], ends[1]), lambda lower, upper: upper - lower)
    return dict(zip(ENDS, (mean, *ends, width), strict=True))
