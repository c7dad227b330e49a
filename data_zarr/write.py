"""Writing cubes: sharded, checksummed, restartable.

    with create_cube(path, grid=..., bandsets=[...], ...) as writer:     template: metadata only
        for y, x in writer.regions():                                    one idempotent task a shard
            writer.write("s2_l2a", y, x, pixels, valid)
        writer.write_target("agb", 0, 0, values)
                                                                         close(): manifest.json

A region begins on a multiple of `writer.shard` and ends on one or at the edge, so two tasks never
share a file: that is how concurrent Zarr writers lose data. Every file is replaced atomically and
journalled with its SHA-256; a killed run is run again and only misses what it had not finished.
A writer pickles as its path, so the regions may be written by many processes; one of them closes.

How a shard is cut into chunks: `data_zarr.layout`; the empty cube: `data_zarr.template`; maps:
`data_zarr.maps`. Their public names are exported here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr import template
from data_zarr.errors import CubeError, OutputError
from data_zarr.format import JOURNAL, PIXELS, TARGETS, VALID, TargetInfo
from data_zarr.grid import Grid
from data_zarr.layout import CHUNK, BandSetData, Layout
from data_zarr.manifest import Entry, digest_file, seal, shard_keys, write_atomic
from data_zarr.maps import write_geotiff, write_map
from data_zarr.read import usable

__all__ = ["BandSetData", "CubeWriter", "create_cube", "seal", "write_geotiff", "write_map"]


def create_cube(
    path: str | os.PathLike[str],
    *,
    grid: Grid,
    bandsets: Sequence[BandSetData],
    targets: Sequence[TargetInfo] = (),
    layout: Layout = "balanced",
    shard: int = 256,
    title: str,
    license: str,
    provenance: str,
    attrs: dict[str, Any] | None = None,
    level: int = 3,
    overwrite: bool = False,
) -> CubeWriter:
    """Writes the template of a cube (metadata and coordinates) and returns its writer.

    Called again on a cube that was not finished, with the same arguments, it resumes.

    Args:
      shard: pixels a side of one file; brought down to the cube where that is smaller.
      provenance: where the numbers come from and how they were made.
      attrs: more root attributes, JSON values.
      level: of zstd. 9 makes files 8 % smaller than 3 and takes 25 times as long.
      overwrite: delete a cube that is already there.

    Raises:
      OutputError: not writable.
      CubeError: something else lies there; an unfinished cube of other arguments; what
        `BandSetData` refuses.
    """
    root = Path(path).absolute()
    grid.check(root)
    edge = min(CHUNK, shard)
    if shard < 1 or shard % edge:
        raise CubeError("shard", where=root, expected=f"a multiple of {CHUNK}", found=shard)
    shard = min(shard, edge * math.ceil(max(grid.height, grid.width) / edge))
    infos = [b.info(grid, layout, shard) for b in bandsets]
    names = [i.name for i in infos]
    if not names or len(set(names)) != len(names) or TARGETS in names:
        raise CubeError("band sets repeated, none, or named as a group", found=", ".join(names))
    plan = template.Plan(
        grid,
        tuple(infos),
        tuple(targets),
        shard,
        level,
        {"title": title, "license": license, "provenance": provenance, **(attrs or {})},
    )
    try:
        if template.claim(root, plan, overwrite):
            template.write(root, plan)
            template.mark(root, plan, written=True)
    except OSError as error:
        raise OutputError(
            "cannot write the cube",
            where=root,
            expected="a writable directory",
            found=error.strerror or str(error),
            remedy="choose another output path, or free space and rights",
        ) from error
    return CubeWriter(root)


class CubeWriter:
    """Writes regions of one unfinished cube; see the module docstring.

    Attributes:
      path: of the cube.
      shard: pixels a side of a region.
      bandsets, targets: as they will be read.
    """

    def __init__(self, path: Path):
        self.path = path
        plan = template.read(path)
        self.grid, self.shard = plan.grid, plan.shard
        self.bandsets = {b.name: b for b in plan.bandsets}
        self.targets = {t.name: t for t in plan.targets}

    def __reduce__(self) -> tuple[Any, ...]:
        return CubeWriter, (self.path,)

    def __enter__(self) -> CubeWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()

    def regions(self) -> Iterator[tuple[int, int]]:
        """First row and column of every shard."""
        for y in range(0, self.grid.height, self.shard):
            for x in range(0, self.grid.width, self.shard):
                yield y, x

    def done(self, name: str, y: int, x: int) -> bool:
        """True when the shard of band set or target `name` at (y, x) has been written."""
        return self._journal(name, y // self.shard, x // self.shard).is_file()

    def write(
        self, bandset: str, y: int, x: int, pixels: np.ndarray, valid: np.ndarray | None = None
    ) -> None:
        """Writes one or more whole shards of a band set, all dates and bands.

        Args:
          pixels: [T, C, h, w] in the stored dtype. What lies under a cloud is kept.
          valid: bool [T, h, w], [T, 1, h, w] or [T, C, h, w]; nodata and non-finite numbers are
            invalid in any case. With one mask for all bands a pixel is valid where every band is.

        Raises:
          CubeError: wrong name, dtype, shape or alignment.
          OutputError: not writable.
        """
        info = self.bandsets.get(bandset)
        where = f"{self.path}: {bandset}"
        if info is None:
            raise CubeError("no such band set", where=where, expected=", ".join(self.bandsets))
        t, c = info.shape[:2]
        if pixels.ndim != 4 or pixels.shape[:2] != (t, c) or pixels.dtype != info.dtype:
            raise CubeError(
                "pixels do not fit the band set",
                where=where,
                expected=f"{info.dtype} [{t}, {c}, h, w]",
                found=f"{pixels.dtype} {list(pixels.shape)}",
            )
        h, w = pixels.shape[2:]
        mask: np.ndarray = usable(pixels, info.nodata)
        if valid is not None:
            given = np.asarray(valid, bool)
            given = given[:, None] if given.ndim == 3 else given
            if given.ndim != 4 or given.shape not in ((t, 1, h, w), (t, c, h, w)):
                raise CubeError(
                    "mask does not fit the pixels",
                    where=where,
                    expected=f"[{t}, 1 or {c}, {h}, {w}]",
                    found=list(np.shape(valid)),
                )
            mask = mask & given
        if not info.valid_per_band:
            mask = np.all(mask, axis=1)
        for rows, columns in self._shards(y, x, h, w, where):
            down = slice(rows.start - y, rows.stop - y)
            across = slice(columns.start - x, columns.stop - x)
            mask_shards = info.shards if info.valid_per_band else (info.shards[0], *info.shards[2:])
            parts = {
                f"{bandset}/{PIXELS}": (pixels[..., down, across], info.shards),
                f"{bandset}/{VALID}": (mask[..., down, across], mask_shards),
            }
            self._write(bandset, rows, columns, parts)

    def write_target(self, name: str, y: int, x: int, values: np.ndarray) -> None:
        """Writes whole shards of a target, float [h, w], NaN where unknown."""
        where = f"{self.path}: {TARGETS}/{name}"
        if name not in self.targets:
            raise CubeError("no such target", where=where, expected=", ".join(self.targets))
        if values.ndim != 2:
            raise CubeError("target", where=where, expected="[h, w]", found=list(values.shape))
        layer = values.astype(np.float32)
        h, w = layer.shape
        for rows, columns in self._shards(y, x, h, w, where):
            inner = layer[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            self._write(
                name, rows, columns, {f"{TARGETS}/{name}": (inner, (self.shard, self.shard))}
            )

    def close(self) -> None:
        """Writes the manifest; CubeError names the first shard that is still missing."""
        for name in (*self.bandsets, *self.targets):
            for y, x in self.regions():
                if not self.done(name, y, x):
                    raise CubeError(
                        "cube is not finished",
                        where=f"{self.path}: {name}",
                        expected="every shard written",
                        found=f"none at row {y}, column {x}",
                        remedy="write it, then close again",
                    )
        for torn in self.path.rglob("*.partial"):  # zarr's, of a writer that was killed
            torn.unlink()
        journalled: dict[str, Entry] = {}
        for mark in (self.path / JOURNAL).glob("shard.*.json"):
            entries = json.loads(mark.read_text())
            journalled.update({k: Entry(*v) for k, v in entries.items()})
        seal(self.path, journalled)
        shutil.rmtree(self.path / JOURNAL)

    def _journal(self, name: str, row: int, column: int) -> Path:
        return self.path / JOURNAL / f"shard.{name}.{row}.{column}.json"

    def _shards(self, y: int, x: int, h: int, w: int, where: str) -> Iterator[tuple[slice, slice]]:
        """The shards of a region, which must be made of whole ones."""
        for start, size, n in ((y, h, self.grid.height), (x, w, self.grid.width)):
            end = start + size
            if (
                start < 0
                or size < 1
                or start % self.shard
                or (end % self.shard and end != n)
                or (end > n)
            ):
                raise CubeError(
                    "region is not made of whole shards",
                    where=where,
                    expected=f"from and to multiples of {self.shard}, or to the edge at {n}",
                    found=f"{start}..{end}",
                    remedy="two writers that share a shard lose each other's data",
                )
        for row in range(y, y + h, self.shard):
            for column in range(x, x + w, self.shard):
                yield (
                    slice(row, min(row + self.shard, self.grid.height)),
                    slice(column, min(column + self.shard, self.grid.width)),
                )

    def _write(
        self,
        name: str,
        rows: slice,
        columns: slice,
        parts: dict[str, tuple[np.ndarray, tuple[int, ...]]],
    ) -> None:
        import zarr

        files: dict[str, tuple[str, int]] = {}
        try:
            for array, (values, shards) in parts.items():
                with zarr.config.set({"array.write_empty_chunks": True}):
                    stored: Any = zarr.open_array(self.path / array, mode="r+")
                    stored[(..., rows, columns)] = values
                window = [*(slice(0, n) for n in stored.shape[:-2]), rows, columns]
                for key in shard_keys(array, stored.shape, shards, window):
                    files[key] = dataclasses.astuple(digest_file(self.path / key))
            mark = self._journal(name, rows.start // self.shard, columns.start // self.shard)
            write_atomic(mark, json.dumps(files))
        except OSError as error:
            raise OutputError(
                "cannot write the cube",
                where=f"{self.path}: {name}",
                found=error.strerror or str(error),
                remedy="free space or rights, and run again: it resumes",
            ) from error
