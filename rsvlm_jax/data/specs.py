"""From a cube to what a model may know of it: band sets, the target, facts to ask about.

Everything is looked up by name. A model that was trained on one cube and is given another gets
its bands in its own order, whatever the order in the store; bands with another scale, wavelength
or unit are refused, because the scale is compiled into the model's step.

Not here: reading pixels (`source`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from data_zarr.cube import Cube
from data_zarr.errors import CubeError
from data_zarr.format import BandSetInfo, near_miss
from data_zarr.sensors import SENSORS
from rsvlm_jax.config import BandSetSpec, BandSpec, DataError, InputConfig, TargetConfig

from .questions import Facts

SPOKEN = {
    "sentinel-2-msi": "Sentinel-2",
    "landsat-tm": "Landsat",
    "landsat-etm": "Landsat",
    "landsat-oli": "Landsat",
    "sentinel-1": "Sentinel-1",
    "palsar-2": "PALSAR-2",
    "theos": "THEOS",
    "modis": "MODIS",
}
"""Rows of `data_zarr.sensors.SENSORS` as people call them; others are not asked about."""

WAVELENGTH_TOLERANCE = 0.01
"""Micrometres between two bands that count as the same: platforms of one mission differ less."""


@dataclasses.dataclass(frozen=True)
class TargetSpec:
    """The predicted quantity as the cube describes it.

    Attributes:
      name: array in the cube's `targets` group.
      unit: "1" for a share, "Mg/ha", ...
      bounds: smallest and largest possible value, or None.
      long_name: in words, for axes and reports.
    """

    name: str
    unit: str = "1"
    bounds: tuple[float, float] | None = None
    long_name: str = ""


def bandset_specs(
    cube: Cube, inputs: Sequence[InputConfig | BandSetSpec]
) -> tuple[BandSetSpec, ...]:
    """Descriptions of the inputs in the wanted band order.

    Args:
      inputs: `InputConfig`s when a run begins: described as the cube says. `BandSetSpec`s of a
        saved processor: returned as they are, after a check that the cube has the same.

    Raises:
      DataError: no such band set or band (with the nearest name); bands that differ from those of
        the processor in scale, offset, wavelength, unit or kind.
    """
    return tuple(
        _check(cube, i) if isinstance(i, BandSetSpec) else _describe(cube, i) for i in inputs
    )


def target_spec(cube: Cube, target: TargetConfig, name: str | None = None) -> TargetSpec:
    """The target by name; `name`: one of `TargetConfig.also`.

    Raises:
      DataError: no such target, or a map of categories, of which a mean says nothing.
    """
    name = target.name if name is None else name
    info = _lookup(cube.targets, name, "target", str(cube.path))
    if info.kind != "continuous":
        raise DataError(
            "a map of categories is not a number to regress",
            where=f"{cube.path}: target {name!r}",
            expected="a continuous target",
            found=info.kind,
        )
    return TargetSpec(info.name, info.unit, info.bounds, info.long_name)


def facts(
    cube: Cube,
    specs: Sequence[BandSetSpec],
    window: int,
    dates: Sequence[int | None] | None = None,
) -> Facts:
    """What the cube says about the inputs that a model sees as images.

    Args:
      dates: for each of `specs`, at most so many dates are seen; None: all.
    """
    images = [s for s in specs if s.kind != "covariate"]
    gsd = None if math.isnan(cube.grid.gsd) else cube.grid.gsd
    if not images:
        return Facts(gsd=gsd, window=window)
    sensors = [
        SPOKEN[sensor.name]
        for spec in images
        for sensor in SENSORS.values()
        if spec.name in sensor.bandsets and sensor.name in SPOKEN
    ]
    first = images[0]
    info = cube.bandsets[first.name]
    limit = None if dates is None else dates[list(specs).index(first)]
    seen = min(len(info.dates), limit or len(info.dates))
    return Facts(
        sensors=tuple(dict.fromkeys(sensors)),
        optical=any(s.kind == "optical" for s in images),
        radar=any(s.kind == "sar" for s in images),
        dates=None if info.static else seen,
        bands=len(first.bands),
        gsd=gsd,
        window=window,
    )


def _describe(cube: Cube, wanted: InputConfig) -> BandSetSpec:
    info = _lookup(cube.bandsets, wanted.bandset, "band set", str(cube.path))
    where = f"{cube.path}: band set {info.name!r}"
    names = [b.name for b in info.bands] if wanted.bands is None else wanted.bands
    bands = tuple(_band(info, name, where) for name in names)
    if len({b.name for b in bands}) != len(bands):
        raise DataError("a band is read twice", where=where, found=", ".join(names))
    return BandSetSpec(info.name, info.kind, bands, static=info.static, gsd=_gsd(cube, info.name))


def _gsd(cube: Cube, name: str) -> float | None:
    """Metres of a band set's own pixels; None for sites that state none."""
    gsd = cube.grid_of(name).gsd
    return None if math.isnan(gsd) else gsd


def _check(cube: Cube, spec: BandSetSpec) -> BandSetSpec:
    info = _lookup(cube.bandsets, spec.name, "band set", str(cube.path))
    where = f"{cube.path}: band set {info.name!r}"
    for key in ("kind", "static"):
        if getattr(info, key) != getattr(spec, key):
            raise DataError(
                f"another {key} than the model was trained on",
                where=where,
                expected=getattr(spec, key),
                found=getattr(info, key),
            )
    for mine in spec.bands:
        theirs = _band(info, mine.name, where)
        for key in ("scale", "offset", "unit", "wavelength"):
            a, b = getattr(mine, key), getattr(theirs, key)
            if key == "wavelength" and None not in (a, b):
                same = abs(a - b) <= WAVELENGTH_TOLERANCE
            else:
                same = a == b
            if not same:
                raise DataError(
                    f"band {mine.name!r} has another {key} than the model was trained on",
                    where=where,
                    expected=a,
                    found=b,
                    remedy="rewrite the cube in the encoding of the training cube",
                )
    return spec


def _band(info: BandSetInfo, name: str, where: str) -> BandSpec:
    try:
        b = info.bands[info.index(name, where)]
    except CubeError as e:
        raise DataError(
            e.what, where=where, expected=e.expected, found=e.found, remedy=e.remedy
        ) from e
    return BandSpec(b.name, b.common_name, b.wavelength, b.fwhm, b.scale, b.offset, b.unit)


def _lookup(table: dict[str, Any], name: str, kind: str, where: str) -> Any:
    if name in table:
        return table[name]
    raise DataError(
        f"no {kind} {name!r}",
        where=where,
        expected="one of " + (", ".join(table) or "(none)"),
        remedy=near_miss(name, table),
    )
