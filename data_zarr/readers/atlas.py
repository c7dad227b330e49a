"""Patches that share no grid, as one cube: laid side by side, row by row, nowhere on earth.

    patch 0 | patch 1 | patch 2        a window of the patch's size and stride never holds two
    patch 3 | patch 4 |  none          patches; with smaller windows that divide it neither

Neighbours in an atlas are no neighbours on the ground: split by whole patches (`SplitConfig.block`
the patch's size, or a cube a split), and do not blend predictions across them. Degrees are NaN
(`Grid.unplaced`). `attrs["patches"]` of the cube: their names in order, and their size.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import TargetInfo
from data_zarr.grid import Grid
from data_zarr.sensors import Number
from data_zarr.write import BandSetData, create_cube

HELD = 64
"""Patches that are kept in memory: a patch may lie in four shards."""


@dataclasses.dataclass(frozen=True)
class Patch:
    """Numbers of one patch, in stored units.

    Attributes:
      pixels: [T, C, s, s] by band set.
      valid: bool [T, s, s] by band set; one that is not named is valid but for nodata.
      targets: float [s, s] by name, NaN where unknown.
    """

    pixels: Mapping[str, np.ndarray]
    valid: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]


def write_atlas(
    out: str | os.PathLike[str],
    names: Sequence[str],
    read: Callable[[int], Patch],
    *,
    size: int,
    gsd: Number,
    bandsets: Sequence[BandSetData],
    targets: Sequence[TargetInfo],
    title: str,
    license: str,
    provenance: str,
    shard: int | None = None,
    overwrite: bool = False,
) -> str:
    """The cube of all patches; called again, a stopped one goes on.

    Args:
      names: of the patches, in order.
      read: the numbers of patch i.
      size: pixels a side of every patch; gsd: of a pixel, metres.
      shard: as in `create_cube`.

    Returns:
      The path of the cube.

    Raises:
      CubeError: no patch, or one of another shape than the band sets say (named).
      OutputError: not writable.
    """
    if not names:
        raise CubeError("no patch", where=out, expected="at least one", found=0)
    columns = math.ceil(math.sqrt(len(names)))
    rows = math.ceil(len(names) / columns)
    grid = Grid.unplaced(rows * size, columns * size, gsd)

    @functools.lru_cache(maxsize=HELD)
    def once(i: int) -> Patch:
        return _checked(read(i), names[i], size, bandsets)

    writer = create_cube(
        out,
        grid=grid,
        bandsets=bandsets,
        targets=targets,
        shard=shard,
        title=title,
        license=license,
        provenance=provenance,
        attrs={"patches": {"size": size, "columns": columns, "names": list(names)}},
        overwrite=overwrite,
    )
    with writer:
        for y, x in writer.regions():
            h, w = min(writer.shard, grid.height - y), min(writer.shard, grid.width - x)
            parts = _parts(y, x, h, w, size, columns, len(names))
            for name, info in writer.bandsets.items():
                if writer.done(name, y, x):
                    continue
                t, c = info.shape[:2]
                pixels = np.full((t, c, h, w), info.nodata, info.dtype)
                valid = np.zeros((t, h, w), bool)
                for i, here, there in parts:
                    patch = once(i)
                    pixels[:, :, *here] = patch.pixels[name][:, :, *there]
                    given = patch.valid.get(name)
                    valid[:, *here] = True if given is None else given[:, *there]
                writer.write(name, y, x, pixels, valid)
            for name in writer.targets:
                if writer.done(name, y, x):
                    continue
                values = np.full((h, w), np.nan, np.float32)
                for i, here, there in parts:
                    values[here] = once(i).targets[name][there]
                writer.write_target(name, y, x, values)
    return str(writer.path)


Slices = tuple[slice, slice]


def _parts(
    y: int, x: int, h: int, w: int, size: int, columns: int, count: int
) -> list[tuple[int, Slices, Slices]]:
    """Patches that a region meets: which, where in the region, and what of the patch."""
    parts = []
    for row in range(y // size, (y + h - 1) // size + 1):
        for column in range(x // size, (x + w - 1) // size + 1):
            i = row * columns + column
            if i >= count:
                continue
            top, left = row * size, column * size
            rows = slice(max(top, y), min(top + size, y + h))
            cols = slice(max(left, x), min(left + size, x + w))
            here = (slice(rows.start - y, rows.stop - y), slice(cols.start - x, cols.stop - x))
            there = (
                slice(rows.start - top, rows.stop - top),
                slice(cols.start - left, cols.stop - left),
            )
            parts.append((i, here, there))
    return parts


def _checked(patch: Patch, name: str, size: int, bandsets: Sequence[BandSetData]) -> Patch:
    for data in bandsets:
        dates = 1 if data.dates is None else len(np.asarray(data.dates))
        expected = (dates, len(data.bands), size, size)
        found = patch.pixels[data.name].shape
        if found != expected:
            raise CubeError(
                "a patch of another shape",
                where=f"{name}: {data.name}",
                expected=list(expected),
                found=list(found),
            )
    return patch
