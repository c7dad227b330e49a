import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cube import HEIGHT, WIDTH, create

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.stats import band_stats, merge

ALL = np.array([[0, 0], [0, 32], [32, 0], [32, 32], [64, 0], [64, 32]])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    windows=st.integers(1, 6),
    centre=st.sampled_from([0.0, 1e6]),
    per_band=st.booleans(),
)
def test_a_stream_equals_the_whole(seed, windows, centre, per_band):
    rng = np.random.default_rng(seed)
    pixels = centre + rng.standard_normal((windows, 2, 3, 4, 4))
    valid = rng.random((windows, 2, 3 if per_band else 1, 4, 4)) < rng.choice([0.0, 0.3, 1.0])
    valid[0, 0, :, 0, 0] = True
    hidden = np.where(np.broadcast_to(valid, pixels.shape), pixels, rng.choice([np.nan, np.inf]))
    found = merge(zip(hidden, valid, strict=True))
    mask = np.broadcast_to(valid, pixels.shape)
    for c in range(3):
        x = pixels[:, :, c][mask[:, :, c]]
        assert found.count[c] == len(x)
        np.testing.assert_allclose(found.mean[c], x.mean(), rtol=1e-12, atol=1e-12)
        # A sum of squares would lose this: at 1e6 the variance is 1e-12 of the square.
        np.testing.assert_allclose(found.std[c], x.std(), rtol=1e-6, atol=1e-9)
        assert (found.min[c], found.max[c]) == (x.min(), x.max())


def test_order_of_windows_does_not_matter():
    rng = np.random.default_rng(0)
    stream = [(rng.random((1, 1, 3, 3)), rng.random((1, 1, 3, 3)) < 0.5) for _ in range(5)]
    a, b = merge(stream), merge(stream[::-1])
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-14)
    np.testing.assert_allclose(a.std, b.std, rtol=1e-13)


def test_statistics_of_a_cube_are_physical_and_of_valid_pixels(intact):
    cube = open_cube(intact.path)
    found = band_stats(cube, "s2_l1c", ALL, 32)
    inside = (slice(None), slice(None), slice(0, 96), slice(0, 64))
    bands = cube.bandsets["s2_l1c"].bands
    valid = np.broadcast_to(intact.valid[:, None], intact.pixels.shape).copy()
    # One mask serves all bands: a pixel with nodata in one band is lost in all.
    valid &= (intact.pixels != -9999).all(axis=1, keepdims=True)
    for c, band in enumerate(bands):
        x = intact.pixels[inside][:, c][valid[inside][:, c]] * band.scale + band.offset
        assert found.count[c] == x.size
        np.testing.assert_allclose(found.mean[c], x.mean(), rtol=1e-12)
        np.testing.assert_allclose(found.std[c], x.std(), rtol=1e-12)
        np.testing.assert_allclose([found.min[c], found.max[c]], [x.min(), x.max()], rtol=1e-12)


def test_held_out_pixels_do_not_enter(intact):
    cube = open_cube(intact.path)
    one = band_stats(cube, "s1_db", ALL[:1], 32)
    x = intact.radar[0, :, :32, :32].astype(np.float64)
    # One mask for all bands here too: the NaN of VH hides its VV.
    x = x[:, np.isfinite(x).all(axis=0)]
    np.testing.assert_allclose(one.mean, x.mean(axis=1), rtol=1e-12)
    assert one.count.tolist() == [32 * 32 - 1, 32 * 32 - 1]


def test_a_band_without_valid_values_line(tmp_path):
    path = tmp_path / "blind.zarr"
    with create(path) as writer:
        writer.write("s2_l1c", 0, 0, np.full((3, 13, HEIGHT, WIDTH), -9999, np.int16))
        writer.write("s1_db", 0, 0, np.zeros((1, 2, HEIGHT, WIDTH), np.float32))
        writer.write_target("agb", 0, 0, np.zeros((HEIGHT, WIDTH), np.float32))
    with pytest.raises(CubeError) as e:
        band_stats(open_cube(path), "s2_l1c", ALL, 32)
    assert str(e.value) == (
        "a band has no valid value in the training windows in band 'B01' of 's2_l1c'; "
        "expected at least one; found none"
    )


def test_no_windows_line(intact):
    with pytest.raises(CubeError, match="no windows to take statistics of in band set 's1_db'"):
        band_stats(open_cube(intact.path), "s1_db", ALL[:0], 32)
