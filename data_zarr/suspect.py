"""What is allowed in a cube but deserves a look: a stepping series, awkward chunks, no licence.

`data_zarr.schema` says what breaks a rule; this says what may be a mistake. Nothing here refuses.

    2021  0.08 0.07 0.09 | 2022-01-25 | 0.18 0.17      a step of 0.1: the offset of Sentinel-2's
                                                       baseline 04.00 was not taken off
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from data_zarr.cube import Cube
from data_zarr.errors import CubeError
from data_zarr.format import BandSetInfo
from data_zarr.sensors import PLATFORMS

BASELINE_04 = np.datetime64("2022-01-25", "s")
"""First day of Sentinel-2 processing baseline 04.00, which adds 1000 to every number."""
STEP = (0.07, 0.13)
SMALL_CHUNK, LARGE_CHUNK = 16 * 2**10, 64 * 2**20
"""Bytes before compression: below, opening costs more than reading; above, a window reads far more
than it needs."""
LARGE_SHARD, MANY_FILES = 2 * 2**30, 200_000
FEW_CLEAR = 0.05
WINDOWS, THIN = 16, 4
"""Windows looked at in each band set, and every so many pixels of them."""


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """One thing to look at.

    Attributes:
      rule: what would be expected.
      where: cube, band set or target.
      found: what there is instead.
      remedy: what to do if it is a mistake.
    """

    rule: str
    where: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}; found {self.found}; {self.remedy}"


def suspicions(cube: Cube) -> list[Suspicion]:
    """All suspicions of a cube, in the order of its band sets. Reads a few windows of each."""
    found = [*_described(cube)]
    for info in cube.bandsets.values():
        found += _chunks(info)
        found += _fit_for_use(info)
        if _reflectance(info):
            found += _values(cube, info)
    if len(cube.manifest.files) > MANY_FILES:
        found.append(
            Suspicion(
                "a cube of few files",
                "cube",
                f"{len(cube.manifest.files)} files",
                "larger shards: file systems and object stores charge by the file",
            )
        )
    return found


def layout_of(info: BandSetInfo) -> str:
    """The layout that a band set's chunks amount to: series, image, balanced or static."""
    t, _, edge, _ = info.chunks
    if info.shape[0] == 1:
        return "one date"
    if t > 1:
        return "series"
    # As many pixels as the shard, or all there are: then a chunk is an image.
    whole = edge >= info.shards[2] and edge >= min(info.shards[2], max(info.shape[2:]))
    return "image" if whole and edge > 64 else "balanced"


def _described(cube: Cube) -> Iterator[Suspicion]:
    for key, remedy in (
        ("license", "others may not use a cube without one: state it"),
        ("provenance", "say where the numbers come from"),
        ("title", "give it a name"),
    ):
        value = str(cube.attrs.get(key, "")).strip()
        if not value or value.lower() in ("none", "unknown", "not stated"):
            yield Suspicion(f"a {key}", "cube", value or "none", remedy)


def _chunks(info: BandSetInfo) -> Iterator[Suspicion]:
    size = math.prod(info.chunks) * info.dtype.itemsize
    whole = math.prod(info.shape) * info.dtype.itemsize
    if size < min(SMALL_CHUNK, whole / 4) and not info.points:
        yield Suspicion(
            f"chunks of at least {SMALL_CHUNK // 1024} kB",
            info.name,
            f"{'x'.join(map(str, info.chunks))}: {size / 1024:.1f} kB",
            "layout series or image puts more into a chunk",
        )
    if size > LARGE_CHUNK:
        yield Suspicion(
            f"chunks of at most {LARGE_CHUNK // 2**20} MB",
            info.name,
            f"{'x'.join(map(str, info.chunks))}: {size / 2**20:.0f} MB",
            "layout balanced, or smaller shards",
        )
    shard = math.prod(info.shards) * info.dtype.itemsize
    if shard > LARGE_SHARD and shard <= 2 * whole:
        yield Suspicion(
            f"shards of at most {LARGE_SHARD // 2**30} GB",
            info.name,
            f"{'x'.join(map(str, info.shards))}: {shard / 2**30:.1f} GB",
            "smaller shards: a writer holds one in memory",
        )


def _fit_for_use(info: BandSetInfo) -> Iterator[Suspicion]:
    if layout_of(info) == "image" and info.shape[0] >= 12:
        yield Suspicion(
            "a layout for time series",
            info.name,
            f"{info.shape[0]} dates, each a chunk of {info.chunks[2]}x{info.chunks[3]} pixels: a "
            "small window reads all of it",
            "copy with layout series or balanced, unless whole scenes are read",
        )


def _reflectance(info: BandSetInfo) -> bool:
    return info.kind == "optical" and all(b.unit == "1" for b in info.bands)


def _values(cube: Cube, info: BandSetInfo) -> Iterator[Suspicion]:
    try:
        values = _by_date(cube, info)
    except CubeError:
        return  # damage is told by `validate`
    known = [v[np.isfinite(v)] for v in values]
    every = np.concatenate(known) if known else np.zeros(0)
    if not every.size:
        return
    negative = float((every < 0).mean())
    if negative >= 0.3:
        yield Suspicion(
            "reflectances are positive",
            info.name,
            f"{negative:.0%} negative",
            "an offset may have been taken off twice",
        )
    if float(np.percentile(every, 99)) < 0.005:
        yield Suspicion(
            "reflectances of some surface",
            info.name,
            f"99 % below {np.percentile(every, 99):.2g}",
            "the scale may have been applied twice",
        )
    share = np.mean([len(k) / max(v.size, 1) for k, v in zip(known, values, strict=True)])
    if share < FEW_CLEAR:
        yield Suspicion(
            f"at least {FEW_CLEAR:.0%} of the pixels are clear",
            info.name,
            f"{share:.1%} in a sample",
            "the meaning of the QA bits may be reversed",
        )
    step = _step(info, known)
    if step is not None and STEP[0] <= abs(step) <= STEP[1]:
        yield Suspicion(
            "no step at 2022-01-25",
            info.name,
            f"the median rises by {step:.3f}" if step > 0 else f"the median falls by {-step:.3f}",
            "baselines of Sentinel-2 may be mixed: take offsets from the metadata of each scene",
        )


def _step(info: BandSetInfo, known: list[np.ndarray]) -> float | None:
    """Rise of the median of Sentinel-2's dates from before to after baseline 04.00, or None.

    Up to six clear dates on either side that are nearest to it: seasons would be taken for a step.
    """
    if info.static or info.dates.ndim != 1:
        return None
    ours = np.array([PLATFORMS[p].startswith("sentinel-2") for p in info.platform])
    if info.name.startswith("s2_") and not info.platform.any():
        ours[:] = True
    clear = np.flatnonzero(ours & np.array([len(k) >= 50 for k in known]))
    before = [t for t in clear if info.dates[t] < BASELINE_04][-6:]
    after = [t for t in clear if info.dates[t] >= BASELINE_04][:6]
    if not before or not after:
        return None
    medians = [float(np.median([np.median(known[t]) for t in side])) for side in (before, after)]
    return medians[1] - medians[0]


def _by_date(cube: Cube, info: BandSetInfo) -> list[np.ndarray]:
    """Physical values of some windows by date, T arrays [n], NaN where not valid."""
    reader = cube.reader(info.name)
    height, width = info.shape[2:]
    h, w = min(info.chunks[2], height, 256), min(info.chunks[3], width, 256)
    starts = [(y, x) for y in range(0, height - h + 1, h) for x in range(0, width - w + 1, w)]
    scale = np.array([b.scale for b in info.bands], np.float32)[:, None, None]
    offset = np.array([b.offset for b in info.bands], np.float32)[:, None, None]
    parts: list[np.ndarray] = []
    for y, x in starts[:: -(-len(starts) // WINDOWS)]:
        pixels, valid = reader.read(y, x, h, w)
        thin = THIN if min(h, w) > THIN else 1
        pixels, valid = pixels[..., ::thin, ::thin], valid[..., ::thin, ::thin]
        physical = np.where(valid, pixels.astype(np.float32) * scale + offset, np.nan)
        parts.append(physical.reshape(len(physical), -1))
    return list(np.concatenate(parts, axis=1))
