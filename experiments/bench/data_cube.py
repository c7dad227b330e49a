"""The cubes that `experiments.bench.data` reads: one series of images, stored in several ways.

int16 [24, 6, N, N]: reflectance that varies slowly in space and with the season, sensor noise, and
bright clouds in blocks over about 27 % of the pixels (masked, their numbers kept); a strip of three
dates lies outside the swath and is nodata. The same numbers everywhere:

    series_zstd, series_lz4, image   our cubes, by `create_cube`
    tiles                            plain Zarr, a chunk for each date and 256 x 256 pixels
    raw.npy                          the array as it is in memory
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_zarr.grid import Grid
from data_zarr.sensors import BANDSETS
from data_zarr.write import BandSetData, create_cube

DATES, BANDS, NODATA = 24, 6, -9999
NAMES = ("B02", "B03", "B04", "B8A", "B11", "B12")
BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Stores:
    """Where they lie; `size` is N."""

    folder: Path
    size: int

    def path(self, name: str) -> Path:
        return self.folder / (name if name == "raw.npy" else f"{name}.zarr")


def make(folder: Path, size: int) -> Stores:
    """Writes all of them, block by block: never more than 100 MB in memory."""
    import zarr

    stores = Stores(folder, size)
    grid = Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5.1e6), size, size)
    bands = [b for b in BANDSETS["s2_l2a"].bands if b.name in NAMES]
    dates = np.datetime64("2021-01-05T10:00") + np.arange(DATES) * np.timedelta64(15, "D")
    sets = [BandSetData("s2", "optical", bands, dates, "sentinel-2a", scale=1e-4, nodata=NODATA)]
    writers = [
        create_cube(
            stores.path(name),
            grid=grid,
            bandsets=sets,
            layout=layout,
            codec=codec,
            title="bench",
            license="CC0-1.0",
            provenance="experiments.bench.data",
        )
        for name, layout, codec in (
            ("series_zstd", "series", "zstd"),
            ("series_lz4", "series", "lz4"),
            ("image", "image", "zstd"),
        )
    ]
    shape = (DATES, BANDS, size, size)
    raw = np.lib.format.open_memmap(stores.path("raw.npy"), "w+", np.int16, shape)
    tiles = _tiles(zarr, stores.path("tiles"), shape)
    for y in range(0, size, BLOCK):
        for x in range(0, size, BLOCK):
            pixels, valid = block(y, x, min(BLOCK, size - y), min(BLOCK, size - x))
            for writer in writers:
                writer.write("s2", y, x, pixels, valid)
            rows, columns = slice(y, y + BLOCK), slice(x, x + BLOCK)
            raw[:, :, rows, columns] = pixels
            tiles["pixels"][:, :, rows, columns] = pixels
            tiles["valid"][:, rows, columns] = valid
    raw.flush()
    for writer in writers:
        writer.close()
    return stores


def block(y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """pixels int16 [24, 6, h, w] and valid bool [24, h, w] of a block, a function of its place."""
    rng = np.random.default_rng([y, x])
    rows, columns = np.ogrid[y : y + height, x : x + width]
    t = np.arange(DATES)[:, None, None, None]
    b = np.arange(BANDS)[None, :, None, None]
    place = np.sin(rows / 37.0 + b) * np.cos(columns / 53.0 - b)
    place = place + 0.3 * np.sin(rows * columns / 9e3)
    season = 1 + 0.2 * np.sin(2 * np.pi * t / DATES + b)
    level = (600 + 350 * b + 300 * place) * season
    pixels = level + rng.normal(0, 30, level.shape)
    coarse = rng.random((DATES, -(-height // 32), -(-width // 32))) < 0.27
    cloud = coarse.repeat(32, 1).repeat(32, 2)[:, :height, :width]
    pixels += cloud[:, None] * (5000 + 400 * np.sin(columns / 5.0))
    pixels = pixels.astype(np.int16)
    outside = np.zeros((DATES, height, width), bool)
    outside[::8] = np.broadcast_to(rows + columns < 900, (height, width))
    pixels[np.broadcast_to(outside[:, None], pixels.shape)] = NODATA
    return pixels, ~(cloud | outside)


def _tiles(zarr: Any, path: Path, shape: tuple[int, ...]) -> Any:
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2)
    group = zarr.create_group(path)
    options = {"scale_factor": 1e-4, "add_offset": 0.0, "_FillValue": NODATA}
    group.create_array(
        "pixels", shape=shape, dtype="int16", chunks=(1, BANDS, BLOCK, BLOCK),
        fill_value=NODATA, compressors=codec, dimension_names=("time", "band", "y", "x"),
        attributes=options,
    )  # fmt: skip
    group.create_array(
        "valid", shape=(DATES, *shape[2:]), dtype="bool", chunks=(1, BLOCK, BLOCK),
        compressors=codec, dimension_names=("time", "y", "x"),
    )  # fmt: skip
    return group
