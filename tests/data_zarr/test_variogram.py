"""The semivariogram: by hand, against a simulated field of known range, and in degrees."""

import numpy as np
import pytest
from scipy.fft import irfft2, rfft2

from data_zarr.errors import CubeError
from data_zarr.grid import Grid
from data_zarr.splits.splitters import _Places
from data_zarr.variogram import fit, variogram


def metric(height, width, step=10.0):
    return Grid.from_epsg(32633, (step, 0.0, 5e5, 0.0, -step, 5e6), height, width)


def field(height, width, reach, model, seed):
    """A Gaussian field of a given covariance, exact on a torus twice as large (circulant)."""
    y, x = np.meshgrid(np.arange(2 * height), np.arange(2 * width), indexing="ij")
    h = np.hypot(np.minimum(y, 2 * height - y), np.minimum(x, 2 * width - x)) / reach
    covariance = np.exp(-3 * h)
    if model == "spherical":
        covariance = np.where(h < 1, 1 - 1.5 * h + 0.5 * h**3, 0.0)
    spectrum = np.sqrt(np.maximum(rfft2(covariance).real, 0))
    noise = np.random.default_rng(seed).standard_normal((2 * height, 2 * width))
    return irfft2(rfft2(noise) * spectrum, s=noise.shape)[:height, :width]


def test_by_hand():
    """Four values 10 m apart on a line: 1, 3, 2, 6.

    h=10: (4 + 1 + 16) / (2*3) = 3.5;  h=20: (1 + 9) / (2*2) = 2.5;  h=30: 25 / 2 = 12.5
    """
    line = np.array([[1.0, 3.0, 2.0, 6.0]])
    found = variogram(line, metric(1, 4), max_metres=35.0, bins=24)
    np.testing.assert_allclose(found.distance, [10, 20, 30])
    np.testing.assert_allclose(found.gamma, [3.5, 2.5, 12.5])
    assert found.pairs.tolist() == [3, 2, 1]
    # Classes: the first pair of lags differ always, so gamma is a half.
    classes = variogram(line, metric(1, 4), max_metres=35.0, categorical=True)
    np.testing.assert_allclose(classes.gamma, 0.5)


def test_unknown_values_make_no_pairs():
    line = np.array([[1.0, np.nan, 2.0, 6.0, 7.0]])
    found = variogram(line, metric(1, 5), max_metres=15.0, bins=4)
    assert found.pairs.tolist() == [2]
    np.testing.assert_allclose(found.gamma, [(16 + 1) / 4])


@pytest.mark.parametrize("model", ["spherical", "exponential"])
def test_the_model_is_found_again(model):
    h = np.geomspace(10, 3000, 30)
    ratio = h / 700
    shape = 1 - np.exp(-3 * ratio)
    if model == "spherical":
        shape = np.where(ratio < 1, 1.5 * ratio - 0.5 * ratio**3, 1.0)
    found = fit(h, 0.4 + 2.0 * shape, np.full(30, 100), model)
    assert (found.found, found.model) == ("range", model)
    assert found.range_metres == pytest.approx(700, rel=1e-3)
    assert (found.nugget, found.sill) == (pytest.approx(0.4, rel=1e-2), pytest.approx(2, rel=1e-2))
    np.testing.assert_allclose(found(h), 0.4 + 2.0 * shape, rtol=1e-3)


@pytest.mark.parametrize("model", ["spherical", "exponential"])
def test_the_range_of_a_simulated_field(model):
    """Within 20 % for the mean of six fields 20 ranges wide, though single fields vary more."""
    grid = metric(400, 400)
    ranges = [
        variogram(field(400, 400, 20, model, s), grid, model=model, max_metres=800.0).range_metres
        for s in range(6)
    ]
    assert np.mean(ranges) == pytest.approx(200, rel=0.2)
    assert max(ranges) < 2 * min(ranges)


def test_degrees_and_metres_agree():
    """The same field on 10 m pixels, once in UTM and once in degrees at 60 north."""
    z = field(300, 300, 20, "spherical", 1)
    step = 10 / 111_412, 10 / 55_800
    degrees = Grid.from_epsg(4326, (step[1], 0.0, 15.0, 0.0, -step[0], 60.01), 300, 300)
    a = variogram(z, metric(300, 300), max_metres=800.0)
    b = variogram(z, degrees, max_metres=800.0)
    assert b.range_metres == pytest.approx(a.range_metres, rel=0.1)


def test_places_few_and_many():
    z = field(300, 300, 30, "spherical", 2)
    rng = np.random.default_rng(0)
    grid = Grid.from_epsg(32633, (10.0, 0.0, 5e5, 0.0, -10.0, 5e6), 300, 300)
    found = []
    for n in (1500, 6000):
        row, col = rng.integers(0, 300, n), rng.integers(0, 300, n)
        lon, lat = grid.lonlat(row + 0.5, col + 0.5)
        places = _Places(np.asarray(lon), np.asarray(lat))
        found.append(variogram(z[row, col], places, np.arange(n) + 0.5, np.full(n, 0.5)))
    whole = variogram(z, grid)
    for f in found:
        assert f.range_metres == pytest.approx(whole.range_metres, rel=0.25)


def test_white_noise_has_a_nugget_alone_and_a_slope_no_sill():
    noise = np.random.default_rng(0).standard_normal((40, 40))
    found = variogram(noise, metric(40, 40))
    assert found.nugget + found.sill == pytest.approx(1, abs=0.1)
    assert found.range_metres <= 30 or found.found == "nugget only"
    flat = variogram(np.ones((5, 5)), metric(5, 5))
    assert (flat.found, flat.range_metres) == ("nugget only", 0.0)
    slope = variogram(np.add.outer(np.arange(40.0), np.zeros(40)), metric(40, 40))
    assert (slope.found, slope.range_metres) == ("no sill", np.inf)


def test_the_same_seed_gives_the_same_range():
    z = field(100, 100, 10, "spherical", 0)
    a, b = (variogram(z, metric(100, 100), seed=3) for _ in range(2))
    assert a.range_metres == b.range_metres


def test_too_little_to_say():
    with pytest.raises(CubeError, match="no variogram; expected at least three known values"):
        variogram(np.full((3, 3), np.nan), metric(3, 3))
