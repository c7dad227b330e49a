"""The open arrays of one band set: pixels and mask, filled into the caller's arrays.

    OpenArrays.start(picks, pixels, valid) -> finish()

A local cube is read by `data_zarr.shards`. Others come through tensorstore (no cache: random
windows gain nothing from one), or through zarr where tensorstore is not installed or has no driver
for the store: many reads can be under way at the same time. All are refused damaged data by the
checksum inside each chunk, and missing data by the manifest, so that neither turns into plausible
numbers. A read asks no file for its size: pixels and mask are one request each, side by side.
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

    def start(
        self, picks: Sequence[Pick], pixels: np.ndarray | None, valid: np.ndarray
    ) -> Callable[[], None]:
        """Begins to fill arrays with what is stored; the function returned waits for both.

        Args:
          picks: along time, band, y and x; the last two are slices.
          pixels: [T,C,h,w]; None: only the mask is wanted.
          valid: bool [T, 1 or C, h, w].

        Raises:
          CubeError (by the function returned): a missing, truncated or corrupt chunk, named.
        """
        rows, columns = picks[2:]
        assert isinstance(rows, slice)
        assert isinstance(columns, slice)
        if self.info.points:  # stored without columns
            picks, valid = picks[:3], valid[..., 0]
            pixels = None if pixels is None else pixels[..., 0]
        try:
            fills = [] if pixels is None else [self.pixels(picks, pixels)]
            if self.info.valid_per_band:
                fills.append(self.mask(picks, valid))
            else:
                fills.append(self.mask([picks[0], *picks[2:]], valid[:, 0]))
        except (ValueError, OSError, RuntimeError) as error:
            raise self._explain(rows, columns, error) from error

        def finish() -> None:
            try:
                for fill in fills:
                    fill()
            except (ValueError, OSError, RuntimeError) as error:
                raise self._explain(rows, columns, error) from error

        return finish

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


def _open(manifest: Manifest, names: tuple[str, ...], backend: Backend | None) -> list[Fill]:
    """How to read each array."""
    if backend in (None, "shards") and isinstance(manifest.root, Path):
        opened = [Shards.open(manifest.root / name) for name in names]
        if None not in opened:
            return [_from_shards(array) for array in opened if array is not None]
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


def _from_shards(array: Shards) -> Fill:
    return lambda picks, out: lambda: array.read(picks, out)


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
