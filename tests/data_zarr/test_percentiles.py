"""Percentiles of a stream equal those of all pixels at once, for every stored type."""

import numpy as np
import pytest
import small_points
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cube import HEIGHT, WIDTH, create, optical, radar

from data_zarr import sample_path
from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.percentiles import band_percentiles, percentiles
from data_zarr.stats import band_stats

Q = (0, 1, 25, 50, 99, 100)
WINDOWS = np.array([[0, 0], [0, 32], [32, 0], [64, 32]])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32"]),
    windows=st.integers(1, 4),
    share=st.sampled_from([0.02, 0.5, 1.0]),
)
def test_a_stream_equals_numpy(seed, dtype, windows, share):
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        scale = 10.0 ** rng.integers(-20, 20)
        pixels = (scale * rng.standard_normal((windows, 2, 2, 4, 4))).astype(kind)
    else:
        ends = np.iinfo(kind)
        pixels = rng.integers(ends.min, ends.max, (windows, 2, 2, 4, 4), kind, endpoint=True)
    valid = rng.random((windows, 2, 1, 4, 4)) < share
    valid[0, 0, 0, 0, 0] = True
    q = np.tile(np.array(Q, np.float64), (2, 1))
    found, count = percentiles(lambda: zip(pixels, valid, strict=True), kind, 2, q)
    for c in range(2):
        x = pixels[:, :, c][valid[:, :, 0]].astype(np.float64)
        assert count[c] == len(x)
        np.testing.assert_allclose(found[c], np.percentile(x, Q), rtol=1e-12)


def pixels_of(intact, band):
    """Physical values of a band in WINDOWS, as float64."""
    masked = intact.valid & (intact.pixels != -9999).all(axis=1)
    parts = [
        intact.pixels[:, band, y : y + 32, x : x + 32][masked[:, y : y + 32, x : x + 32]]
        for y, x in WINDOWS
    ]
    return np.concatenate(parts) * 1e-4


def test_a_cube_in_physical_units(intact):
    cube = open_cube(intact.path)
    found = band_percentiles(cube, "s2_l1c", WINDOWS, 32, Q)
    assert found.shape == (13, 6)
    stats = band_stats(cube, "s2_l1c", WINDOWS, 32)
    for c in (0, 7, 12):
        np.testing.assert_allclose(found[c], np.percentile(pixels_of(intact, c), Q), rtol=1e-12)
    np.testing.assert_allclose(found[:, [0, -1]], np.stack([stats.min, stats.max], 1), rtol=1e-12)


def test_backscatter_in_two_passes(intact):
    found = band_percentiles(open_cube(intact.path), "s1_db", WINDOWS[:1], 32, Q)
    x = intact.radar[0, :, :32, :32].astype(np.float64)
    x = x[:, np.isfinite(x).all(axis=0)]
    np.testing.assert_allclose(found, np.percentile(x, Q, axis=1).T, rtol=1e-12)


def test_a_negative_scale_and_a_constant_band(tmp_path):
    values = np.full((3, 13, HEIGHT, WIDTH), 700, np.int16)
    values[:, 0] = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    with create(tmp_path / "c.zarr", bandsets=[optical(scale=-0.5)], targets=[]) as writer:
        writer.write("s2_l1c", 0, 0, values)
    cube = open_cube(tmp_path / "c.zarr")
    found = band_percentiles(cube, "s2_l1c", WINDOWS, 32, Q)
    seen = np.concatenate([values[:, 0, y : y + 32, x : x + 32].ravel() for y, x in WINDOWS])
    np.testing.assert_allclose(found[0], np.percentile(-0.5 * seen, Q), rtol=1e-12)
    np.testing.assert_array_equal(found[1], np.full(6, -350.0))
    assert band_stats(cube, "s2_l1c", WINDOWS, 32).std[1] == 0.0


def test_places_and_their_statistics(tmp_path):
    """All sites at once against NumPy: valid values of valid dates, and no others."""
    found = small_points.write(tmp_path / "p.zarr")
    cube = open_cube(tmp_path / "p.zarr")
    rows = np.stack([np.arange(small_points.S), np.zeros(small_points.S, int)], axis=1)
    there = found["valid"][..., 0] & ~np.isnat(small_points.own_dates())
    stats = band_stats(cube, "s2_l2a", rows, 1)
    percent = band_percentiles(cube, "s2_l2a", rows, 1, Q)
    for c in range(3):
        x = found["s2_l2a"][:, c, :, 0][there].astype(np.float64) * 1e-4
        assert stats.count[c] == x.size
        np.testing.assert_allclose([stats.mean[c], stats.std[c]], [x.mean(), x.std()], rtol=1e-12)
        np.testing.assert_allclose(percent[c], np.percentile(x, Q), rtol=1e-12)


def test_larger_pixels_are_read_on_their_own_grid(tmp_path):
    rng = np.random.default_rng(0)
    twenty = optical(name="twenty", factor=2)
    pixels = rng.integers(200, 5000, (3, 13, HEIGHT // 2, WIDTH // 2)).astype(np.int16)
    with create(tmp_path / "f.zarr", bandsets=[optical(), twenty], targets=[]) as writer:
        writer.write("s2_l1c", 0, 0, np.full((3, 13, HEIGHT, WIDTH), 500, np.int16))
        writer.write("twenty", 0, 0, pixels)
    cube = open_cube(tmp_path / "f.zarr")
    windows = np.array([[0, 0], [32, 32]])
    x = np.concatenate([pixels[:, 5, :16, :16].ravel(), pixels[:, 5, 16:32, 16:32].ravel()]) * 1e-4
    stats = band_stats(cube, "twenty", windows, 32)
    np.testing.assert_allclose([stats.mean[5], stats.std[5]], [x.mean(), x.std()], rtol=1e-12)
    found = band_percentiles(cube, "twenty", windows, 32, Q)
    np.testing.assert_allclose(found[5], np.percentile(x, Q), rtol=1e-12)


@pytest.mark.parametrize("name", ["s2_l1c", "s1_db"])
def test_a_real_cube_against_all_of_its_pixels(name):
    cube = open_cube(sample_path("spain_s1s2"))
    y, x = np.mgrid[0:512:128, 0:512:128]
    windows = np.stack([y.ravel(), x.ravel()], axis=1)
    stats = band_stats(cube, name, windows, 128)
    found = band_percentiles(cube, name, windows, 128)
    pixels, valid = cube.reader(name).read(0, 0, 512, 512)
    for c, band in enumerate(cube.bandsets[name].bands):
        known = pixels[:, c][valid[:, 0]].astype(np.float64) * band.scale + band.offset
        np.testing.assert_allclose(stats.mean[c], known.mean(), rtol=1e-12)
        np.testing.assert_allclose(stats.std[c], known.std(), rtol=1e-12)
        np.testing.assert_allclose(found[c], np.percentile(known, (1, 99)), rtol=1e-12)


def test_percentile_lines(tmp_path, intact):
    cube = open_cube(intact.path)
    with pytest.raises(CubeError, match=r"no such percentile in s1_db; expected 0 \.\. 100"):
        band_percentiles(cube, "s1_db", WINDOWS, 32, (50, 101))
    with pytest.raises(CubeError, match="no windows to take statistics of in band set 's1_db'"):
        band_percentiles(cube, "s1_db", WINDOWS[:0], 32)
    with create(tmp_path / "c.zarr", bandsets=[radar(dtype="float64")], targets=[]) as writer:
        writer.write("s1_db", 0, 0, np.full((1, 2, HEIGHT, WIDTH), np.nan))
    with pytest.raises(CubeError, match=r"percentiles of 64-bit numbers in .*found float64"):
        band_percentiles(open_cube(tmp_path / "c.zarr"), "s1_db", WINDOWS, 32)
    with create(tmp_path / "d.zarr", bandsets=[radar()], targets=[]) as writer:
        writer.write("s1_db", 0, 0, np.full((1, 2, HEIGHT, WIDTH), np.nan, np.float32))
    with pytest.raises(CubeError, match="no valid value in the training windows in band 'VV'"):
        band_percentiles(open_cube(tmp_path / "d.zarr"), "s1_db", WINDOWS, 32)
