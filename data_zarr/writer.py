"""`CubeWriter`: pixels and targets into an unfinished cube, shard by shard (`data_zarr.write`)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr import journal
from data_zarr.errors import CubeError, OutputError
from data_zarr.format import JOURNAL, PIXELS, TARGETS, VALID
from data_zarr.manifest import Entry, digest_file, seal, shard_keys, write_atomic
from data_zarr.read import usable
from data_zarr.sites import Sites


class CubeWriter:
    """Writes regions of one unfinished cube; see `data_zarr.write`.

    Attributes:
      path: of the cube.
      grid: of the cube, or its sites.
      shard: pixels a side of a region of the cube's grid, or sites; `shard_of` for a band set.
      bandsets, targets: as they will be read.
    """

    def __init__(self, path: Path):
        self.path = path
        plan = journal.read(path)
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

    def shard_of(self, name: str) -> int:
        """Its own pixels a side of a region of a band set or target."""
        return self.bandsets[name].shards[2] if name in self.bandsets else self.shard

    def size_of(self, name: str) -> tuple[int, int]:
        """Rows and columns of a band set or target, in its own pixels."""
        if name in self.bandsets:
            return self.bandsets[name].shape[2:]
        return self.grid.height, self.grid.width

    def regions(self, name: str | None = None) -> Iterator[tuple[int, int]]:
        """First row and column of every shard of a band set or target, in its own pixels.

        Without a name: of the cube's grid, as targets and band sets of factor 1 have them.
        """
        (height, width), edge = self.size_of(name or ""), self.shard_of(name or "")
        for y in range(0, height, edge):
            for x in range(0, width, edge):
                yield y, x

    def done(self, name: str, y: int, x: int) -> bool:
        """True when the shard of band set or target `name` at (y, x) has been written."""
        edge = self.shard_of(name)
        return self._journal(name, y // edge, x // edge).is_file()

    def write(
        self, bandset: str, y: int, x: int, pixels: np.ndarray, valid: np.ndarray | None = None
    ) -> None:
        """Writes one or more whole shards of a band set, all dates and bands.

        Args:
          y, x: first row and column, in the band set's own pixels; site and 0 for points.
          pixels: [T, C, h, w] in the stored dtype; [T, C, n, 1] for points. What lies under a
            cloud is kept.
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
        if info.dates.ndim == 2 and 0 <= y < y + h <= info.shape[2]:
            mask = mask & ~np.isnat(info.dates[:, None, y : y + h, None])
        if not info.valid_per_band:
            mask = np.all(mask, axis=1)
        shards, mask_shards = info.stored(info.shards), info.stored(info.shards, mask=True)
        for rows, columns in self._shards(bandset, y, x, h, w, where):
            down = slice(rows.start - y, rows.stop - y)
            across = slice(columns.start - x, columns.stop - x)
            parts = {
                f"{bandset}/{PIXELS}": (pixels[..., down, across], shards),
                f"{bandset}/{VALID}": (mask[..., down, across], mask_shards),
            }
            self._write(bandset, rows, columns, parts)

    def write_dask(self, name: str, pixels: Any, valid: Any = None) -> list[Any]:
        """One delayed task for each shard of a band set, from dask arrays.

            dask.compute(writer.write_dask("s2_l2a", pixels, valid)); writer.close()

        The chunks of the arrays may lie anywhere: a task gathers what its shard needs, and no two
        tasks write one file. Shards that are done are left out, so a second call resumes.

        Args:
          pixels: dask [T, C, H, W] in the stored dtype, in the band set's own pixels.
          valid: dask [T, H, W], [T, 1, H, W] or [T, C, H, W], as in `write`.

        Raises:
          CubeError: wrong name, dtype or shape.
        """
        from dask.delayed import delayed

        where = f"{self.path}: {name}"
        info = self.bandsets.get(name)
        if info is None:
            raise CubeError("no such band set", where=where, expected=", ".join(self.bandsets))
        if tuple(pixels.shape) != info.shape or pixels.dtype != info.dtype:
            raise CubeError(
                "pixels do not fit the band set",
                where=where,
                expected=f"{info.dtype} {list(info.shape)}",
                found=f"{pixels.dtype} {list(pixels.shape)}",
            )
        if valid is not None and tuple(valid.shape[-2:]) != info.shape[2:]:
            raise CubeError("mask does not fit the pixels", where=where, found=list(valid.shape))
        task, edge, tasks = delayed(_write_region), self.shard_of(name), []
        for y, x in self.regions(name):
            if not self.done(name, y, x):
                place = (..., slice(y, y + edge), slice(x, x + edge))
                mask = None if valid is None else valid[place]
                tasks.append(task(self, name, y, x, pixels[place], mask))
        return tasks

    def write_target(self, name: str, y: int, x: int, values: np.ndarray) -> None:
        """Writes whole shards of a target, float [h, w] or [n] of sites, NaN where unknown."""
        where = f"{self.path}: {TARGETS}/{name}"
        if name not in self.targets:
            raise CubeError("no such target", where=where, expected=", ".join(self.targets))
        points = isinstance(self.grid, Sites)
        values = values[:, None] if points and values.ndim == 1 else values
        if values.ndim != 2:
            raise CubeError("target", where=where, expected="[h, w]", found=list(values.shape))
        layer = values.astype(np.float32)
        h, w = layer.shape
        shards = (self.shard,) if points else (self.shard, self.shard)
        for rows, columns in self._shards(name, y, x, h, w, where):
            inner = layer[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            self._write(name, rows, columns, {f"{TARGETS}/{name}": (inner, shards)})

    def close(self) -> None:
        """Writes the manifest; CubeError names the first shard that is still missing."""
        for name in (*self.bandsets, *self.targets):
            for y, x in self.regions(name):
                if not self.done(name, y, x):
                    raise CubeError(
                        "cube is not finished",
                        where=f"{self.path}: {name}",
                        expected="every shard written",
                        found=f"none at row {y}, column {x}",
                        remedy="write it, then close again",
                    )
        journalled: dict[str, Entry] = {}
        for mark in (self.path / JOURNAL).glob("shard.*.json"):
            entries = json.loads(mark.read_text())
            journalled.update({k: Entry(*v) for k, v in entries.items()})
        seal(self.path, journalled)
        shutil.rmtree(self.path / JOURNAL)

    def _journal(self, name: str, row: int, column: int) -> Path:
        return self.path / JOURNAL / f"shard.{name}.{row}.{column}.json"

    def _shards(
        self, name: str, y: int, x: int, h: int, w: int, where: str
    ) -> Iterator[tuple[slice, slice]]:
        """The shards of a region, which must be made of whole ones."""
        (height, width), edge = self.size_of(name), self.shard_of(name)
        for start, size, n in ((y, h, height), (x, w, width)):
            end = start + size
            if start < 0 or size < 1 or start % edge or (end % edge and end != n) or end > n:
                raise CubeError(
                    "region is not made of whole shards",
                    where=where,
                    expected=f"from and to multiples of {edge}, or to the edge at {n}",
                    found=f"{start}..{end}",
                    remedy="two writers that share a shard lose each other's data",
                )
        for row in range(y, y + h, edge):
            for column in range(x, x + w, edge):
                yield (
                    slice(row, min(row + edge, height)),
                    slice(column, min(column + edge, width)),
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
        edge = self.shard_of(name)
        mark = self._journal(name, rows.start // edge, columns.start // edge)
        try:
            with _alone(mark.with_suffix(".lock"), f"{self.path}: {name}"):
                for array, (values, shards) in parts.items():
                    with zarr.config.set({"array.write_empty_chunks": True}):
                        stored: Any = zarr.open_array(self.path / array, mode="r+")
                        place = (rows,) if isinstance(self.grid, Sites) else (rows, columns)
                        stored[(..., *place)] = values[..., 0] if len(place) == 1 else values
                    window = [*(slice(0, n) for n in stored.shape[: -len(place)]), *place]
                    for key in shard_keys(array, stored.shape, shards, window):
                        files[key] = dataclasses.astuple(digest_file(self.path / key))
                write_atomic(mark, json.dumps(files))
        except OSError as error:
            raise OutputError(
                "cannot write the cube",
                where=f"{self.path}: {name}",
                found=error.strerror or str(error),
                remedy="free space or rights, and run again: it resumes",
            ) from error


def _write_region(
    writer: CubeWriter, name: str, y: int, x: int, pixels: np.ndarray, valid: np.ndarray | None
) -> None:
    writer.write(name, y, x, np.asarray(pixels), valid)


@contextlib.contextmanager
def _alone(path: Path, where: str) -> Iterator[None]:
    """Holds a shard while it is written; CubeError when another writer holds it.

    The lock is the kernel's and goes with its process: a killed writer leaves none. File systems
    without locks are taken at their word that each shard has one task.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CubeError(
                "a shard is being written by another task",
                where=where,
                expected="one writer a shard",
                found=path.stem,
                remedy="two writers that share a shard lose each other's data",
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        yield
