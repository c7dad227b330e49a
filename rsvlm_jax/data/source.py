"""Samples of a cube: windows read by row of a table, one by one or a batch at a time.

    source[i]            -> sample (a dict of NumPy arrays)       a grain random-access source
    source.read(rows)    -> the same with a leading B             the fast way: one allocation
    collate(samples)     -> Batch                                 from a list of samples
    assemble(reads)      -> Batch                                 from `read`

A sample holds, under "obs" and for each band set, `pixels [T,C,H,W]` (stored numbers),
`valid [T,1|C,H,W]`, `date [T]` (days since 2000-01-01, NaN when static), `platform [T]`,
`lonlat [2]`, `gsd []` and `year_known []`; then `target [1]`, `target_valid [1]`, `sample []`.

A window that cannot be read keeps its slot, with `sample` -1 and nothing valid, and is recorded
in `bad`: the order of all others, and so a resumed run, does not change. Not here: order,
augmentation and prefetching (`pipeline`), scaling (in the step).
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
from data_zarr.format import BandSetInfo
from data_zarr.grid import aligned
from data_zarr.read import Reader
from data_zarr.sampling import WindowTable, target_means
from rsvlm_jax.config import BandSetSpec, DataError, InputConfig, TargetConfig

from .batch import Batch, Observation, to_days
from .processor import Processor
from .specs import bandset_specs, target_spec
from .text import Text

PRELOAD_BYTES, PRELOAD_SHARE = 2**28, 1 / 8
"""When not told otherwise, inputs up to this size are kept in memory, if the windows cover at
least this share of the cube: for a few windows of it, reading all would be waste."""

Sample = dict[str, Any]


class CubeSource:
    """The windows of one split of one cube. Pickles as paths and tables; holds no open file.

    Attributes:
      path, digest: of the cube.
      specs: the inputs, in read order.
      table: all windows; `rows` i64 [n]: those of this split, `sample` numbers of a batch.
      target, has_target: f32 and bool [n], mean over each window (0 where there is none).
      bad: why a row could not be read, by row of `table`.
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

        Raises:
          DataError: no windows, no finite target in any of them, or an input that is not there.
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
        self.target, self.has_target = self._targets(cube, target)
        centre = cube.grid.lonlat(y + table.size / 2, x + table.size / 2)
        self._lonlat = np.stack(centre, -1).astype(np.float32)
        infos = {s.name: cube.bandsets[s.name] for s in self.specs}
        self._gsd = {n: np.float32(cube.grid_of(n).gsd) for n in infos}
        # The same ground on each band set's own pixels: y, x by row of the table, and size.
        self._own = {n: self._window_of(i, n) for n, i in infos.items()}
        # [T] for all windows, or [T, S]: the own dates of each site.
        self._dates = {n: to_days(np.asarray(i.dates)) for n, i in infos.items()}
        self._platform = {n: np.asarray(i.platform, np.int32) for n, i in infos.items()}
        size = sum(math.prod(i.shape) * i.dtype.itemsize for i in infos.values())
        share = len(self.rows) * table.size**2 / (cube.grid.height * cube.grid.width)
        small = size <= PRELOAD_BYTES and share >= PRELOAD_SHARE
        self.preload = small if preload is None else preload
        self._readers = {
            s.name: cube.reader(s.name, bands=list(s.band_names), preload=self.preload)
            for s in self.specs
        }
        limits = [None] * len(self.specs) if dates is None else dates
        self._limit = {
            s.name: min(len(self._dates[s.name]), limit or len(self._dates[s.name]))
            for s, limit in zip(self.specs, limits, strict=True)
        }
        self._chunks = infos[self.specs[0].name].chunks[-2:] if self.specs else (1, 1)
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
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: SupportsIndex) -> Sample:
        reads = self.read(np.array([range(len(self))[i]]))
        obs = {n: {k: v[0] for k, v in o.items()} for n, o in reads["obs"].items()}
        return {"obs": obs, **{k: v[0] for k, v in reads.items() if k != "obs"}}

    def read(self, index: np.ndarray, turn: np.ndarray | None = None) -> Sample:
        """Samples `index` (positions in `rows`) with a leading B axis, in new arrays.

        Args:
          turn: i64 [B], an element of the square's symmetry group for each sample (`turned`).

        Raises:
          DataError: more windows than the error budget allows could not be read.
          CubeError: one could not, and the budget is 0.
        """
        b = len(index)
        sample = self.rows[index].astype(np.int32)
        turns = [0] * b if turn is None else turn.tolist()
        obs: dict[str, dict[str, np.ndarray]] = {}
        for name, reader in self._readers.items():
            info, c = reader.info, len(reader.bands)
            ys, xs, size = self._own[name]
            y, x = ys[self.rows[index]].tolist(), xs[self.rows[index]].tolist()
            t, masks = self._limit[name], c if info.valid_per_band else 1
            pixels = np.zeros((b, t, c, size, size), info.dtype)
            valid = np.zeros((b, t, masks, size, size), bool)
            date, platform = np.zeros((b, t), np.float32), np.zeros((b, t), np.int32)
            dates, platforms = self._dates[name], self._platform[name]
            for i in range(b):
                at = slice(None) if dates.ndim == 1 else y[i]
                dated, by = dates[..., at], platforms[..., at]
                date[i], platform[i] = dated[:t], by[:t]
                try:
                    window = self._window(name, y[i], x[i], size)
                except CubeError as e:
                    self._record(int(self.rows[index[i]]), e)
                    sample[i] = -1
                    continue
                if t < info.shape[0]:
                    keep = clearest(window[1], t)
                    window = window[0][keep], window[1][keep]
                    date[i], platform[i] = dated[keep], by[keep]
                pixels[i], valid[i] = turned(window[0], turns[i]), turned(window[1], turns[i])
            obs[name] = {
                "pixels": pixels,
                "valid": valid,
                "date": date,
                "platform": platform,
                "lonlat": self._lonlat[index],
                "gsd": np.full(b, self._gsd[name]),
                "year_known": np.full(b, info.year_known),
            }
        read = sample >= 0
        for entry in obs.values():
            entry["valid"][~read] = False
        return {
            "obs": obs,
            "target": self.target[index][:, None],
            "target_valid": (self.has_target[index] & read)[:, None],
            "sample": sample,
        }

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
        height, width = self._chunks
        y, x, _ = self._own[self.specs[0].name] if self.specs else (self.table.y, self.table.x, 1)
        cy, cx = y[self.rows] // height, x[self.rows] // width
        return cy * (int(cx.max()) + 1) + cx

    def _window_of(self, info: BandSetInfo, name: str) -> tuple[np.ndarray, np.ndarray, int]:
        where = f"{self.path}: {name}"
        try:
            return aligned(self.table.y, self.table.x, self.table.size, info.factor, where)
        except CubeError as e:
            raise DataError(
                e.what, where=where, expected=e.expected, found=e.found, remedy=e.remedy
            ) from e

    def _window(self, name: str, y: int, x: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        reader = self._readers[name]
        try:
            return reader.read(y, x, size, size)
        except CubeError:
            if not reader.preload:
                raise
        # One damaged chunk spoils a preload: from here on only the windows that touch it fail.
        reader = self._readers[name] = Reader(reader.path, reader.info, reader.channels)
        return reader.read(y, x, size, size)

    def _targets(self, cube: Cube, target: TargetConfig | None) -> tuple[np.ndarray, np.ndarray]:
        if target is None:
            n = len(self.rows)
            return np.zeros(n, np.float32), np.zeros(n, bool)
        name = target_spec(cube, target).name
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

    def _record(self, row: int, error: CubeError) -> None:
        with self._lock:
            self.bad[row] = str(error)
            n = len(self.bad)
        if not self.error_budget:
            raise error
        if n > self.error_budget * len(self.rows):
            raise DataError(
                "too many windows cannot be read",
                where=self.path,
                expected=f"at most {self.error_budget:.0%} of {len(self.rows)}",
                found=f"{n}, the last: {error}",
                remedy="check the cube: rsvlm cube validate --deep",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def clearest(valid: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` dates with the largest valid share, in time order.

    Args:
      valid: bool [T,C,H,W]. Of equally clear dates the earlier ones are taken.
    """
    share = valid.reshape(len(valid), -1).mean(axis=1)
    return np.sort(np.argsort(-share, kind="stable")[:count])


def turned(a: np.ndarray, element: int) -> np.ndarray:
    """A view of `a` [..., H, W] under one of the eight symmetries of the square.

    Bit 0 swaps rows and columns, bit 1 flips rows, bit 2 flips columns; 0 changes nothing.
    """
    if element & 1:
        a = a.swapaxes(-1, -2)
    return a[..., :: -1 if element & 2 else 1, :: -1 if element & 4 else 1]


def assemble(reads: Mapping[str, Any], processor: Processor, text: Text | None = None) -> Batch:
    """What `CubeSource.read` gives, with prompts ([B,L] or one [L]), as a `Batch`."""
    obs = {name: Observation(**entry, bandset=name) for name, entry in reads["obs"].items()}
    return processor.batch(
        obs,
        text,
        sample=reads["sample"],
        target=reads["target"],
        target_valid=reads["target_valid"],
    )


def collate(samples: Sequence[Sample], processor: Processor, text: Text | None = None) -> Batch:
    """A list of samples as a `Batch`; `text` as in `assemble`."""
    obs = {
        name: {k: np.stack([s["obs"][name][k] for s in samples]) for k in entry}
        for name, entry in samples[0]["obs"].items()
    }
    rest = {k: np.stack([s[k] for s in samples]) for k in ("target", "target_valid", "sample")}
    return assemble({"obs": obs, **rest}, processor, text)
