"""Windows of one band set of a cube, a batch at a time: dates chosen, padded, turned.

    BandWindows.read(y, x, turns, length) -> pixels [B,T,C,H,W], valid [B,T,1|C,H,W],
                                             date [B,T], platform [B,T]
                                             and why a window could not be read, by its place

Not here: which windows (`source`), several band sets (`source`), order (`stream`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.read import Reader

from .batch import to_days

Failed = dict[int, CubeError]


@dataclasses.dataclass(frozen=True)
class Raw:
    """All dates of some windows as `Reader.read_many` gives them: [B,T,C,H,W], [B,T,1|C,H,W]."""

    pixels: np.ndarray
    valid: np.ndarray
    failed: Failed


class BandWindows:
    """See the module. Pickles as a reader; threads may share it.

    Attributes:
      limit: at most so many dates a window, the clearest.
      dated: False for a static layer.
      masks: channels of `valid`: 1 or C.
    """

    def __init__(self, reader: Reader, size: int, limit: int | None) -> None:
        info = reader.info
        self.reader, self.size = reader, size
        self.dated = not info.static
        self._dates = to_days(np.asarray(info.dates))
        self._platform = np.asarray(info.platform, np.int32)
        self.limit = min(len(self._dates), limit or len(self._dates))
        self.masks = len(reader.bands) if info.valid_per_band else 1

    @property
    def every(self) -> int:
        """The number of all dates."""
        return self.reader.info.shape[0]

    def sample_bytes(self, length: int) -> int:
        """Bytes of one window with `length` dates."""
        c, size = len(self.reader.bands), self.size
        return length * size * size * (c * self.reader.info.dtype.itemsize + self.masks)

    def raw(self, y: list[int], x: list[int]) -> Raw:
        """All dates of the windows, as stored."""
        failed: Failed = {}
        pixels, valid = self._now().read_many(y, x, self.size, self.size, failed=failed)
        return Raw(pixels, valid, failed)

    def usable(self, y: list[int], x: list[int]) -> np.ndarray:
        """i64 [n]: how many dates of a window have a valid pixel; 0 where it cannot be read."""
        counts = np.zeros(len(y), np.int64)
        for i, (a, b) in enumerate(zip(y, x, strict=True)):
            try:
                valid = self._now().read_valid(a, b, self.size, self.size)
            except CubeError:
                continue
            counts[i] = valid.reshape(len(valid), -1).any(axis=1).sum()
        return counts

    def read(
        self,
        y: list[int],
        x: list[int],
        turns: list[int],
        length: int | None = None,
        raw: Raw | None = None,
    ) -> tuple[dict[str, np.ndarray], Failed]:
        """Windows as arrays of a batch.

        Args:
          y, x: upper left pixels, B of each.
          turns: for each, an element of the square's symmetry group (`turned`).
          length: None: `limit` dates of each window. Else so many: those that have a valid pixel,
            if there are more of them the clearest, if fewer padded with invalid ones.
          raw: what was read before; None: read it.
        """
        b, every = len(y), self.every
        t = length or self.limit
        whole = t == every and length is None
        if whole and not self._now().preload:
            found = raw or self.raw(y, x)
            scratch = np.empty(found.pixels.shape[1:], found.pixels.dtype) if any(turns) else None
            for i, turn in enumerate(turns):
                if turn and scratch is not None:
                    np.copyto(scratch, found.pixels[i])
                    found.pixels[i] = turned(scratch, turn)
                    found.valid[i] = turned(found.valid[i].copy(), turn)
            date = np.repeat(self._dates[None], b, 0)
            platform = np.repeat(self._platform[None], b, 0)
            entry = {"pixels": found.pixels, "valid": found.valid}
            return {**entry, "date": date, "platform": platform}, found.failed
        c, size, info = len(self.reader.bands), self.size, self.reader.info
        pixels = np.zeros((b, t, c, size, size), info.dtype)
        valid = np.zeros((b, t, self.masks, size, size), bool)
        date = np.repeat(self._dates[None, :1], t, 1).repeat(b, 0)
        platform = np.repeat(self._platform[None, :1], t, 1).repeat(b, 0)
        window, failed = self._window(y, x, raw, min(t, self.limit), length is not None)
        for i in range(b):
            try:
                keep, a, mask = window(i)
            except CubeError as error:
                failed[i] = error
                continue
            n = len(keep)
            pixels[i, :n], valid[i, :n] = turned(a, turns[i]), turned(mask, turns[i])
            date[i, :n], platform[i, :n] = self._dates[keep], self._platform[keep]
            if n:
                date[i, n:], platform[i, n:] = date[i, n - 1], platform[i, n - 1]
        return {"pixels": pixels, "valid": valid, "date": date, "platform": platform}, failed

    def _window(
        self, y: list[int], x: list[int], raw: Raw | None, t: int, usable: bool
    ) -> tuple[Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]], Failed]:
        """window i -> (dates kept, their pixels, their masks), and what has failed already."""
        reader, size, every = self._now(), self.size, self.every

        def choose(valid: np.ndarray) -> np.ndarray:
            return clearest(valid, t, usable=usable)

        if raw is None and not reader.preload and (reader.info.chunks[0] > 1 or t >= every):
            raw = self.raw(y, x)
        if raw is not None:
            found = raw

            def of_raw(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                if i in found.failed:
                    raise found.failed[i]
                keep = choose(found.valid[i])
                return keep, found.pixels[i][keep], found.valid[i][keep]

            return of_raw, dict(raw.failed)

        def of_reader(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Only the dates that are kept are decoded."""
            keep = choose(reader.read_valid(y[i], x[i], size, size))
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


def turned(a: np.ndarray, element: int) -> np.ndarray:
    """A view of `a` [..., H, W] under one of the eight symmetries of the square.

    Bit 0 swaps rows and columns, bit 1 flips rows, bit 2 flips columns; 0 changes nothing.
    """
    if element & 1:
        a = a.swapaxes(-1, -2)
    return a[..., :: -1 if element & 2 else 1, :: -1 if element & 4 else 1]
