"""Windows come back as written; damage is named, never read."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cube import HEIGHT, WIDTH, Small, create

from data_zarr.arrays import Backend
from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.manifest import shard_keys
from data_zarr.read import Reader
from data_zarr.sensors import BANDSETS
from data_zarr.shards import Shards
from data_zarr.write import BandSetData

BACKENDS: tuple[Backend, ...] = ("shards", "tensorstore", "zarr")
SHARD_KEY = "s2_l1c/pixels/c/0/0/0/0"


def reader(small: Small, backend: Backend, *, preload: bool = False) -> Reader:
    return Reader(small.path, open_cube(small.path).bandsets["s2_l1c"], None,
                  preload=preload, backend=backend)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("preload", [False, True])
def test_window_is_what_was_written(intact: Small, backend: Backend, preload: bool) -> None:
    pixels, valid = reader(intact, backend, preload=preload).read(50, 40, 30, 30)
    assert pixels.dtype == np.int16
    np.testing.assert_array_equal(pixels, intact.pixels[:, :, 50:80, 40:70])
    np.testing.assert_array_equal(valid, intact.valid[:, None, 50:80, 40:70])


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_window_equals_the_slice(intact: Small, data: st.DataObject) -> None:
    h, w = data.draw(st.integers(1, HEIGHT)), data.draw(st.integers(1, WIDTH))
    y, x = data.draw(st.integers(0, HEIGHT - h)), data.draw(st.integers(0, WIDTH - w))
    pixels, valid = open_cube(intact.path).reader("s1_db").read(y, x, h, w)
    np.testing.assert_array_equal(pixels, intact.radar[:, :, y : y + h, x : x + w])
    expected = np.isfinite(intact.radar).all(axis=1, keepdims=True)
    np.testing.assert_array_equal(valid, expected[:, :, y : y + h, x : x + w])


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_dates_bands_and_places_of_every_layout(layouts: dict[str, Path], data: st.DataObject):
    layout = data.draw(st.sampled_from(sorted(layouts)))
    backend = data.draw(st.sampled_from(BACKENDS))
    h, w = data.draw(st.integers(1, HEIGHT)), data.draw(st.integers(1, WIDTH))
    y, x = data.draw(st.integers(0, HEIGHT - h)), data.draw(st.integers(0, WIDTH - w))
    dates = data.draw(st.sets(st.integers(0, 4), min_size=1).map(sorted))
    channels = data.draw(st.none() | st.permutations(range(4)).map(lambda p: tuple(p[:2])))
    cube = open_cube(layouts[layout])
    window = Reader(cube.path, cube.bandsets["s2"], channels, backend=backend)
    pixels, valid = window.read(y, x, h, w, dates)
    expected, mask = _series()
    rows = slice(None) if channels is None else list(channels)
    np.testing.assert_array_equal(pixels, expected[dates][:, rows, y : y + h, x : x + w])
    np.testing.assert_array_equal(valid, mask[dates][:, rows, y : y + h, x : x + w])
    np.testing.assert_array_equal(
        window.read_valid(y, x, h, w), mask[:, rows, y : y + h, x : x + w]
    )
    np.testing.assert_array_equal(window.read(y, x, h, w, slice(1, 4, 2))[0],
                                  expected[1:4:2, rows, y : y + h, x : x + w])  # fmt: skip


def _series() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 9000, (5, 4, HEIGHT, WIDTH)).astype(np.int16)
    pixels[rng.random(pixels.shape) < 0.01] = -9999
    return pixels, (rng.random(pixels.shape) < 0.8) & (pixels != -9999)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cube in each layout: five dates, four bands, a mask for each band."""
    made = {}
    for layout in ("series", "balanced", "image"):
        made[layout] = tmp_path_factory.mktemp(layout) / "cube.zarr"
        bands = BANDSETS["s2_l2a"].bands[:4]
        dates = np.datetime64("2020-01-01") + np.arange(5)
        data = BandSetData("s2", "optical", bands, dates, valid_per_band=True)
        with create(made[layout], bandsets=[data], targets=[], layout=layout) as writer:
            writer.write("s2", 0, 0, *_series())
    return made


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("preload", [False, True])
def test_many_windows_are_the_windows_one_by_one(
    intact: Small, backend: Backend, preload: bool
) -> None:
    window = reader(intact, backend, preload=preload)
    y, x = np.array([0, 50, 92, 60]), np.array([60, 40, 0, 61])
    pixels, valid = window.read_many(y, x, 8, 9, dates=[0, 2])
    assert (pixels.shape, valid.shape) == ((4, 2, 13, 8, 9), (4, 2, 1, 8, 9))
    for i in range(4):
        one = window.read(int(y[i]), int(x[i]), 8, 9, dates=[0, 2])
        np.testing.assert_array_equal(pixels[i], one[0])
        np.testing.assert_array_equal(valid[i], one[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_bad_window_of_many(small: Small, backend: Backend) -> None:
    _flip(small.file(SHARD_KEY), 100, 0)
    window, y, x = reader(small, backend), np.array([64, 0, 70]), np.array([0, 0, 30])
    with pytest.raises(CubeError, match="corrupt chunk in"):
        window.read_many(y, x, 8, 8)
    failed: dict[int, CubeError] = {}
    pixels, valid = window.read_many(y, x, 8, 8, failed=failed)
    assert list(failed) == [1]
    assert SHARD_KEY in str(failed[1])
    assert not pixels[1].any()
    assert not valid[1].any()
    np.testing.assert_array_equal(pixels[2], small.pixels[:, :, 70:78, 30:38])


@pytest.mark.parametrize("dates", [[3], [-1], []])
def test_a_date_that_is_not_there(intact: Small, dates: list[int]) -> None:
    with pytest.raises(CubeError, match=r"no such dates in .*s2_l1c; expected numbers in 0\.\.3"):
        open_cube(intact.path).reader("s2_l1c").read(0, 0, 8, 8, dates)


def test_another_codec_is_read_through_tensorstore(intact: Small, tmp_path: Path) -> None:
    import zarr

    path = tmp_path / "plain.zarr"
    zarr.create_array(path, shape=(8, 8), chunks=(4, 4), dtype="int16")
    assert Shards.open(path) is None
    assert Shards.open(intact.path / "s2_l1c" / "pixels") is not None


def test_nodata_in_one_band_is_not_valid(intact: Small) -> None:
    cube = open_cube(intact.path)
    assert not cube.reader("s2_l1c").read(0, 0, 1, 1)[1][0, 0, 0, 0]


def test_bands_by_name_in_the_order_asked(intact: Small) -> None:
    bands = open_cube(intact.path).reader("s2_l1c", ["nir08", "B2", "rededge1"])
    assert bands.bands == ("B8A", "B02", "B05")
    pixels, _ = bands.read(0, 0, 9, 9)
    np.testing.assert_array_equal(pixels, intact.pixels[:, [8, 1, 4], :9, :9])


def test_missing_band_is_suggested(intact: Small) -> None:
    with pytest.raises(CubeError) as caught:
        open_cube(intact.path).reader("s2_l1c", ["B04", "redd"])
    line = str(caught.value)
    assert "no such band in" in line
    assert "small.zarr: s2_l1c" in line
    assert "found 'redd'; did you mean 'red'?" in line
    assert "\n" not in line


@pytest.mark.parametrize("window", [(-1, 0, 8, 8), (0, 63, 8, 8), (95, 0, 8, 8), (0, 0, 0, 8)])
@pytest.mark.parametrize("preload", [False, True])
def test_window_outside_the_cube(intact: Small, window: tuple[int, ...], preload: bool) -> None:
    with pytest.raises(CubeError, match=r"window outside the cube.*rows in 0\.\.100, columns in"):
        open_cube(intact.path).reader("s2_l1c", preload=preload).read(*window)


def test_preloaded_reads_are_views_that_cannot_be_written(intact: Small) -> None:
    loaded = open_cube(intact.path).reader("s2_l1c", preload=True)
    pixels, valid = loaded.read(0, 0, 8, 8)
    assert pixels.base is not None
    for array in (pixels, valid):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("preload", [False, True])
def test_pickles_as_a_path(intact: Small, preload: bool) -> None:
    first = open_cube(intact.path).reader("s2_l1c", ["red"], preload=preload)
    expected, _ = first.read(3, 4, 8, 8)
    blob = pickle.dumps(first)
    assert len(blob) < 6000
    np.testing.assert_array_equal(pickle.loads(blob).read(3, 4, 8, 8)[0], expected)


@pytest.mark.parametrize("preload", [False, True])
def test_threads_share_one_reader(intact: Small, preload: bool) -> None:
    shared = open_cube(intact.path).reader("s2_l1c", preload=preload)
    places = [(i % 90, i % 60) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for (y, x), (pixels, _) in zip(
            places, pool.map(lambda p: shared.read(*p, 8, 8), places), strict=True
        ):
            np.testing.assert_array_equal(pixels, intact.pixels[:, :, y : y + 8, x : x + 8])


def _flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("position", [0.001, 0.1, 0.3, 0.5, 0.7, 0.99, 0.9999])
def test_corrupt_chunk(small: Small, backend: Backend, position: float) -> None:
    path = small.file(SHARD_KEY)
    _flip(path, int(path.stat().st_size * position), 3)
    with pytest.raises(CubeError) as caught:
        reader(small, backend).read(0, 0, HEIGHT, WIDTH)
    assert str(caught.value).startswith(f"corrupt chunk in {small.path}: {SHARD_KEY}; expected SHA")


@pytest.mark.parametrize("backend", BACKENDS)
def test_corrupt_mask(small: Small, backend: Backend) -> None:
    key = "s2_l1c/valid/c/0/1/1"
    _flip(small.file(key), 20, 0)
    with pytest.raises(CubeError, match=f"corrupt chunk in .*{key}"):
        reader(small, backend).read(70, 64, 8, 6)


def test_damage_elsewhere_does_not_stop_a_read(small: Small) -> None:
    _flip(small.file(SHARD_KEY), 100, 0)
    pixels, _ = reader(small, "tensorstore").read(64, 0, 8, 8)
    np.testing.assert_array_equal(pixels, small.pixels[:, :, 64:72, :8])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("opened", [False, True], ids=["before opening", "after opening"])
def test_missing_chunk(small: Small, backend: Backend, opened: bool) -> None:
    window = reader(small, backend)
    if opened:
        window.read(64, 0, 8, 8)
    small.file(SHARD_KEY).unlink()
    with pytest.raises(CubeError, match=rf"missing chunk in .*{SHARD_KEY}; expected a file of \d+"):
        window.read(0, 0, 8, 8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [0, 1000], ids=["zero-byte", "cut off"])
def test_truncated_shard(small: Small, backend: Backend, size: int) -> None:
    path = small.file(SHARD_KEY)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CubeError, match=rf"truncated chunk in .*{SHARD_KEY}.*found {size} bytes"):
        reader(small, backend).read(0, 0, 8, 8)


def test_corrupt_target(small: Small) -> None:
    key = "targets/agb/c/0/0"
    _flip(small.file(key), 50, 1)
    with pytest.raises(CubeError, match=f"corrupt chunk in .*{key}"):
        open_cube(small.path).target("agb")


def test_shards_that_a_window_touches() -> None:
    window = [slice(0, 1), slice(0, 2), slice(60, 65), slice(64, 70)]
    assert shard_keys("a", (1, 2, 100, 70), (1, 2, 64, 64), window) == [
        "a/c/0/0/0/1",
        "a/c/0/0/1/1",
    ]


def test_an_empty_list_of_bands_is_not_all_bands(intact: Small):
    cube = open_cube(intact.path)
    with pytest.raises(CubeError, match=r"no band asked for in .*s2_l1c; expected some of B01"):
        cube.reader("s2_l1c", bands=[])
    assert Reader(cube.path, cube.bandsets["s2_l1c"], ()).bands == ()
