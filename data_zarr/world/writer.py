"""make_world(): the acquisitions of a scene, written as a cube like any other.

The cube holds what a mission would deliver, stored as missions store it (int16 with scale and
offset), and the target. It does not hold the state: what the oracle may not know is not there.

    scene --acquire, one date after another--> int16 [T,C,H,W], valid [T,1,H,W] --shards--> cube
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Shaped

from data_zarr.cube import Cube, TargetInfo, open_cube
from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS, Band
from data_zarr.world import acquire
from data_zarr.world.presets import PLATFORMS_OF, Preset, find_preset, timeline
from data_zarr.world.scene import AGB_MAX, Scene, scene
from data_zarr.write import BandSetData, create_cube

NODATA = -9999

_EPSG = 32633
_CORNER = (500_000.0, 5_100_000.0)
_NOT_SEEN = ("B01", "B09")
"""Sentinel-2 bands of 60 m, made for the atmosphere: left out."""

_DB_SCALE, _METRE_SCALE = 0.01, 0.1


def make_world(
    path: str | os.PathLike[str],
    *,
    seed: int,
    preset: str = "small",
    size: int | None = None,
    years: float | None = None,
    overwrite: bool = False,
) -> Cube:
    """Writes a synthetic cube and opens it. The same arguments give the same pixels.

    Args:
      path: of the new cube.
      seed: of everything random in it, not negative.
      preset: "small" (128 px) or "full" (512 px).
      size: edge in pixels instead of the preset's.
      years: length of the series instead of the preset's; the number of dates stays.
      overwrite: replace a cube that is already there.

    Raises:
      CubeError: no such preset, an impossible number, something already at `path`, or the path
        cannot be written.
    """
    world = find_preset(preset)
    world = dataclasses.replace(
        world,
        size=world.size if size is None else size,
        years=world.years if years is None else years,
    )
    if seed < 0 or world.size < 16 or not world.years > 0:
        raise CubeError(
            "impossible world",
            expected="seed >= 0, size >= 16, years > 0",
            found=f"seed {seed}, size {world.size}, years {world.years}",
        )
    truth = scene(seed, world)
    corner_x, corner_y = _CORNER
    grid = Grid.from_epsg(
        _EPSG, (world.gsd, 0.0, corner_x, 0.0, -world.gsd, corner_y), world.size, world.size
    )
    bandsets = [_described(seed, world, name) for name in (*world.dates, "dem")]
    writer = create_cube(
        path,
        grid=grid,
        bandsets=bandsets,
        targets=_TARGETS,
        title=f"synthetic world, {preset}, seed {seed}",
        license="CC0-1.0",
        provenance="made by data_zarr.world; no real place",
        attrs={
            "world": {"seed": seed, "preset": preset, "size": world.size, "end": str(world.end)}
        },
        overwrite=overwrite,
    )
    for data in bandsets:
        pixels, valid = _stored(seed, world, truth, data)
        writer.write(data.name, 0, 0, pixels, valid)
    writer.write_target("agb", 0, 0, truth.agb)
    writer.write_target("agb_trend", 0, 0, truth.agb_trend)
    writer.close()
    return open_cube(path)


_TARGETS = [
    TargetInfo(
        "agb",
        "above-ground biomass",
        "Mg/ha",
        (0.0, AGB_MAX),
        "continuous",
        "on the last day of the series, by the law in data_zarr.world.scene",
    ),
    TargetInfo(
        "agb_trend",
        "change of above-ground biomass",
        "Mg/ha/year",
        (-AGB_MAX, AGB_MAX),
        "continuous",
        "over the last year of the series; 0 outside the disturbed part",
    ),
]


def bands_of(bandset: str) -> tuple[Band, ...]:
    """The bands that a world has of a band set, from the table of sensors."""
    return tuple(b for b in BANDSETS[bandset].bands if b.name not in _NOT_SEEN)


def _described(seed: int, world: Preset, name: str) -> BandSetData:
    table = BANDSETS[name]
    if name == "dem":
        return BandSetData(
            name, table.kind, bands_of(name), scale=_METRE_SCALE, nodata=NODATA, static=True
        )
    dates, turns = timeline(seed, world, name), PLATFORMS_OF[name]
    return BandSetData(
        name,
        table.kind,
        bands_of(name),
        dates=dates,
        platform=[turns[i % len(turns)] for i in range(len(dates))],
        scale=_DB_SCALE if table.kind == "sar" else table.scale,
        offset=table.offset,
        nodata=NODATA,
        source=table.source,
    )


def _stored(
    seed: int, world: Preset, truth: Scene, data: BandSetData
) -> tuple[Shaped[np.ndarray, "T C H W"], Bool[np.ndarray, "T 1 H W"]]:
    """All dates of a band set as stored numbers, filled date by date."""
    dates = 1 if data.static else len(data.dates)
    pixels = np.empty((dates, len(data.bands), world.size, world.size), np.int16)
    valid = np.empty((dates, 1, world.size, world.size), bool)
    scale, offset = (np.asarray(v, np.float32) for v in (data.scale, data.offset))
    limits = np.iinfo(np.int16)
    for i, (physical, clear) in enumerate(_acquisitions(seed, world, truth, data)):
        number = np.rint((physical - offset) / scale)
        pixels[i] = np.clip(number, NODATA + 1, limits.max).astype(np.int16)
        valid[i] = clear
    return pixels, valid


def _acquisitions(
    seed: int, world: Preset, truth: Scene, data: BandSetData
) -> Iterator[tuple[Float[np.ndarray, "C H W"], Bool[np.ndarray, "1 H W"]]]:
    if data.static:
        yield acquire.elevation(seed, world)[None], np.ones((1, world.size, world.size), bool)
        return
    wavelength = np.array([b.wavelength or np.nan for b in data.bands])
    fwhm = np.array([b.fwhm or np.nan for b in data.bands])
    for i, (date, platform) in enumerate(zip(data.dates, data.platform, strict=True)):
        if data.kind == "sar":
            yield acquire.sar(seed, world, truth, i, date)
        else:
            yield acquire.optical(
                seed, world, truth, data.name, i, date, platform, wavelength, fwhm
            )
