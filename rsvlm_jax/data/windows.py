"""Windows of one band set of a cube, a batch at a time: dates chosen, padded, turned.

    BandWindows.read(rows, turns, length) -> pixels [B,T,C,H,W], valid [B,T,1|C,H,W],
                                             date [B,T], platform [B,T], year_known [B]
                                             and why a window could not be read, by its place

The rows of a table of windows are the same ground on the band set's own pixels, which may be larger
than those of the cube's grid; the sites of a point cube may have dates of their own.

Not here: which windows (`source`), several band sets (`source`), order (`stream`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.grid import aligned
from data_zarr.read import Reader, allocate
from data_zarr.sampling import WindowTable
from rsvlm_jax.config import DataError

from .batch import to_days

Failed = dict[int, CubeError]


@dataclasses.dataclass(frozen=True)
class Raw:
    """All dates of some windows as `Reader.read_many` gives them: [B,T,C,H,W], [B,T,1|C,H,W]."""

    pixels: np.ndarray
    valid: np.ndarray
    failed: Failed


class BandWindows:
    """See the module. Pickles as a reader and a table; threads may share it.

    Attributes:
      y, x: upper left pixels by row of the table, and `size`: in the band set's own pixels.
      limit: at most so many dates a window, the clearest.
      dated: False for a static layer.
      allowed: bool [T] or [T, S], the dates that may be read; None: all.
      masks: channels of `valid`: 1 or C.
    """

    def __init__(
        self,
        reader: Reader,
        table: WindowTable,
        limit: int | None,
        period: tuple[float, float] | None = None,
    ) -> None:
        """
        Args:
          table: on the cube's grid.
          limit: None: all dates.
          period: days since 2000-01-01, both included: dates outside it are as if they were not
            there. A static layer has none. None: all dates.

        Raises:
          DataError: a window that is not a whole number of the band set's pixels.
        """
        info = reader.info
        where = f"{reader.path}: {info.name}"
        try:
            self.y, self.x, self.size = aligned(table.y, table.x, table.size, info.factor, where)
        except CubeError as e:
            raise DataError(
                e.what, where=where, expected=e.expected, found=e.found, remedy=e.remedy
            ) from e
        self.reader = reader
        self.dated = not info.static
        # [T] for all windows, or [T, S]: the own dates of each site.
        self._dates = to_days(np.asarray(info.dates))
        self._platform = np.asarray(info.platform, np.int32)
        self.limit = min(self.every, limit or self.every)
        self.masks = len(reader.bands) if info.valid_per_band else 1
        self.allowed: np.ndarray | None = None
        if period is not None and self.dated:
            day = np.floor(self._dates)
            self.allowed = (day >= period[0]) & (day <= period[1])

    @property
    def every(self) -> int:
        """The number of all dates."""
        return self.reader.info.shape[0]

    def sample_bytes(self, length: int) -> int:
        """Bytes of one window with `length` dates."""
        c, size = len(self.reader.bands), self.size
        return length * size * size * (c * self.reader.info.dtype.itemsize + self.masks)

    def raw(self, rows: np.ndarray) -> Raw:
        """All dates of the windows, as stored."""
        failed: Failed = {}
        y, x = self.y[rows], self.x[rows]
        pixels, valid = self._now().read_many(y, x, self.size, self.size, failed=failed)
        return Raw(pixels, valid, failed)

    def usable(self, rows: np.ndarray) -> np.ndarray:
        """i64 [n]: how many dates of a window have a valid pixel; 0 where it cannot be read."""
        counts = np.zeros(len(rows), np.int64)
        for i, (y, x) in enumerate(zip(self.y[rows], self.x[rows], strict=True)):
            try:
                valid = self._now().read_valid(int(y), int(x), self.size, self.size)
            except CubeError:
                continue
            counts[i] = self._may(int(y), valid).reshape(len(valid), -1).any(axis=1).sum()
        return counts

    def _may(self, y: int, valid: np.ndarray) -> np.ndarray:
        """The mask of a window [T,C,H,W] where its date may be read."""
        if self.allowed is None:
            return valid
        allowed = self.allowed if self.allowed.ndim == 1 else self.allowed[:, y]
        return valid & allowed[:, None, None, None]

    def read(
        self,
        rows: np.ndarray,
        turns: list[int],
        length: int | None = None,
        raw: Raw | None = None,
    ) -> tuple[dict[str, np.ndarray], Failed]:
        """Windows as arrays of a batch.

        Args:
          rows: of the table, B of them.
          turns: for each, an element of the square's symmetry group (`turned`).
          length: None: `limit` dates of each window. Else so many: those that have a valid pixel,
            if there are more of them the clearest, if fewer padded with invalid ones.
          raw: what was read before; None: read it.
        """
        b, every = len(rows), self.every
        t = length or self.limit
        known = {"year_known": np.full(b, self.reader.info.year_known)}
        whole = t == every and length is None and self.allowed is None
        if whole and not self._now().preload:
            found = raw or self.raw(rows)
            _turn(found.pixels, turns)
            _turn(found.valid, turns)
            date, platform = self._dated(rows)
            entry = {"pixels": found.pixels, "valid": found.valid, "date": date}
            return {**entry, "platform": platform, **known}, found.failed
        c, size, info = len(self.reader.bands), self.size, self.reader.info
        pixels = allocate((b, t, c, size, size), info.dtype)
        valid = allocate((b, t, self.masks, size, size), bool)
        pixels[...], valid[...] = 0, False
        dates, platforms = self._dated(rows)
        date, platform = dates[:, :1].repeat(t, 1), platforms[:, :1].repeat(t, 1)
        usable = length is not None or self.allowed is not None
        window, failed = self._window(rows, raw, min(t, self.limit), usable)
        for i in range(b):
            try:
                keep, a, mask = window(i)
            except CubeError as error:
                failed[i] = error
                continue
            n = len(keep)
            pixels[i, :n], valid[i, :n] = turned(a, turns[i]), turned(mask, turns[i])
            date[i, :n], platform[i, :n] = dates[i, keep], platforms[i, keep]
            if n:
                date[i, n:], platform[i, n:] = date[i, n - 1], platform[i, n - 1]
        entry = {"pixels": pixels, "valid": valid, "date": date, "platform": platform}
        return {**entry, **known}, failed

    def _dated(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Dates and platforms of the windows, [B,T] each, in new arrays."""
        if self._dates.ndim == 1:
            return self._dates[None].repeat(len(rows), 0), self._platform[None].repeat(len(rows), 0)
        at = self.y[rows]
        return self._dates[:, at].T.copy(), self._platform[:, at].T.copy()

    def _window(
        self, rows: np.ndarray, raw: Raw | None, t: int, usable: bool
    ) -> tuple[Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]], Failed]:
        """window i -> (dates kept, their pixels, their masks), and what has failed already."""
        reader, size, every = self._now(), self.size, self.every
        y, x = self.y[rows].tolist(), self.x[rows].tolist()

        def choose(i: int, valid: np.ndarray) -> np.ndarray:
            return clearest(self._may(y[i], valid), t, usable=usable)

        if raw is None and not reader.preload and (reader.info.chunks[0] > 1 or t >= every):
            raw = self.raw(rows)
        if raw is not None:
            found = raw

            def of_raw(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                if i in found.failed:
                    raise found.failed[i]
                keep = choose(i, found.valid[i])
                return keep, found.pixels[i][keep], found.valid[i][keep]

            return of_raw, dict(raw.failed)

        def of_reader(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Only the dates that are kept are decoded."""
            keep = choose(i, reader.read_valid(y[i], x[i], size, size))
            # One date at least: a window without any usable one is read, and nothing of it kept.
            dates = keep if len(keep) else np.zeros(1, np.int64)
            pixels, valid = reader.read(y[i], x[i], size, size, dates)
            return keep, pixels[: len(keep)], valid[: len(keep)]

        return of_reader, {}

    def _now(self) -> Reader:
        """The reader. One damaged chunk spoils a preload: then only the windows on it fail."""
        reader = self.reader
        if reader.preload:
            try:
                reader.load()
            except CubeError:
                reader = self.reader = Reader(reader.path, reader.info, reader.channels)
        return reader


def clearest(valid: np.ndarray, count: int, *, usable: bool = False) -> np.ndarray:
    """Positions of the `count` dates with the largest valid share, in time order.

    Args:
      valid: bool [T,C,H,W]. Of equally clear dates the earlier ones are taken.
      usable: leave out those without a valid pixel: there may be fewer than `count`.
    """
    share = valid.reshape(len(valid), -1).mean(axis=1)
    best = np.argsort(-share, kind="stable")[:count]
    return np.sort(best[share[best] > 0] if usable else best)


def _turn(batch: np.ndarray, turns: list[int]) -> None:
    """`turned` of every window of a batch, in place."""
    scratch = np.empty(batch.shape[1:], batch.dtype) if any(turns) else None
    for i, turn in enumerate(turns):
        if turn and scratch is not None:
            np.copyto(scratch, batch[i])
            batch[i] = turned(scratch, turn)


def turned(a: np.ndarray, element: int) -> np.ndarray:
    """A view of `a` [..., H, W] under one of the eight symmetries of the square.

    Bit 0 swaps rows and columns, bit 1 flips rows, bit 2 flips columns; 0 changes nothing.
    """
    if element & 1:
        a = a.swapaxes(-1, -2)
    return a[..., :: -1 if element & 2 else 1, :: -1 if element & 4 else 1]
