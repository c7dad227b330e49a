"""Samples of a cube: windows read by row of a table, one by one or a batch at a time.

    source[i]            -> sample (a dict of NumPy arrays)       a grain random-access source
    source.read(rows)    -> the same with a leading B             the fast way: one allocation

A sample holds, under "obs" and for each band set, `pixels [T,C,H,W]` (stored numbers),
`valid [T,1|C,H,W]`, `date [T]` (days since 2000-01-01, NaN when static), `platform [T]`,
`lonlat [2]`, `gsd []` and `year_known []`; then `target [K]`, `target_valid [K]`, `sample []`; for
a dense head also `target_map [K,H,W]`, NaN where it is not known.

A window that cannot be read keeps its slot, with `sample` -1 and nothing valid, and is recorded
in `bad`: the order of all others, and so a resumed run, does not change. Not here: one band set
(`windows`), order (`stream`), augmentation and prefetching (`pipeline`), scaling (in the step).
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from data_zarr.cube import Cube, open_cube
from data_zarr.errors import CubeError
from data_zarr.sampling import WindowTable, target_means
from rsvlm_jax.config import BandSetSpec, DataError, InputConfig, TargetConfig

from .maps import target_maps
from .processor import Processor
from .samples import BadSample, Sample
from .specs import bandset_specs, target_spec
from .windows import BandWindows, Raw

PRELOAD_BYTES, PRELOAD_SHARE = 2**28, 1 / 8
"""When not told otherwise, inputs up to this size are kept in memory, if the windows cover at
least this share of the cube: for a few windows of it, reading all would be waste."""


class CubeSource:
    """The windows of one split of one cube. Pickles as paths and tables; holds no open file.

    Attributes:
      path, digest: of the cube.
      specs: the inputs, in read order.
      table: all windows; `rows` i64 [n]: those of this split, `sample` numbers of a batch.
      targets, has_targets: f32 and bool [n, K], mean over each window (0 where there is none).
      bad: why a row could not be read, by row of `table`.
      maps: of the targets pixel by pixel, where samples hold them.
      windows: of each input, by name.
      buckets: lengths of a series that batches are padded to; see `level`.
    """

    def __init__(
        self,
        cube: Cube | str | os.PathLike[str],
        inputs: Sequence[InputConfig | BandSetSpec],
        target: TargetConfig | None,
        table: WindowTable,
        *,
        rows: np.ndarray | None = None,
        dates: Sequence[int | None] | None = None,
        preload: bool | None = None,
        error_budget: float = 0.1,
        buckets: Sequence[int] = (),
        period: tuple[float, float] | None = None,
        dense: bool = False,
    ) -> None:
        """Look everything up, read the target once; pixels are read later.

        Args:
          cube: opened, or its path.
          inputs: what to read: configurations, or the band sets of a saved processor.
          target: what to predict; None: no sample has a target (prediction).
          table: windows of the cube.
          rows: those to use; None: all.
          dates: for each input, at most so many dates a window, the clearest; None: all.
          preload: keep the inputs in memory; None: when they are small (`PRELOAD_BYTES`).
          error_budget: share of unreadable windows that is borne; 0: the first one is an error.
          buckets: ascending.
          period: days since 2000-01-01, both included, outside which no date is read; None: all.
          dense: samples hold the target of each pixel (`target_map`) beside its mean.

        Raises:
          DataError: no windows, no finite target in any of them, an input that is not there, or
            a dense target of sites.
          CubeError: the cube cannot be opened.
        """
        cube = cube if isinstance(cube, Cube) else open_cube(cube)
        self.path, self.digest = str(cube.path), cube.digest()
        self.specs = bandset_specs(cube, inputs)
        self.table = table
        self.rows = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
        if not len(self.rows):
            raise DataError(
                "an empty split",
                where=self.path,
                expected="at least one window",
                found=f"0 of {len(table)}",
                remedy="a smaller window, buffer or block, or another fold",
            )
        y, x = table.y[self.rows], table.x[self.rows]
        height, width = cube.grid.height, cube.grid.width
        beyond = (np.minimum(y, x) < 0) | (y + table.size > height) | (x + table.size > width)
        if beyond.any():
            first = np.flatnonzero(beyond)[0]
            raise DataError(
                "a window larger than the cube, or beyond its edge",
                where=self.path,
                expected=f"windows inside {height} x {width} pixels",
                found=f"{table.size} x {table.size} at {int(y[first])}, {int(x[first])}",
            )
        self.targets, self.has_targets = self._targets(cube, target)
        self.maps = target_maps(cube, target) if dense and target is not None else None
        centre = cube.grid.lonlat(y + table.size / 2, x + table.size / 2)
        self._lonlat = np.stack(centre, -1).astype(np.float32)
        infos = {s.name: cube.bandsets[s.name] for s in self.specs}
        self._gsd = {n: np.float32(cube.grid_of(n).gsd) for n in infos}
        size = sum(math.prod(i.shape) * i.dtype.itemsize for i in infos.values())
        share = len(self.rows) * table.size**2 / (cube.grid.height * cube.grid.width)
        small = size <= PRELOAD_BYTES and share >= PRELOAD_SHARE
        self.preload = small if preload is None else preload
        limits = [None] * len(self.specs) if dates is None else dates
        self.windows = {
            s.name: BandWindows(
                cube.reader(s.name, bands=list(s.band_names), preload=self.preload),
                table,
                limit,
                period,
            )
            for s, limit in zip(self.specs, limits, strict=True)
        }
        self.buckets = tuple(buckets)
        self.error_budget = error_budget
        self.bad: dict[int, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls,
        processor: Processor,
        cube: Cube | str | os.PathLike[str],
        table: WindowTable,
        *,
        rows: np.ndarray | None = None,
        target: TargetConfig | None = None,
        error_budget: float = 0.1,
        buckets: Sequence[int] = (),
        period: tuple[float, float] | None = None,
    ) -> CubeSource:
        """The windows as a processor reads them: its bands, in its order, its limits of dates."""
        return cls(
            cube,
            processor.bandsets,
            target,
            table,
            rows=rows,
            dates=[i.dates for i in processor.config.inputs],
            error_budget=error_budget,
            buckets=buckets,
            period=period,
            dense=processor.config.is_dense,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def target(self) -> np.ndarray:
        """Of the first target, f32 [n]."""
        return self.targets[:, 0]

    @property
    def has_target(self) -> np.ndarray:
        """Of the first target, bool [n]."""
        return self.has_targets[:, 0]

    def known(self, k: int) -> np.ndarray:
        """Known values of target `k`, f64 [m]: of windows; with `dense` of pixels under them."""
        if self.maps is not None:
            return self.maps.known(self.table, self.rows[self.has_target], k)
        return self.targets[self.has_targets[:, k], k].astype(np.float64)

    def __getitem__(self, i: SupportsIndex) -> Sample:
        reads = self.read(np.array([range(len(self))[i]]))
        obs = {n: {k: v[0] for k, v in o.items()} for n, o in reads["obs"].items()}
        rest = {k: v[0] for k, v in reads.items() if k not in ("obs", "unread")}
        return {"obs": obs, **rest}

    def read(
        self,
        index: np.ndarray,
        turn: np.ndarray | None = None,
        *,
        lengths: Mapping[str, int] | None = None,
        raw: Mapping[str, Raw] | None = None,
    ) -> Sample:
        """Samples `index` (positions in `rows`) with a leading B axis, in new arrays.

        Args:
          turn: i64 [B], an element of the square's symmetry group for each sample (`turned`).
          lengths: number of dates by input (`lengths`); None: the limits of dates.
          raw: pixels that were read before, by input.

        Returns:
          a sample with a leading B; and under "unread" the list of its `BadSample`s.

        Raises:
          DataError: more windows than the error budget allows could not be read.
          CubeError: one could not, and the budget is 0.
        """
        b = len(index)
        sample = self.rows[index].astype(np.int32)
        turns = [0] * b if turn is None else turn.tolist()
        obs: dict[str, dict[str, np.ndarray]] = {}
        unread: dict[int, BadSample] = {}
        for name, windows in self.windows.items():
            entry, failed = windows.read(
                self.rows[index], turns, (lengths or {}).get(name), (raw or {}).get(name)
            )
            obs[name] = {
                **entry,
                "lonlat": self._lonlat[index],
                "gsd": np.full(b, self._gsd[name]),
            }
            for i, error in failed.items():
                sample[i] = -1
                if i not in unread:
                    unread[i] = self.sample(int(self.rows[index[i]]), str(error))
                    self.record(unread[i], error)
        read = sample >= 0
        for entry in obs.values():
            entry["valid"][~read] = False
        found = {
            "obs": obs,
            "target": self.targets[index],
            "target_valid": self.has_targets[index] & read[:, None],
            "sample": sample,
            "unread": list(unread.values()),
        }
        if self.maps is not None:
            maps = self.maps.read(self.table, self.rows[index], turns)
            found["target_map"] = np.where(read[:, None, None, None], maps, np.float32(np.nan))
        return found

    @functools.cached_property
    def level(self) -> np.ndarray:
        """i64 [n]: the bucket that holds all usable dates of a window; `len(buckets)`: none does.

        A date is usable where it has a valid pixel; a static input takes no part. Worked example,
        buckets 2 and 4, one input of six dates:

            usable   0 1 2 3 4 5 6
            level    0 0 0 1 1 2 2
            length   2 2 2 4 4 6 6

        Reads the masks of all windows, once; nothing without buckets.
        """
        level = np.zeros(len(self.rows), np.int64)
        for windows in self.windows.values() if self.buckets else ():
            if windows.dated:
                usable = np.minimum(windows.usable(self.rows), windows.limit)
                level = np.maximum(level, np.searchsorted(self.buckets, usable))
        return level

    def lengths(self, level: int) -> dict[str, int]:
        """Number of dates of each input at a level."""
        bucket = [*self.buckets, None][level]
        return {
            name: min(w.limit, bucket or w.limit) if w.dated else w.limit
            for name, w in self.windows.items()
        }

    def sample_bytes(self, *, every: bool = False) -> int:
        """Bytes of the pixels and masks of one sample, at most; `every`: with all dates."""
        return sum(w.sample_bytes(w.every if every else w.limit) for w in self.windows.values())

    def scratch_bytes(self) -> int:
        """Bytes that a thread needs while it reads: of each input a chunk, stored and decoded."""
        infos = [w.reader.info for w in self.windows.values()]
        return (
            0
            if self.preload
            else sum(
                2 * math.prod(i.chunks) * i.dtype.itemsize
                + math.prod(i.stored(i.chunks, mask=True))
                for i in infos
            )
        )

    def unread(self) -> list[BadSample]:
        """What `bad` holds, as samples."""
        with self._lock:
            return [self.sample(row, reason) for row, reason in self.bad.items()]

    def sample(self, row: int, reason: str = "") -> BadSample:
        """A row of the window table, by where it lies."""
        window = int(self.table.y[row]), int(self.table.x[row]), self.table.size
        return BadSample(row, self.path, window, reason)

    @property
    def unreadable(self) -> dict[str, Any]:
        """{"windows": how many could not be read so far, "first": why the first of them}."""
        with self._lock:
            return {"windows": len(self.bad), "first": next(iter(self.bad.values()), None)}

    @functools.cached_property
    def chunk_of(self) -> np.ndarray | None:
        """The chunk of the first input that holds a window's corner: i64 [n]; None if preloaded."""
        if self.preload:
            return None
        return self._cells("chunks")

    @functools.cached_property
    def shard_of(self) -> np.ndarray:
        """The shard of the first input that holds a window's corner: i64 [n]."""
        return self._cells("shards")

    def _cells(self, kind: str) -> np.ndarray:
        if not self.windows:
            return np.arange(len(self.rows))
        first = next(iter(self.windows.values()))
        height, width = getattr(first.reader.info, kind)[-2:]
        cy, cx = first.y[self.rows] // height, first.x[self.rows] // width
        return cy * (int(cx.max()) + 1) + cx

    def _targets(self, cube: Cube, target: TargetConfig | None) -> tuple[np.ndarray, np.ndarray]:
        if target is None:
            n = len(self.rows)
            return np.zeros((n, 1), np.float32), np.zeros((n, 1), bool)
        found = [self._target(cube, target, name) for name in target.names]
        values, has = zip(*found, strict=True)
        return np.stack(values, axis=1), np.stack(has, axis=1)

    def _target(self, cube: Cube, target: TargetConfig, name: str) -> tuple[np.ndarray, np.ndarray]:
        name = target_spec(cube, target, name).name
        values = cube.target(name)
        where = f"{self.path}: target {name!r}"
        if np.isfinite(values).any():
            mean = target_means(values, self.table, target.min_valid)[0][self.rows]
            has = np.isfinite(mean)
            if has.any():
                return np.where(has, mean, 0).astype(np.float32), has
        raise DataError(
            "no window has a target",
            where=where,
            expected=f"finite values on {target.min_valid:.0%} of the pixels of some window",
            found=f"none in {len(self.rows)} windows",
            remedy="check the target's nodata, or lower target.min_valid",
        )

    def record(self, bad: BadSample, error: CubeError | None = None) -> None:
        """Counts an unreadable window of this process or of a worker; DataError beyond the budget.

        With an error budget of 0 `error` itself is raised.
        """
        with self._lock:
            self.bad.setdefault(bad.sample, bad.reason)
            n = len(self.bad)
        if not self.error_budget and error is not None:
            raise error
        if n > self.error_budget * len(self.rows):
            raise DataError(
                "too many windows cannot be read",
                where=self.path,
                expected=f"at most {self.error_budget:.0%} of {len(self.rows)}",
                found=f"{n}, the last: {bad.reason}",
                remedy="check the cube: rsvlm cube validate --deep",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
