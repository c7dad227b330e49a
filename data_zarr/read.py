"""Raw reads of windows: stored numbers and a mask, nothing decoded.

    Reader.read(y, x, h, w) -> pixels [T, C, h, w] (stored dtype), valid bool [T, 1 or C, h, w]
    Reader.read_many(y, x, h, w) -> the same with a leading B, from B upper left corners

in the band set's own pixels; sites of a point cube are rows, and w = 1.

`valid` = stored mask, and not nodata, and finite. It has C channels when the cube stores a mask
for each band, else one (a pixel is then valid only where all the bands asked for are).

A reader pickles as a path and opens once a process; many threads may share one. The bytes come
from the open arrays of `data_zarr.arrays`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.arrays import Backend, OpenArrays
from data_zarr.errors import CubeError
from data_zarr.format import BandSetInfo
from data_zarr.manifest import Manifest
from data_zarr.remote import RemotePath
from data_zarr.shards import Pick

LINE = 64
"""Bytes of a cache line."""
Dates = slice | Sequence[int] | np.ndarray
"""Which dates: a slice, or their numbers in ascending order."""


class Reader:
    """Windows of one band set; see the module docstring. Made by `Cube.reader()`.

    Attributes:
      info: the band set, as stored.
      bands: names of the channels that `read` returns, in order.
      channels: their rows in the store, or None for all.
    """

    def __init__(
        self,
        path: Path | RemotePath,
        info: BandSetInfo,
        channels: tuple[int, ...] | None = None,
        *,
        preload: bool = False,
        backend: Backend | None = None,
    ):
        self.path, self.info, self.preload = path, info, preload
        self.backend: Backend | None = backend
        # All bands in stored order are no choice: they are decoded in place.
        self.channels = None if channels == tuple(range(len(info.bands))) else channels
        rows = range(len(info.bands)) if channels is None else channels
        self.bands = tuple(info.band_names[i] for i in rows)
        self._lock = threading.Lock()
        self._store: OpenArrays | None = None
        self._pixels: np.ndarray | None = None
        self._valid: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        transient = {"_lock": None, "_store": None, "_pixels": None, "_valid": None}
        return {**self.__dict__, **transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Reader({self.path.name}: {self.info.name}, bands {', '.join(self.bands)})"

    def read(
        self, y: int, x: int, h: int, w: int, dates: Dates | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows `y : y + h` and columns `x : x + w`.

        Args:
          dates: those to read, and no others; None: all.

        Returns:
          pixels [T, C, h, w] in the stored dtype and valid bool [T, 1 or C, h, w]. With
          `preload` both may be views of the array in memory: do not write to them.

        Raises:
          CubeError: a window or a date outside the cube; a missing, truncated or corrupt chunk.
        """
        times = self._inside(y, x, h, w, dates)
        if self.preload:
            pixels, valid = self.load()
            where = (times, slice(None), slice(y, y + h), slice(x, x + w))
            return pixels[where], valid[where]
        pixels, valid = self._empty((), times, h, w)
        for error in self._open().fill([(self._picks(times, y, x, h, w), pixels, valid)]).values():
            raise error
        self._mask(pixels, valid)
        return pixels, valid

    def read_valid(self, y: int, x: int, h: int, w: int) -> np.ndarray:
        """The stored mask alone, bool [T, 1 or C, h, w], at a small part of the cost of `read`.

        `CubeWriter` has taken nodata out of it already.

        Raises:
          CubeError: as `read`.
        """
        times = self._inside(y, x, h, w, None)
        if self.preload:
            return self.load()[1][:, :, y : y + h, x : x + w]
        valid = self._empty((), times, h, w)[1]
        for error in self._open().fill([(self._picks(times, y, x, h, w), None, valid)]).values():
            raise error
        return valid

    def read_many(
        self,
        y: Sequence[int] | np.ndarray,
        x: Sequence[int] | np.ndarray,
        h: int,
        w: int,
        dates: Dates | None = None,
        *,
        failed: dict[int, CubeError] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Windows of one size, each decoded in its place of one new array.

        Args:
          y, x: the upper left pixels, B of each.
          dates: as in `read`, the same for all windows.
          failed: gets the error of each window that cannot be read, by its place; such a window is
            0 everywhere and nowhere valid. None: the first error is raised.

        Returns:
          pixels [B, T, C, h, w] and valid bool [B, T, 1 or C, h, w].

        Raises:
          CubeError: as `read`.
        """
        corners = [(int(a), int(b)) for a, b in zip(y, x, strict=True)]
        times = slice(0, self.info.shape[0])
        for a, b in corners:
            times = self._inside(a, b, h, w, dates)
        pixels, valid = self._empty((len(corners),), times, h, w)
        picks = [self._picks(times, a, b, h, w) for a, b in corners]
        bad: dict[int, CubeError] = {}
        if self.preload:
            whole = self.load()
            for i, window in enumerate(picks):
                where = (times, slice(None), *window[2:])
                pixels[i], valid[i] = (a[where] for a in whole)
            return pixels, valid
        try:
            bad = self._open().fill(list(zip(picks, pixels, valid, strict=True)))
        except CubeError as error:  # a store that does not open
            bad = dict.fromkeys(range(len(picks)), error)
        for i, error in bad.items():
            if failed is None:
                raise error
            failed[i] = error
        for i in range(len(picks)):
            if i in bad:
                pixels[i], valid[i] = 0, False
            else:
                self._mask(pixels[i], valid[i])
        return pixels, valid

    def _inside(self, y: int, x: int, h: int, w: int, dates: Dates | None) -> Pick:
        """The dates as a pick; CubeError for anything beyond the cube."""
        count, _, height, width = self.info.shape
        if y < 0 or x < 0 or h < 1 or w < 1 or y + h > height or x + w > width:
            raise CubeError(
                "window outside the cube",
                where=f"{self.path}: {self.info.name}",
                expected=f"rows in 0..{height}, columns in 0..{width}",
                found=f"rows {y}..{y + h}, columns {x}..{x + w}",
            )
        if dates is None:
            return slice(0, count)
        times = np.arange(count)[dates] if isinstance(dates, slice) else np.asarray(dates)
        if times.ndim != 1 or not len(times) or times.min() < 0 or times.max() >= count:
            raise CubeError(
                "no such dates",
                where=f"{self.path}: {self.info.name}",
                expected=f"numbers in 0..{count}",
                found=dates,
            )
        first, steps = int(times[0]), np.diff(times)
        return slice(first, first + len(times)) if (steps == 1).all() else times

    def _empty(
        self, batch: tuple[int, ...], times: Pick, h: int, w: int
    ) -> tuple[np.ndarray, np.ndarray]:
        t = times.stop - times.start if isinstance(times, slice) else len(times)
        c = len(self.bands)
        pixels = allocate((*batch, t, c, h, w), self.info.dtype)
        return pixels, allocate((*batch, t, c if self.info.valid_per_band else 1, h, w), bool)

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """All pixels and masks, read once and kept; what `preload` serves windows from."""
        pixels, valid = self._pixels, self._valid
        if pixels is not None and valid is not None:
            return pixels, valid
        store = self._open()
        with self._lock:
            if self._pixels is None or self._valid is None:
                count, _, height, width = self.info.shape
                times = slice(0, count)
                pixels, valid = self._empty((), times, height, width)
                picks = self._picks(times, 0, 0, height, width)
                for error in store.fill([(picks, pixels, valid)]).values():
                    raise error
                self._mask(pixels, valid)
                pixels.flags.writeable = valid.flags.writeable = False
                self._valid, self._pixels = valid, pixels
        return self._pixels, self._valid

    def _open(self) -> OpenArrays:
        store = self._store
        if store is None:
            with self._lock:
                store = self._store
                if store is None:
                    store = self._store = OpenArrays(self.path, self.info, self.backend)
        return store

    def _picks(self, times: Pick, y: int, x: int, h: int, w: int) -> list[Pick]:
        every = slice(0, self.info.shape[1])
        channels = every if self.channels is None else np.asarray(self.channels)
        return [times, channels, slice(y, y + h), slice(x, x + w)]

    def _mask(self, pixels: np.ndarray, valid: np.ndarray) -> None:
        """Takes from `valid`, in place, what is no value."""
        nodata = self.info.nodata
        if pixels.dtype.kind != "f" and nodata is not None:
            # Most windows hold no nodata: then one pass is enough.
            missing = pixels == pixels.dtype.type(nodata)
            if not missing.any():
                return
            value = ~missing
        else:
            value = usable(pixels, nodata)
        valid &= value if self.info.valid_per_band else value.all(axis=1, keepdims=True)


def allocate(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """`np.empty` that begins on a cache line: JAX takes such an array without a copy on a CPU."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def usable(pixels: np.ndarray, nodata: int | float | None) -> np.ndarray:
    """True where a stored number is a value: finite and not nodata."""
    if pixels.dtype.kind == "f":
        return np.isfinite(pixels)
    if nodata is None or np.isnan(nodata):
        return np.ones(pixels.shape, bool)
    return pixels != pixels.dtype.type(nodata)


def read_array(manifest: Manifest, name: str) -> np.ndarray:
    """A whole small array (a coordinate, a target), its files checked against the manifest."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    files = {k: manifest.fetch(k) for k in manifest.under(f"{name}/c")}
    files[f"{name}/zarr.json"] = manifest.raw(f"{name}/zarr.json")
    make = default_buffer_prototype().buffer.from_bytes
    store = MemoryStore({k: make(v) for k, v in files.items()}, read_only=True)
    try:
        return np.asarray(zarr.open_array(store, path=name, mode="r")[...])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CubeError(
            "unreadable array", where=f"{manifest.root}: {name}", found=str(error)[:160]
        ) from error
