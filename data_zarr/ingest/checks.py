"""What only the numbers can tell: scaled twice, not scaled, an offset that came and went.

`probe` looks at a few windows of the sources before anything is written, and refuses what cannot
be; `doubts` looks at windows of the finished cube, and warns of what should be looked at.
"""

from __future__ import annotations

import numpy as np

from data_zarr.cube import Cube
from data_zarr.errors import CubeError
from data_zarr.format import BandSetInfo
from data_zarr.ingest import native
from data_zarr.ingest.encode import physical
from data_zarr.ingest.plan import BuildPlan
from data_zarr.ingest.points import PointPlan
from data_zarr.ingest.scene import Layer
from data_zarr.ingest.warp import known
from data_zarr.layout import BandSetData
from data_zarr.schema import BACKSCATTER_DB, NEGATIVE_SHARE, REFLECTANCE

PROBE = 128
WINDOWS = 16
TWICE = 0.005
"""A scene whose brightest hundredth is darker than this was scaled twice."""
BASELINE_0400 = np.datetime64("2022-01-25T00:00:00", "s")
STEP = (0.06, 0.14)
"""A change of the median reflectance that looks like the missing offset of 0.1."""


def probe(plan: BuildPlan) -> None:
    """Refuses physical values that cannot be, in a window of the first and of the last scene.

    Raises:
      CubeError: digital numbers as reflectance, a scale applied twice, power called dB.
    """
    for bandset in plan.bandsets:
        for scene in {s.name: s for s in (bandset.scenes[0], bandset.scenes[-1])}.values():
            layers = [x for x in scene.layers if x.dark is None]
            values = np.concatenate([_window(x) for x in layers] or [np.empty(0)])
            if values.size:
                _possible(bandset.data, values, f"band set {bandset.data.name!r}: {scene.name}")


def probe_points(plan: PointPlan) -> None:
    """`probe` for the cube of a table, whose numbers are all there."""
    for data, pixels, valid in plan.bandsets:
        shape = (len(data.bands), 1, 1)
        scale, offset = (
            np.broadcast_to(v, shape[0]).reshape(shape) for v in (data.scale, data.offset)
        )
        values = (pixels * scale + offset)[np.broadcast_to(valid, pixels.shape)]
        _possible(data, values, f"band set {data.name!r}: {plan.recipe.table.path}")


def _window(layer: Layer) -> np.ndarray:
    """Known physical values of the middle of a layer, [n]."""
    h, w = min(PROBE, layer.grid.height), min(PROBE, layer.grid.width)
    y, x = (layer.grid.height - h) // 2, (layer.grid.width - w) // 2
    numbers = native.read(layer, y, x, h, w)
    return physical(numbers[known(numbers, layer.nodata)], layer)


def _possible(data: BandSetData, values: np.ndarray, where: str) -> None:
    values = values[np.isfinite(values)]
    reflectance = data.kind == "optical" and all(b.unit == "1" for b in data.bands)
    if not values.size:
        return
    if reflectance and float(np.median(values)) > REFLECTANCE[1]:
        raise CubeError(
            "impossible reflectances",
            where=where,
            expected=f"a median of at most {REFLECTANCE[1]}",
            found=f"{np.median(values):.6g}: digital numbers?",
            remedy="state the scale and offset of the product",
        )
    bright = float(np.quantile(np.abs(values), 0.99))
    if reflectance and 0 < bright < TWICE:
        raise CubeError(
            "scaled twice",
            where=where,
            expected=f"reflectances: the brightest hundredth above {TWICE}",
            found=f"{bright:.3g}",
            remedy="these numbers are reflectances already, or packed with another scale",
        )
    # Noise that was subtracted leaves a few numbers below 0 in linear power, too.
    if data.kind == "sar" and float(np.quantile(values, 0.05)) >= 0:
        raise CubeError(
            "impossible backscatter",
            where=where,
            expected=f"dB in {BACKSCATTER_DB[0]:.0f}..{BACKSCATTER_DB[1]:.0f}, mostly negative",
            found=f"less than 5 % below 0, median {np.median(values):.4g}",
            remedy='this is linear power: say units = "linear"',
        )


def doubts(cube: Cube) -> list[str]:
    """Warnings about a finished cube, from at most `WINDOWS` windows a band set."""
    out = []
    for info in cube.bandsets.values():
        reflectance = info.kind == "optical" and all(b.unit == "1" for b in info.bands)
        if not reflectance:
            continue
        medians, negative = _medians(cube, info)
        if negative >= NEGATIVE_SHARE:
            out.append(
                f"band set {info.name!r}: {negative:.0%} of the reflectances are negative; an "
                "offset may have been applied twice, or to numbers that had none"
            )
        if not info.static and (step := offset_step(info.dates, medians)) is not None:
            out.append(
                f"band set {info.name!r}: the series steps by {step:+.2f} at 2022-01-25, when "
                "Sentinel-2 baseline 04.00 began; an offset of 0.1 may be missing on one side"
            )
    return out


def offset_step(dates: np.ndarray, medians: np.ndarray) -> float | None:
    """The step of a series at 2022-01-25 if it looks like the offset of baseline 04.00.

    Compared are the same seasons on both sides (dates within 45 days of a day of the year), where
    there are such; else all dates.

    Args:
      dates: datetime64 [T].
      medians: of the reflectance over bands and places, [T], NaN where nothing is clear.
    """
    known_ = np.isfinite(medians)
    dates, medians = dates[known_], medians[known_]
    before = dates < BASELINE_0400
    if not before.any() or before.all():
        return None
    day = (dates - dates.astype("datetime64[Y]")).astype("timedelta64[D]").astype(int)
    steps = []
    for d, value in zip(day[~before], medians[~before], strict=True):
        apart = np.abs(day[before] - d)
        near = np.minimum(apart, 365 - apart) <= 45
        if near.any():
            steps.append(value - np.median(medians[before][near]))
    step = (
        float(np.median(steps))
        if steps
        else float(np.median(medians[~before]) - np.median(medians[before]))
    )
    return step if STEP[0] <= abs(step) <= STEP[1] else None


def _medians(cube: Cube, info: BandSetInfo) -> tuple[np.ndarray, float]:
    """Median reflectance of each date [T], and the share of negative values, of clear pixels."""
    h, w, edge = info.shape[2], info.shape[3], min(64, *info.shape[2:])
    starts = [(y, x) for y in range(0, h - edge + 1, edge) for x in range(0, w - edge + 1, edge)]
    chosen = starts[:: max(1, -(-len(starts) // WINDOWS))]
    reader = cube.reader(info.name)
    scale = np.asarray([b.scale for b in info.bands])[:, None, None]
    offset = np.asarray([b.offset for b in info.bands])[:, None, None]
    parts = []
    for y, x in chosen:
        pixels, valid = reader.read(y, x, edge, edge)
        parts.append(np.where(valid, pixels * scale + offset, np.nan).reshape(info.shape[0], -1))
    values = np.concatenate(parts, axis=1)
    clear = np.isfinite(values)
    medians = np.asarray(
        [np.median(v[c]) if c.any() else np.nan for v, c in zip(values, clear, strict=True)]
    )
    negative = float((values[clear] < 0).mean()) if clear.any() else 0.0
    return medians, negative
