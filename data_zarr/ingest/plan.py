"""A recipe and its sources' metadata, brought together: all that a build will do, without a pixel.

    plan_raster(recipe) -> BuildPlan    grid, dates, encodings, who is read for what
    plan.describe()                     the same as JSON values, for `--dry-run`

Whatever can be refused without reading a pixel is refused here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.ingest.choose import encoding_of, nodata_of
from data_zarr.ingest.encode import Encoding, shift
from data_zarr.ingest.grids import overlapping, target_grid
from data_zarr.ingest.recipe import BandSetRecipe, Recipe, check_encoding
from data_zarr.ingest.scene import Layer, Scene, Wanted
from data_zarr.ingest.targets import TargetPlan, plan_target
from data_zarr.ingest.warp import RESAMPLING, aligned
from data_zarr.layout import BandSetData, fitting
from data_zarr.sensors import platform_id

SMALL_CHUNK, MANY_CHUNKS = 16384, 10000
LARGE_TASK = 2**30


@dataclasses.dataclass(frozen=True)
class BandSetPlan:
    """One band set: its template, its scenes in time, and how each band is stored.

    Attributes:
      groups: for every date of the cube, the scenes (rows of `scenes`) that it is made of.
      grid: of its pixels.
    """

    recipe: BandSetRecipe
    data: BandSetData
    scenes: tuple[Scene, ...]
    groups: tuple[tuple[int, ...], ...]
    encodings: tuple[Encoding, ...]
    grid: Grid


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """Everything but the pixels. `notes` are facts, `warnings` are doubts."""

    recipe: Recipe
    grid: Grid
    bandsets: tuple[BandSetPlan, ...]
    targets: tuple[TargetPlan, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def shard(self) -> int:
        """Pixels a side of a shard of the cube's grid, as `create_cube` will make it."""
        return fitting(self.recipe.shard, self.grid)

    @property
    def tasks(self) -> int:
        """Shards to write."""
        count = 0
        for grid in [*(b.grid for b in self.bandsets), *(self.grid for _ in self.targets)]:
            edge = fitting(self.recipe.shard, grid)
            count += math.ceil(grid.height / edge) * math.ceil(grid.width / edge)
        return count

    def describe(self) -> dict[str, Any]:
        """What would be built, as JSON values."""
        west, south, east, north = self.grid.lonlat_bounds
        return {
            "title": self.recipe.title,
            "grid": {
                "crs": f"EPSG:{self.grid.epsg}" if self.grid.epsg else self.grid.crs_wkt,
                "resolution": [self.grid.transform[0], -self.grid.transform[4]],
                "bounds": list(self.grid.bounds),
                "lonlat": [west, south, east, north],
                "shape": [self.grid.height, self.grid.width],
            },
            "bandsets": [_bandset(b) for b in self.bandsets],
            "targets": [
                {"name": t.info.name, "unit": t.info.unit, "resampling": t.recipe.resampling}
                for t in self.targets
            ],
            "layout": self.recipe.layout,
            "shard": self.shard,
            "tasks": self.tasks,
            "bytes": sum(_size(b) for b in self.bandsets)
            + 4 * self.grid.height * self.grid.width * len(self.targets),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def _size(b: BandSetPlan) -> int:
    """Bytes of the pixels and one mask, uncompressed."""
    place = len(b.groups) * b.grid.height * b.grid.width
    return place * (np.dtype(b.data.dtype).itemsize * len(b.encodings) + 1)


def _bandset(b: BandSetPlan) -> dict[str, Any]:
    dated = not b.recipe.static
    return {
        "name": b.data.name,
        "kind": b.data.kind,
        "dates": [str(d) for d in b.data.dates] if dated else [],
        "platforms": sorted(set(b.data.platform)) if dated else [],
        "dtype": str(np.dtype(b.data.dtype)),
        "nodata": None if math.isnan(b.data.nodata) else b.data.nodata,
        "bands": [
            {"name": band.name, "common_name": band.common_name, "scale": e.scale,
             "offset": e.offset, "unit": band.unit}
            for band, e in zip(b.data.bands, b.encodings, strict=True)
        ],
        "resampling": b.recipe.resampling or "none: the grids agree",
        "factor": b.recipe.factor,
        "shape": [len(b.groups), len(b.encodings), b.grid.height, b.grid.width],
        "scenes": len(b.scenes),
        "bytes": _size(b),
    }  # fmt: skip


def plan_raster(recipe: Recipe) -> BuildPlan:
    """Asks every source what it holds and checks all that can be checked without pixels.

    Raises:
      CubeError: whatever cannot be built, by name.
    """
    recipe.check()
    notes: list[str] = []
    scenes_of = [_scenes(b, notes) for b in recipe.bandsets]
    grid = target_grid(recipe.grid, scenes_of[0])
    bandsets = []
    for item, scenes in zip(recipe.bandsets, scenes_of, strict=True):
        where = f"band set {item.name!r}"
        inside, more = overlapping(scenes, grid, where)
        notes.extend(more)
        bandsets.append(_plan_bandset(item, inside, grid.coarse(item.factor), notes))
    targets = tuple(plan_target(t, grid) for t in recipe.targets)
    plan = BuildPlan(recipe, grid, tuple(bandsets), targets, tuple(notes), ())
    return dataclasses.replace(plan, warnings=tuple(_doubts(plan)))


def _scenes(item: BandSetRecipe, notes: list[str]) -> tuple[Scene, ...]:
    """All scenes of a band set, in the order of time."""
    where = f"band set {item.name!r}"
    wanted = Wanted(item.wanted, item.row, where, item.static)
    scenes: list[Scene] = []
    for source in item.sources:
        found = source.inspect(wanted)
        scenes.extend(found.scenes)
        notes.extend(f"{where}: {n}" for n in found.notes)
    if not scenes:
        raise CubeError("no sources match", where=where, expected="one scene", found="none")
    if item.row.kind == "sar" and any(x.units == "" for s in scenes for x in s.layers):
        raise CubeError(
            "units of the backscatter are not stated",
            where=where,
            expected='units = "db" or "linear" in the source',
            found="neither",
            remedy="the numbers alone do not tell power from amplitude, nor gamma0 from sigma0",
        )
    for scene in scenes:
        platform_id(scene.platform, f"{where}: {scene.name}")
        for layer in scene.layers:
            _check_numbers(layer, f"{where}: {scene.name}")
    undated = [s.name for s in scenes if np.isnat(s.date)]
    if item.static:
        return tuple(sorted(scenes, key=lambda s: s.name))
    if undated:
        raise CubeError(
            "date missing",
            where=where,
            expected="a date for every acquisition",
            found=f"NaT for {undated[0]} and {len(undated) - 1} more",
        )
    ordered = sorted(scenes, key=lambda s: (s.date, platform_id(s.platform), s.name))
    if [s.date for s in scenes] != [s.date for s in ordered] and len(item.sources) == 1:
        notes.append(f"{where}: {len(scenes)} scenes were brought into the order of time")
    return tuple(ordered)


def _check_numbers(layer: Layer, where: str) -> None:
    """Refuses complex numbers, whose phase would be dropped, and impossible scales."""
    if layer.dtype.startswith("complex"):
        raise CubeError(
            "complex numbers",
            where=where,
            expected="integers or floats",
            found=layer.dtype,
            remedy="single-look complex radar first becomes calibrated, geocoded backscatter",
        )
    check_encoding(None, layer.scale, layer.offset, where)


def _plan_bandset(
    item: BandSetRecipe, scenes: tuple[Scene, ...], grid: Grid, notes: list[str]
) -> BandSetPlan:
    where = f"band set {item.name!r}"
    groups = _groups(item, scenes, where)
    for scene in scenes:
        for layer in scene.layers:
            if item.resampling is None and aligned(layer.grid, grid) is None:
                f = _multiple(layer.grid, grid) if item.factor == 1 else 0
                raise CubeError(
                    "resampling is not stated",
                    where=f"{where}: {scene.name}",
                    expected="one of " + ", ".join(RESAMPLING),
                    found=f"pixels of {layer.grid.gsd:.6g} m on another grid than the band set "
                    f"({grid.gsd:.6g} m)",
                    remedy="state `resampling`"
                    + (f", or factor = {f}, which keeps the pixels" if f else ""),
                )
    encodings = tuple(
        encoding_of(item, [s.layers[c] for s in scenes], f"{where}, {band.name}")
        for c, band in enumerate(item.wanted)
    )
    dtype = str(np.result_type(*(e.dtype for e in encodings)))
    nodata = nodata_of(item, dtype)
    encodings = tuple(dataclasses.replace(e, dtype=dtype, nodata=nodata) for e in encodings)
    offsets = {(x.scale, x.offset) for s in scenes for x in s.layers[:1]}
    if len(offsets) > 1:
        exact = all(shift(x, e) is not None for s in scenes for x, e in
                    zip(s.layers, encodings, strict=True))  # fmt: skip
        notes.append(
            f"{where}: {len(offsets)} scales and offsets are brought to one, "
            + ("exactly" if exact else "rounded to the nearest step")
        )
    heads = [scenes[g[0]] for g in groups]
    data = BandSetData(
        name=item.name,
        kind=item.row.kind,
        bands=item.wanted,
        dates=None if item.static else np.asarray([s.date for s in heads], "datetime64[s]"),
        platform="unknown" if item.static else [s.platform for s in heads],
        scale=[e.scale for e in encodings],
        offset=[e.offset for e in encodings],
        nodata=nodata,
        static=item.static,
        dtype=dtype,
        valid_per_band=item.valid_per_band,
        source=item.row.source,
        factor=item.factor,
    )
    return BandSetPlan(item, data, scenes, groups, encodings, grid)


def _multiple(source: Grid, grid: Grid) -> int:
    """The factor under which a source of larger pixels needs no warp; 0 where there is none."""
    f = round(source.transform[0] / grid.transform[0])
    fits = 1 < f <= max(grid.height, grid.width) and aligned(source, grid.coarse(f)) is not None
    return f if fits else 0


def _groups(
    item: BandSetRecipe, scenes: Sequence[Scene], where: str
) -> tuple[tuple[int, ...], ...]:
    """Scenes of one instant and platform together."""
    keys = [("", "") if item.static else (str(s.date), s.platform) for s in scenes]
    rows = itertools.groupby(range(len(scenes)), key=lambda i: keys[i])
    groups = tuple(tuple(members) for _, members in rows)
    for group in groups:
        if len(group) > 1 and item.duplicates == "refuse":
            first, second = scenes[group[0]], scenes[group[1]]
            raise CubeError(
                "a platform repeats an instant",
                where=where,
                expected="one scene for a platform and instant",
                found=f"{first.name} and {second.name} at {first.date}",
                remedy='duplicates = "mosaic" lays the second below the first',
            )
    return groups


def _doubts(plan: BuildPlan) -> list[str]:
    """Warnings that need no pixel."""
    out = []
    for b in plan.bandsets:
        info = b.data.info(plan.grid, plan.recipe.layout, plan.recipe.shard)
        size = math.prod(info.chunks) * info.dtype.itemsize
        count = math.prod(math.ceil(n / c) for n, c in zip(info.shape, info.chunks, strict=True))
        if size < SMALL_CHUNK and count > MANY_CHUNKS:
            out.append(
                f"band set {b.data.name!r}: {count} chunks of {size} bytes are small and many; "
                'layout = "series" or "image" makes them larger'
            )
        task = (
            info.shape[0] * info.shape[1] * math.prod(info.shards[2:]) * (info.dtype.itemsize + 1)
        )
        if task > LARGE_TASK:
            out.append(
                f"band set {b.data.name!r}: a worker holds {task / 2**30:.1f} GiB, all dates of a "
                f"shard of {info.shards[2]} pixels; a smaller `shard` needs less"
            )
    return out
