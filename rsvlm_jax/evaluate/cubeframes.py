"""Whole-cube frames: what the encoder sees, drawn (`show`) or as a picture's `background`."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_zarr.cube import Cube
from rsvlm_jax.config import BandSetSpec, DataError, InputConfig, SpectralConfig
from rsvlm_jax.data.batch import Observation
from rsvlm_jax.data.observe import observation
from rsvlm_jax.data.specs import bandset_specs
from rsvlm_jax.models.spectral import (
    Frames,
    FrameStats,
    RecombinePlan,
    SlotRow,
    make_plan,
    patch_valid,
    recombine,
    to_encoder,
)

from .cubeplots import Panel, Slot, show_cube

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Of the images that a tower was trained on: cancels out of the picture."""


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
    cube: Cube,
    bandset: str,
    spectral: SpectralConfig,
    *,
    dates: int | None,
    size: int | None,
    at: tuple[int, int] = (0, 0),
    square: bool = False,
) -> CubeFrames:
    """Recombine up to `dates` evenly chosen dates of `size` pixels from `at` on (None: all).

    Pixels are those of the cube's grid; a band set of larger ones is read on its own grid.
    """
    (spec,) = bandset_specs(cube, (InputConfig(bandset, spectral=spectral),))
    plan = make_plan(spec, spectral)
    obs, labels = _observation(cube, spec, dates, size, at, square)
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
    at: tuple[int, int] = (0, 0),
    image_size: int | None = None,
) -> list[dict[str, Any]]:
    """Draw every frame as `to_encoder` hands it over; returns what stands in each slot.

    Statistics are those of the pixels shown; a trained run has those of its training split.

    Args:
      bandset: one band set, or None for all that make frames.
      dates: at most so many, evenly chosen.
      size: edge of the square that is shown, in pixels of the cube's grid.
      at: its upper left pixel.
      image_size: edge of the encoder's images; None keeps the pixels as they are.

    Raises:
      DataError: no such band set, or none that makes frames; sites.
    """
    if cube.points:
        raise DataError("sites make no picture", where=cube.path, expected="a raster cube")
    names = [bandset] if bandset else _with_frames(cube)
    panels: list[Panel] = []
    rows: list[dict[str, Any]] = []
    for name in names:
        found = cube_frames(cube, name, spectral, dates=dates, size=size, at=at, square=True)
        panels += _as_seen(found, name, spectral, image_size)
        rows += [{"bandset": name, **row._asdict()} for row in found.plan.describe()]
    title = f"{cube.title}: plan {spectral.plan}, stretch {spectral.stretch}"
    show_cube(out, panels, title=title, max_dates=dates)
    return rows


def _as_seen(
    found: CubeFrames, name: str, spectral: SpectralConfig, image_size: int | None
) -> list[Panel]:
    """Panels of the images that the encoder gets, brought back to physical units for the labels."""
    frames = Frames(
        jnp.asarray(found.pixels[None]),
        jnp.asarray(found.valid[None]),
        jnp.arange(len(found.plan.groups)),
    )
    stats = _stats(found)
    t, g, height, width = found.valid.shape
    size = image_size or min(height, width)
    images = to_encoder(frames, stats, size, stretch=spectral.stretch, mean=MEAN, std=STD)
    images = np.asarray(images).reshape(t, g, size, size, 3)
    seen = np.asarray(patch_valid(frames, size, 1)).reshape(t, g, size, size)
    if spectral.stretch == "zscore":  # two standard deviations either way fill the scale
        low, high = stats.mean - 2 * stats.std, stats.mean + 2 * stats.std
        unit = images / 4 + 0.5
    else:
        low, high = stats.low, stats.high
        unit = images * np.asarray(STD) + np.asarray(MEAN)
    low, high = np.asarray(low), np.asarray(high)
    note = "" if size == height else f"{height} to {size} pixels"
    rows = found.plan.describe()
    return [
        Panel(
            date=date,
            group=group.name,
            slots=_slots(rows, group.name),
            pixels=low[k] + unit[i, k] * (high[k] - low[k]),
            valid=seen[i, k],
            limits=(low[k], high[k]),
            linear=True,
            bandset=name,
            note=note,
        )
        for i, date in enumerate(found.dates)
        for k, group in enumerate(found.plan.groups)
    ]


def _stats(found: CubeFrames) -> FrameStats:
    """As `frame_stats`, but a frame without a valid pixel or without contrast is drawn flat."""
    groups = len(found.plan.groups)
    mean, std, low, high = np.zeros((4, groups, 3), np.float32)
    std[:], high[:] = 1, 1
    for g in range(groups):
        known = found.pixels[:, g][found.valid[:, g]].astype(np.float64)
        if len(known):
            mean[g], std[g] = known.mean(0), known.std(0)
            low[g], high[g] = np.percentile(known, (2, 98), axis=0)
    std[std == 0] = 1
    return FrameStats(*(jnp.asarray(v) for v in (mean, std, low, high)))


def background(cube: Cube, read: InputConfig) -> tuple[np.ndarray, str]:
    """The first frame of the clearest date, [H,W,3] with NaN where unknown, and its caption."""
    found = cube_frames(cube, read.bandset, read.spectral, dates=None, size=None)
    t = int(found.valid[:, 0].mean(axis=(1, 2)).argmax())
    group = found.plan.groups[0].name
    slots = _slots(found.plan.describe(), group)
    image = np.where(found.valid[t, 0][..., None], found.pixels[t, 0], np.nan)
    words = group.replace("_", " ").capitalize() if found.plan.spec.kind == "optical" else "Radar"
    return image, f"{words} ({', '.join(s.name for s in slots)}), {found.dates[t]}"


def quicklook(cube: Cube, side: int = 600) -> tuple[np.ndarray | None, str]:
    """The first frame of the clearest date, thinned to about `side` pixels, [h,w,3] with NaN.

    Reads the cube in strips, so that its size does not matter. (None, "") where nothing makes
    frames.
    """
    kinds = {b.kind: n for n, b in reversed(cube.bandsets.items())}
    name = kinds.get("optical", kinds.get("sar"))
    if name is None:
        return None, ""
    (spec,) = bandset_specs(cube, (InputConfig(name),))
    plan = make_plan(spec, SpectralConfig())
    reader = cube.reader(name, bands=spec.band_names)
    height, width = cube.bandsets[name].shape[2:]
    step = max(1, max(height, width) // side)
    edge = max(step, 64 // step * step)
    strips = range(0, height, edge)

    def strip(y: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, valid = reader.read(y, 0, min(edge, height - y), width)
        return pixels[..., ::step, ::step], valid[..., ::step, ::step]

    # The date is chosen from a few strips, or the whole cube would be read twice.
    some = strips[:: -(-len(strips) // 4)]
    clear = np.sum([strip(y)[1].all(axis=1).sum(axis=(1, 2)) for y in some], axis=0)
    t = int(clear.argmax())
    pixels, valid = (
        np.concatenate(parts, axis=-2)[None]
        for parts in zip(*(tuple(a[[t]] for a in strip(y)) for y in strips), strict=True)
    )
    obs = observation(spec, pixels, valid)
    frames = jax.jit(lambda o: recombine(o, plan))(obs)
    image = np.where(frames.valid[0, 0, 0][..., None], frames.pixels[0, 0, 0], np.nan)
    slots = _slots(plan.describe(), plan.groups[0].name)
    info = cube.bandsets[name]
    when = "static" if info.static else str(info.dates[t].astype("datetime64[D]"))
    return image, f"{name}, {', '.join(s.name for s in slots)}, {when}"


def picture(cube: Cube, at: tuple[int, int] | None, side: int = 336) -> tuple[np.ndarray, str]:
    """A picture for a model of images, u8 [h,w,3], and what it shows; black where unknown.

    The first frame of the clearest date, each channel from its 2nd to its 98th percentile.

    Args:
      at: row and column of the upper left pixel of `side` pixels; None: the whole cube, thinned.

    Raises:
      DataError: nothing that makes frames, or nothing valid there.
    """
    if at is None:
        image, caption = quicklook(cube, side)
    else:
        names = _with_frames(cube)
        found = cube_frames(cube, names[0], SpectralConfig(), dates=None, size=side, at=at)
        t = int(found.valid[:, 0].mean(axis=(1, 2)).argmax())
        image = np.where(found.valid[t, 0][..., None], found.pixels[t, 0], np.nan)
        slots = _slots(found.plan.describe(), found.plan.groups[0].name)
        caption = f"{names[0]}, {', '.join(s.name for s in slots)}, {found.dates[t]}, at {at}"
    if image is None or not np.isfinite(image).any():
        raise DataError("nothing to see", where=cube.path, expected="a valid optical or SAR pixel")
    low, high = np.nanpercentile(image, (2, 98), axis=(0, 1))
    scaled = (image - low) / np.where(high > low, high - low, 1)
    return (255 * np.nan_to_num(scaled).clip(0, 1)).round().astype(np.uint8), caption


def _observation(
    cube: Cube,
    spec: BandSetSpec,
    dates: int | None,
    size: int | None,
    at: tuple[int, int],
    square: bool,
) -> tuple[Observation, list[str]]:
    factor = cube.bandsets[spec.name].factor
    own = cube.bandsets[spec.name].shape[2:]
    y, x = (min(max(v, 0) // factor, n - 1) for v, n in zip(at, own, strict=True))
    edge = max(own) if size is None else max(size // factor, 1)
    height, width = min(edge, own[0] - y), min(edge, own[1] - x)
    if square:
        height = width = min(height, width)
    reader = cube.reader(spec.name, bands=spec.band_names)
    pixels, valid = reader.read(y, x, height, width)
    info = cube.bandsets[spec.name]
    count = len(info.dates)
    take = np.arange(count)
    if dates is not None and count > dates:
        take = np.unique(np.linspace(0, count - 1, dates).round().astype(int))
    when = None if info.static else info.dates[take]
    obs = observation(spec, pixels[None, take], valid[None, take], date=when)
    labels = ["static"] if when is None else [str(d.astype("datetime64[D]")) for d in when]
    return obs, labels


def _with_frames(cube: Cube) -> list[str]:
    names = [name for name, info in cube.bandsets.items() if info.kind in ("optical", "sar")]
    if not names:
        raise DataError(
            "no band set makes frames",
            where=cube.path,
            expected="an optical or a radar band set",
            found=", ".join(cube.bandsets) or "none",
        )
    return names


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
