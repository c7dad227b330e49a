"""Raw reads of windows: stored numbers and a mask, nothing decoded.

    Reader.read(y, x, h, w) -> pixels [T, C, h, w] (stored dtype), valid bool [T, 1 or C, h, w]

in the band set's own pixels; sites of a point cube are rows, and w = 1.

`valid` = stored mask, and not nodata, and finite. It has C channels when the cube stores a mask
for each band, else one (a pixel is then valid only where all the bands asked for are).

A reader pickles as a path and opens once a process; many threads may share one. The bytes come
through tensorstore (no cache: random windows gain nothing from one), or through zarr where
tensorstore is not installed or has no driver for the store. Both are refused damaged data by the
checksum inside each chunk, and missing data by the manifest, so that neither turns into plausible
numbers. A read asks no file for its size: pixels and mask are one request each, side by side.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import PIXELS, VALID, BandSetInfo
from data_zarr.manifest import Manifest, shard_keys
from data_zarr.remote import RemotePath, kvstore, retries

Backend = Literal["tensorstore", "zarr"]


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
        self.channels = channels
        rows = range(len(info.bands)) if channels is None else channels
        self.bands = tuple(info.band_names[i] for i in rows)
        self._lock = threading.Lock()
        self._store: _Store | None = None
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

    def read(self, y: int, x: int, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows `y : y + h` and columns `x : x + w` of every date.

        Returns:
          pixels [T, C, h, w] in the stored dtype and valid bool [T, 1 or C, h, w]. With
          `preload` both are views of the array in memory: do not write to them.

        Raises:
          CubeError: a window outside the cube; a missing, truncated or corrupt chunk.
        """
        height, width = self.info.shape[2:]
        if y < 0 or x < 0 or h < 1 or w < 1 or y + h > height or x + w > width:
            raise CubeError(
                "window outside the cube",
                where=f"{self.path}: {self.info.name}",
                expected=f"rows in 0..{height}, columns in 0..{width}",
                found=f"rows {y}..{y + h}, columns {x}..{x + w}",
            )
        if self.preload:
            pixels, valid = self._pixels, self._valid
            if pixels is None or valid is None:
                pixels, valid = self._load()
            return pixels[:, :, y : y + h, x : x + w], valid[:, :, y : y + h, x : x + w]
        return self._read(slice(y, y + h), slice(x, x + w))

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if self._pixels is None or self._valid is None:
                height, width = self.info.shape[2:]
                store = self._store or _Store(self.path, self.info, self.backend)
                pixels, valid = self._masked(store, slice(0, height), slice(0, width))
                pixels.flags.writeable = valid.flags.writeable = False
                self._valid, self._pixels = valid, pixels  # pixels last: it is what `read` tests
        return self._pixels, self._valid

    def _read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        store = self._store
        if store is None:
            with self._lock:
                store = self._store
                if store is None:
                    store = self._store = _Store(self.path, self.info, self.backend)
        return self._masked(store, rows, columns)

    def _masked(self, store: _Store, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        pixels, stored = store.read(rows, columns)
        if self.info.points:
            pixels, stored = pixels[..., None], stored[..., None]
        valid = stored if stored.ndim == 4 else stored[:, None]
        if self.channels is not None:
            pixels = np.ascontiguousarray(pixels[:, list(self.channels)])
            valid = valid[:, list(self.channels)] if self.info.valid_per_band else valid
        value = usable(pixels, self.info.nodata)
        if not self.info.valid_per_band:
            value = value.all(axis=1, keepdims=True)
        return pixels, valid & value


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


class _Store:
    """The open arrays of one band set in one process."""

    def __init__(self, path: Path | RemotePath, info: BandSetInfo, backend: Backend | None):
        self.info = info
        self.manifest = Manifest.read(path)
        self.names = (f"{info.name}/{PIXELS}", f"{info.name}/{VALID}")
        # On a disk a look at each file is cheap; elsewhere what is lost shows when it is read.
        for name in self.names if isinstance(path, Path) else ():
            keys = shard_keys(name, *self._extent(name))
            for error in self.manifest.problems(keys, deep=False):
                raise error
        try:
            self.arrays = _open(self.manifest, self.names, backend)
        except (ValueError, OSError, RuntimeError) as error:
            documents = [f"{name}/zarr.json" for name in self.names]
            for problem in self.manifest.problems(documents, deep=True):
                raise problem from error
            raise CubeError(
                "cannot open the arrays", where=f"{path}: {info.name}", found=str(error)[:160]
            ) from error

    def _extent(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(shape, shards) of pixels or of the mask, as stored."""
        mask = name == self.names[1]
        return self.info.stored(self.info.shape, mask=mask), self.info.stored(
            self.info.shards, mask=mask
        )

    def _place(self, rows: slice, columns: slice) -> tuple[slice, ...]:
        return (rows,) if self.info.points else (rows, columns)

    def _touched(self, name: str, rows: slice, columns: slice) -> list[str]:
        shape, shards = self._extent(name)
        place = self._place(rows, columns)
        leading = [slice(0, n) for n in shape[: -len(place)]]
        return shard_keys(name, shape, shards, [*leading, *place])

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        place = self._place(rows, columns)
        try:
            futures = [array(place) for array in self.arrays]
            pixels, valid = (future() for future in futures)
            return pixels, valid
        except (ValueError, OSError, RuntimeError) as error:
            raise self._explain(rows, columns, error) from error

    def _explain(self, rows: slice, columns: slice, error: Exception) -> CubeError:
        """Names the damaged file among those that the window touches."""
        for name in self.names:
            for problem in self.manifest.problems(self._touched(name, rows, columns), deep=True):
                return problem
        return CubeError(
            "unreadable chunk",
            where=f"{self.manifest.root}: {self.info.name}",
            expected="files that match the manifest and decode",
            found=str(error)[:160],
        )


def _open(manifest: Manifest, names: tuple[str, ...], backend: Backend | None) -> list[Any]:
    """`f(place)` for each array: it starts a read and returns a function that waits for its
    numbers, so that the pixels and the mask of a window are read at the same time."""
    places = [kvstore(manifest.root / name) for name in names]
    if backend != "zarr" and None not in places:
        try:
            import tensorstore as ts
        except ImportError:
            if backend == "tensorstore":
                raise
        else:
            return [_open_tensorstore(ts, place) for place in places]
    import zarr

    from data_zarr.store import ManifestStore

    store = ManifestStore(manifest)
    return [_open_zarr(zarr.open_array(store, path=name, mode="r")) for name in names]


def _open_tensorstore(ts: Any, place: Any) -> Any:
    array = ts.open(
        {"driver": "zarr3", "kvstore": place, "fill_missing_data_reads": False},
        read=True,
        context=ts.Context({"cache_pool": {"total_bytes_limit": 0}, **retries()}),
    ).result()
    return lambda place: array[(..., *place)].read().result


def _open_zarr(array: Any) -> Any:
    return lambda place: lambda: np.asarray(array[(..., *place)])
