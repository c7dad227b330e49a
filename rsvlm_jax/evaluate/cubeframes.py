"""Whole-cube frames: what the encoder sees, drawn (`show`) or as a picture's `background`."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import numpy as np

from data_zarr.cube import Cube
from rsvlm_jax.config import BandSetSpec, DataError, InputConfig, SpectralConfig
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.data.observe import observation
from rsvlm_jax.data.specs import bandset_specs
from rsvlm_jax.models.spectral import RecombinePlan, SlotRow, make_plan, recombine

from .cubeplots import Panel, Slot, show_cube


@dataclasses.dataclass(frozen=True)
class CubeFrames:
    """Frames of a part of a cube.

    Attributes:
      dates: text of each date, "static" for an undated layer.
      pixels: f32 [T,G,H,W,3], physical units.
      valid: bool [T,G,H,W].
    """

    plan: RecombinePlan
    dates: list[str]
    pixels: np.ndarray
    valid: np.ndarray


def cube_frames(
    cube: Cube, bandset: str, spectral: SpectralConfig, *, dates: int | None, size: int | None
) -> CubeFrames:
    """Recombine up to `dates` evenly chosen dates of the upper left `size` pixels (None: all)."""
    (spec,) = bandset_specs(cube, (InputConfig(bandset, spectral=spectral),))
    plan = make_plan(spec, spectral)
    obs, labels = _observation(cube, spec, dates, size)
    frames = jax.jit(lambda o: recombine(o, plan))(obs)
    return CubeFrames(plan, labels, np.asarray(frames.pixels[0]), np.asarray(frames.valid[0]))


def show(
    cube: Cube,
    out: str | os.PathLike[str],
    *,
    bandset: str | None,
    spectral: SpectralConfig,
    dates: int,
    size: int,
) -> list[dict[str, Any]]:
    """Draw every frame of a band set; returns what stands in each slot.

    Raises:
      DataError: no such band set, or none that makes frames.
    """
    name = bandset or _first_with_frames(cube)
    found = cube_frames(cube, name, spectral, dates=dates, size=size)
    rows = found.plan.describe()
    panels = [
        Panel(
            date=date,
            group=group.name,
            slots=_slots(rows, group.name),
            pixels=found.pixels[t, g],
            valid=found.valid[t, g],
        )
        for t, date in enumerate(found.dates)
        for g, group in enumerate(found.plan.groups)
    ]
    show_cube(out, panels, title=f"{cube.title}: {name}, plan {spectral.plan}", max_dates=dates)
    return [row._asdict() for row in rows]


def background(cube: Cube, read: InputConfig) -> tuple[np.ndarray, str]:
    """The first frame of the clearest date, [H,W,3] with NaN where unknown, and its caption."""
    found = cube_frames(cube, read.bandset, read.spectral, dates=None, size=None)
    t = int(found.valid[:, 0].mean(axis=(1, 2)).argmax())
    group = found.plan.groups[0].name
    slots = _slots(found.plan.describe(), group)
    image = np.where(found.valid[t, 0][..., None], found.pixels[t, 0], np.nan)
    words = group.replace("_", " ").capitalize() if found.plan.spec.kind == "optical" else "Radar"
    return image, f"{words} ({', '.join(s.name for s in slots)}), {found.dates[t]}"


def _observation(
    cube: Cube, spec: BandSetSpec, dates: int | None, size: int | None
) -> tuple[Observation, list[str]]:
    if cube.points:
        raise DataError("sites make no picture", where=cube.path, expected="a raster cube")
    grid = cube.grid_of(spec.name)
    height, width = min(size or grid.height, grid.height), min(size or grid.width, grid.width)
    reader = cube.reader(spec.name, bands=spec.band_names)
    pixels, valid = reader.read(0, 0, height, width)
    info = cube.bandsets[spec.name]
    count = len(info.dates)
    take = np.arange(count)
    if dates is not None and count > dates:
        take = np.unique(np.linspace(0, count - 1, dates).round().astype(int))
    when = None if info.static else info.dates[take]
    obs = observation(spec, pixels[None, take], valid[None, take], date=when)
    labels = ["static"] if when is None else [str(d.astype("datetime64[D]")) for d in when]
    return obs, labels


def _first_with_frames(cube: Cube) -> str:
    for name, info in cube.bandsets.items():
        if info.kind in ("optical", "sar"):
            return name
    raise DataError(
        "no band set makes frames",
        where=cube.path,
        expected="an optical or a radar band set",
        found=", ".join(cube.bandsets) or "none",
    )


def _slots(rows: tuple[SlotRow, ...], group: str) -> tuple[Slot, Slot, Slot]:
    first, second, third = (_slot(row) for row in rows if row.group == group)
    return first, second, third


def _slot(row: SlotRow) -> Slot:
    names, waves = row.bands, [w for w in row.wavelengths if w is not None]
    if row.op == "band":
        return Slot(names[0], waves[0] if waves else None, "" if waves else "dB")
    if row.op == "average":
        return Slot("mean of " + ", ".join(names), float(np.mean(waves)))
    if row.op == "index":
        return Slot(f"({' - '.join(names)}) / ({' + '.join(names)})")
    a, b = names
    words = {
        "ratio_db": (f"{a} - {b}", "dB"),
        "mean_db": (f"mean of {a}, {b}", "dB"),
        "diff_linear": (f"{a} - {b}, linear", ""),
    }
    return Slot(words[row.op][0], None, words[row.op][1])
