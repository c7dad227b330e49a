"""The open arrays of one band set: pixels and mask, filled into the caller's arrays.

    OpenArrays.fill([(picks, pixels, valid), ...]) -> {number of a window: CubeError}

A local cube is read by `data_zarr.shards`. Others come through tensorstore (no cache: random
windows gain nothing from one), or through zarr where tensorstore is not installed or has no driver
for the store; the reads of all windows are under way before the first is waited for. All are
refused damaged data by the checksum inside each chunk, and missing data by the manifest, so that
neither turns into plausible numbers. A read asks no file for its size: pixels and mask are one
request each, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import PIXELS, VALID, BandSetInfo
from data_zarr.manifest import Manifest, shard_keys
from data_zarr.remote import RemotePath, kvstore, retries
from data_zarr.shards import Pick, Shards

Backend = Literal["shards", "tensorstore", "zarr"]
Fill = Callable[[Sequence[Pick], np.ndarray], Callable[[], None]]
"""Begins to read what is picked into an array of its shape; the function returned ends it."""
Window = tuple[Sequence[Pick], np.ndarray | None, np.ndarray]


class OpenArrays:
    """See the module. One for a process; threads may share it."""

    def __init__(self, path: Path | RemotePath, info: BandSetInfo, backend: Backend | None):
        """
        Raises:
          CubeError: a shard of a local cube that is missing or of another size; arrays that cannot
            be opened.
        """
        self.info = info
        self.manifest = Manifest.read(path)
        self.names = (f"{info.name}/{PIXELS}", f"{info.name}/{VALID}")
        # On a disk a look at each file is cheap; elsewhere what is lost shows when it is read.
        for name in self.names if isinstance(path, Path) else ():
            keys = shard_keys(name, *self._extent(name))
            for error in self.manifest.problems(keys, deep=False):
                raise error
        try:
            self.pixels, self.mask = _open(self.manifest, self.names, backend)
        except (ValueError, OSError, RuntimeError) as error:
            documents = [f"{name}/zarr.json" for name in self.names]
            for problem in self.manifest.problems(documents, deep=True):
                raise problem from error
            raise CubeError(
                "cannot open the arrays", where=f"{path}: {info.name}", found=str(error)[:160]
            ) from error

    def fill(self, windows: Sequence[Window]) -> dict[int, CubeError]:
        """Fills the arrays of windows with what is stored.

        Args:
          windows: picks along time, band, y and x, of which the last two are slices; pixels
            [T,C,h,w], or None where only the mask is wanted; valid bool [T, 1 or C, h, w].

        Returns:
          for each window that is not filled: a missing, truncated or corrupt chunk, named.
        """
        pixels, masks = [], []
        for picks, values, valid in windows:
            leading = [*picks[:3]] if self.info.points else [*picks]  # stored without columns
            if self.info.points:
                valid, values = valid[..., 0], None if values is None else values[..., 0]
            if values is not None:
                pixels.append((leading, values))
            if not self.info.valid_per_band:
                leading, valid = [leading[0], *leading[2:]], valid[:, 0]
            masks.append((leading, valid))
        errors: dict[int, Exception] = {}
        if isinstance(self.pixels, Shards) and isinstance(self.mask, Shards):
            errors = {**self.mask.read_many(masks), **self.pixels.read_many(pixels)}
        else:
            begun: list[Any] = []
            for array, wanted in ((self.pixels, pixels), (self.mask, masks)):
                assert not isinstance(array, Shards)
                begun += [_attempt(lambda f=array, w=w: f(*w)) for w in wanted]
            for i, started in enumerate(begun):
                ended = started if isinstance(started, Exception) else _attempt(started)
                if isinstance(ended, Exception):
                    errors[i % len(windows)] = ended
        found = {i: self._explain(windows[i][0], error) for i, error in errors.items()}
        for i, error in found.items():
            error.__cause__ = errors[i] if errors[i] is not error else None
        return found

    def _extent(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(shape, shards) of pixels or of the mask, as stored."""
        mask = name == self.names[1]
        return self.info.stored(self.info.shape, mask=mask), self.info.stored(
            self.info.shards, mask=mask
        )

    def _touched(self, name: str, rows: slice, columns: slice) -> list[str]:
        shape, shards = self._extent(name)
        place = (rows,) if self.info.points else (rows, columns)
        leading = [slice(0, n) for n in shape[: -len(place)]]
        return shard_keys(name, shape, shards, [*leading, *place])

    def _explain(self, picks: Sequence[Pick], error: Exception) -> CubeError:
        """Names the damaged file among those that the window touches."""
        if isinstance(error, CubeError):
            return error
        rows, columns = picks[2:]
        assert isinstance(rows, slice)
        assert isinstance(columns, slice)
        for name in self.names:
            for problem in self.manifest.problems(self._touched(name, rows, columns), deep=True):
                return problem
        return CubeError(
            "unreadable chunk",
            where=f"{self.manifest.root}: {self.info.name}",
            expected="files that match the manifest and decode",
            found=str(error)[:160],
        )


def _attempt(do: Callable[[], Any]) -> Any:
    """What it gives, or the error of a store that cannot."""
    try:
        return do()
    except (CubeError, ValueError, OSError, RuntimeError) as error:
        return error


def _open(
    manifest: Manifest, names: tuple[str, ...], backend: Backend | None
) -> Sequence[Shards | Fill]:
    """How to read each array."""
    if backend in (None, "shards") and isinstance(manifest.root, Path):
        opened = [Shards.open(manifest.root / name) for name in names]
        if None not in opened:
            return [array for array in opened if array is not None]
    if backend == "shards":
        raise ValueError("stored in a way that is not read directly")
    places = [kvstore(manifest.root / name) for name in names]
    if backend != "zarr" and None not in places:
        try:
            import tensorstore as ts
        except ImportError:
            if backend == "tensorstore":
                raise
        else:
            return [_from_tensorstore(ts, place) for place in places]
    import zarr

    from data_zarr.store import ManifestStore

    store = ManifestStore(manifest)
    return [_from_zarr(zarr.open_array(store, path=name, mode="r")) for name in names]


def _from_tensorstore(ts: Any, place: Any) -> Fill:
    array = ts.open(
        {"driver": "zarr3", "kvstore": place, "fill_missing_data_reads": False},
        read=True,
        context=ts.Context({"cache_pool": {"total_bytes_limit": 0}, **retries()}),
    ).result()

    def start(picks: Sequence[Pick], out: np.ndarray) -> Callable[[], None]:
        begun = array.oindex[tuple(picks)].read()
        return lambda: np.copyto(out, begun.result())

    return start


def _from_zarr(array: Any) -> Fill:
    return lambda picks, out: lambda: np.copyto(out, array.oindex[tuple(picks)])
