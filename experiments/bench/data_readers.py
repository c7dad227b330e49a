"""How fast windows come from each store by each reader: windows per second of CPU time.

A round runs every reader once on the same windows, in turn, so that a slow spell of the machine
hits all; a ratio is the median of the rounds' ratios. CPU time is that of all threads of the
process. All stores lie in the page cache, the memory map's pages are mapped; all readers share one
process and so one heap.

What each reads of a window [24, 6, 64, 64]:

    ours        `cube.reader("s2").read`: int16 as stored, and the mask (bool), nodata taken out
    xarray      `xr.open_zarr(chunks=None)`: float32, scaled, nodata as NaN; no mask
    xbatcher    `BatchGenerator(...)[i]` of that data set; no mask
    memmap      `np.load(mmap_mode="r")`: a copy of the int16 window; no mask
    tiles       the same numbers in a chunk for each date and 256 x 256 pixels, by xarray; or, for
                one date, by tensorstore with its mask: the fastest reader of such chunks
    blocks      `CubeStream` of 16 crops from each shard read, 16 shards at a time, as batches
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.cube import open_cube
from data_zarr.sampling import window_table
from data_zarr.shards import Shards
from rsvlm_jax.config import InputConfig
from rsvlm_jax.data import CubeSource, CubeStream

from .data_cube import BANDS, DATES, NODATA, Stores, block
from .figure import Figure

EDGE, SCENE = 64, 256
CROPS, BLOCKS = 16, 16
Window = tuple[int, int]
Read = Callable[[int, int], Any]


def figures(stores: Stores, rounds: int) -> Iterator[Figure]:
    """Speeds and their ratios."""
    readers = _readers(stores)
    _check(stores, readers)
    counts = {"tiles": 16, "one_date": 48, "one_date_tiles": 48, "one_date_xarray": 48}
    rates: dict[str, list[float]] = {name: [] for name in (*readers, "blocks")}
    blocks = _Blocks(stores)
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):
        places = {
            "aligned": rng.integers(0, stores.size // EDGE, (64, 2)) * EDGE,
            "random": rng.integers(0, stores.size - EDGE + 1, (64, 2)),
            "scene": rng.integers(0, stores.size // SCENE, (64, 2)) * SCENE,
        }
        for name, (kind, read) in readers.items():
            windows = places[kind][: counts.get(name, 64)].tolist()
            begun = time.process_time()
            for y, x in windows:
                read(y, x)
            _note(rates[name], number, len(windows) / (time.process_time() - begun))
        begun = time.process_time()
        n = blocks.read()
        _note(rates["blocks"], number, n / (time.process_time() - begun))
    for name, found in rates.items():
        yield Figure(f"data.rate.{name}", statistics.median(found), "windows/cpu_s")
    for name, above, below, gate in (
        ("series_zstd.over_xbatcher", "ours_zstd", "xbatcher_zstd", 2.5),
        ("series_lz4.over_xbatcher", "ours_lz4", "xbatcher_lz4", 3.5),
        ("series_zstd.over_xarray_on_tiles", "ours_zstd", "tiles", 10),
        ("random_offsets.over_xarray", "ours_random", "xarray_random", 1.6),
        ("blocks_with_crops.over_xarray", "blocks", "xarray_random", 2.5),
        ("series_zstd.over_memmap", "ours_zstd", "memmap", 0.3),
        ("series_lz4.over_memmap", "ours_lz4", "memmap", 0.5),
        ("one_date.over_tiles", "one_date", "one_date_tiles", 0.7),
        ("one_date.over_xarray_on_tiles", "one_date", "one_date_xarray", None),
    ):
        ratios = [a / b for a, b in zip(rates[above], rates[below], strict=True)]
        yield Figure(f"data.{name}", statistics.median(ratios), "x", at_least=gate)
    for codec in ("zstd", "lz4"):
        size, floor = _floor(stores, f"series_{codec}")
        yield Figure(f"data.floor.bytes_{codec}", size / 1e3, "kB/window")
        yield Figure(f"data.floor.decode_{codec}", floor, "windows/cpu_s")
        share = statistics.median(rates[f"ours_{codec}"]) / floor
        yield Figure(f"data.floor.share_{codec}", share, "-")


def _note(rates: list[float], number: int, rate: float) -> None:
    if number:  # the first round only warms up
        rates.append(rate)


def _readers(stores: Stores) -> dict[str, tuple[str, Read]]:
    import tensorstore as ts
    import xarray as xr
    import xbatcher

    def ours(name: str) -> Read:
        reader = open_cube(stores.path(name)).reader("s2")
        return lambda y, x: reader.read(y, x, EDGE, EDGE)

    def lazy(path: Path, group: str | None) -> Any:
        found = xr.open_zarr(path, group=group, chunks=None, consolidated=False)
        return found[["pixels"]].drop_vars("spatial_ref", errors="ignore")

    def xarray(path: Path, group: str | None = "s2") -> Read:
        data = lazy(path, group)["pixels"]
        return lambda y, x: data[..., y : y + EDGE, x : x + EDGE].values

    def batcher(name: str) -> Read:
        data = lazy(stores.path(name), "s2")
        # All dimensions, or it would stack dates and bands, which costs ten times the read.
        dims = {"time": DATES, "band": BANDS, "y": EDGE, "x": EDGE}
        batches = xbatcher.BatchGenerator(data, dims, preload_batch=False)
        across = stores.size // EDGE
        return lambda y, x: batches[y // EDGE * across + x // EDGE]["pixels"].values

    raw = np.load(stores.path("raw.npy"), mmap_mode="r")
    int(raw.reshape(-1)[:: 4096 // 2].astype(np.int64).sum())  # maps every page

    image = open_cube(stores.path("image")).reader("s2")
    tiles = [
        ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}},
                read=True, context=ts.Context({"cache_pool": {"total_bytes_limit": 0}})).result()
        for path in (stores.path("tiles") / "pixels", stores.path("tiles") / "valid")
    ]  # fmt: skip
    scenes = lazy(stores.path("tiles"), None)["pixels"]

    def date(y: int, x: int) -> int:
        return (y // SCENE * 7 + x // SCENE * 3) % DATES

    def one_date_tiles(y: int, x: int) -> tuple[np.ndarray, ...]:
        begun = [a[date(y, x), ..., y : y + SCENE, x : x + SCENE].read() for a in tiles]
        return tuple(b.result() for b in begun)

    return {
        "ours_zstd": ("aligned", ours("series_zstd")),
        "xbatcher_zstd": ("aligned", batcher("series_zstd")),
        "xarray_zstd": ("aligned", xarray(stores.path("series_zstd"))),
        "ours_lz4": ("aligned", ours("series_lz4")),
        "xbatcher_lz4": ("aligned", batcher("series_lz4")),
        "memmap": ("aligned", lambda y, x: np.array(raw[..., y : y + EDGE, x : x + EDGE])),
        "tiles": ("aligned", xarray(stores.path("tiles"), None)),
        "ours_random": ("random", ours("series_zstd")),
        "xarray_random": ("random", xarray(stores.path("series_zstd"))),
        "one_date": ("scene", lambda y, x: image.read(y, x, SCENE, SCENE, [date(y, x)])),
        "one_date_tiles": ("scene", one_date_tiles),
        "one_date_xarray": (
            "scene",
            lambda y, x: scenes[date(y, x), :, y : y + SCENE, x : x + SCENE].values,
        ),
    }


def _check(stores: Stores, readers: dict[str, tuple[str, Read]]) -> None:
    """Every reader gives the numbers that were written."""
    pixels, valid = block(0, 256, SCENE, SCENE)
    for name, (kind, read) in readers.items():
        got = read(0, 256)
        values = np.asarray(got[0] if isinstance(got, tuple) else got)
        size = SCENE if kind == "scene" else EDGE
        expected = pixels[..., :size, :size]
        if kind == "scene":
            expected = expected[3]
        values = values.reshape(expected.shape)
        if values.dtype != np.int16:
            stored = np.where(np.isnan(values), NODATA, np.round(values / 1e-4))
            values = stored.astype(np.int16)
        np.testing.assert_array_equal(values, expected, err_msg=name)
        if isinstance(got, tuple) and kind != "scene":
            np.testing.assert_array_equal(got[1][:, 0], valid[:, :size, :size], err_msg=name)


class _Blocks:
    """Crops at offsets that are no multiples of a chunk, from shards read once."""

    def __init__(self, stores: Stores) -> None:
        table = window_table(stores.size, stores.size, EDGE, 7)
        source = CubeSource(stores.path("series_zstd"), [InputConfig("s2")], None, table)
        self._stream = CubeStream(source, 0, 0, crops=CROPS, blocks=BLOCKS, ahead=BLOCKS)
        self._next = 0

    def read(self) -> int:
        """One window of blocks."""
        for first in range(self._next, self._next + CROPS * BLOCKS, 16):
            self._stream.read(np.arange(first, first + 16), None, None)
        self._next += CROPS * BLOCKS
        return CROPS * BLOCKS


def _floor(stores: Stores, name: str) -> tuple[float, float]:
    """Bytes of a window as stored, and windows per CPU second of the codec and checksum alone."""
    arrays = [Shards.open(stores.path(name) / "s2" / part) for part in ("pixels", "valid")]
    work: list[tuple[bytes, np.ndarray]] = []
    for array in arrays:
        assert array is not None
        out = np.empty(array.chunks, array.dtype)
        for shard in sorted((array.path / "c").rglob("*"))[-8:]:
            if shard.is_file():
                work += [(chunk, out) for chunk in array.stored(shard)]
    samples = sum(1 for _, out in work if out.shape[1:2] == (BANDS,))
    from google_crc32c import value
    from numcodecs.blosc import decompress

    times = []
    for _ in range(5):
        begun = time.process_time()
        for chunk, out in work:
            value(chunk[:-4])
            decompress(memoryview(chunk)[:-4], out)
        times.append(time.process_time() - begun)
    return sum(len(c) for c, _ in work) / samples, samples / statistics.median(times)
