"""Fields, law, seasons and sensors of the synthetic world, by property."""

import numpy as np
import pytest

from data_zarr.world import PRESETS, acquire, clouds, optics, phenology, radar, scene
from data_zarr.world.fields import gaussian_field, stream
from data_zarr.world.scene import AGB_MAX, STATE, Terrain, agb, decode, terrain_of
from data_zarr.world.writer import bands_of


def place(**kwargs):
    """One pixel of a plain forest, with some quantities changed."""
    u = dict.fromkeys(STATE, np.zeros(1, np.float32))
    state = decode(np.stack([u[n] for n in STATE]))
    return state._replace(**{k: np.array([v], np.float32) for k, v in kwargs.items()})


def test_fields_are_standard_normal_and_smooth():
    fields = np.stack([gaussian_field(stream(s, "t"), 96, 6.0) for s in range(24)])
    assert abs(fields.mean()) < 0.05
    assert fields.std() == pytest.approx(1.0, abs=0.05)
    near = np.corrcoef(fields[:, :, 1:].ravel(), fields[:, :, :-1].ravel())[0, 1]
    far = np.corrcoef(fields[:, :, 48:].ravel(), fields[:, :, :-48].ravel())[0, 1]
    assert near > 0.95
    assert abs(far) < 0.12


def test_the_law_by_hand():
    # 4 + 1.9 * 0.5 * 16 ** 1.5 * (1.2 - 0.4 * 0.5)
    stand = place(cover=0.5, height=16.0, evergreen=0.5, loss=0.0)
    assert agb(stand)[0] == pytest.approx(4.0 + 1.9 * 0.5 * 64.0 * 1.0)
    assert agb(place(cover=1.0, height=60.0, evergreen=0.0))[0] == AGB_MAX


def test_loss_is_a_trend_in_a_part_of_the_scene():
    truth = scene(1, "small")
    share = (truth.agb_trend < 0).mean()
    assert 0.1 < share < 0.6
    assert (truth.agb_trend <= 0).all()
    np.testing.assert_array_equal(truth.agb_trend[truth.state.loss == 0], 0.0)
    assert truth.agb.min() >= 0
    assert truth.agb.max() <= AGB_MAX
    assert truth.agb.std() > 40


def test_seasons():
    evergreen, deciduous = np.ones(1, np.float32), np.zeros(1, np.float32)
    assert phenology.leaf_share(15.0, deciduous) < 0.2
    assert phenology.leaf_share(200.0, deciduous) > 0.95
    assert phenology.leaf_share(15.0, evergreen) == pytest.approx(1.0)
    assert phenology.wetness(25.0) > phenology.wetness(208.0)
    assert phenology.grass_share(100.0) > phenology.leaf_share(100.0, deciduous)
    # Noon sun of midsummer in Ljubljana's latitude stands 67.5 degrees high, in the south.
    zenith, azimuth = phenology.sun(172.0, hour=12.0)
    assert np.rad2deg(zenith) == pytest.approx(46.0 - 23.45, abs=0.1)
    assert np.rad2deg(azimuth) == pytest.approx(180.0, abs=0.1)
    assert np.rad2deg(phenology.sun(172.0, hour=9.0)[1]) < 180.0


@pytest.mark.parametrize(
    ("date", "doy"), [("2020-01-01", 1.0), ("2020-12-31", 366.0), ("2019-03-01T12", 60.5)]
)
def test_day_of_year(date, doy):
    assert phenology.day_of_year(np.datetime64(date, "s")) == doy


def spectra(bandset):
    bands = bands_of(bandset)
    wavelength, fwhm = (np.array([getattr(b, k) for b in bands]) for k in ("wavelength", "fwhm"))
    return {b.common_name: i for i, b in enumerate(bands)}, optics.spectra_at(wavelength, fwhm)


@pytest.mark.parametrize("bandset", ["s2_l2a", "landsat_sr6"])
def test_reflectances_look_like_land(bandset):
    at, s = spectra(bandset)
    forest = optics.reflectance(place(cover=0.95), 200.0, 0.0, s)[:, 0]
    bare = optics.reflectance(place(cover=0.0, grass=0.0), 200.0, 0.0, s)[:, 0]
    for x in (forest, bare):
        assert (x > 0).all()
        assert (x < 0.6).all()
    assert forest[at["nir08"]] > 4 * forest[at["red"]]
    assert bare[at["nir08"]] < 2 * bare[at["red"]]
    assert forest[at["swir16"]] < bare[at["swir16"]]


def test_two_sensors_see_slightly_different_bands():
    (at_a, a), (at_b, b) = spectra("s2_l2a"), spectra("landsat_sr6")
    for common in ("blue", "green", "red", "nir08", "swir16", "swir22"):
        x, y = (optics.reflectance(place(), 200.0, 0.0, s)[:, 0] for s in (a, b))
        assert x[at_a[common]] == pytest.approx(y[at_b[common]], rel=0.15)
    assert x[at_a["red"]] != y[at_b["red"]]


def test_every_single_observation_saturates():
    at, s = spectra("s2_l2a")
    heights = np.array([6.0, 12.0, 24.0, 36.0], np.float32)
    stands = [place(cover=0.8, height=h) for h in heights]
    mass = np.array([agb(x)[0] for x in stands])
    swir = np.array([optics.reflectance(x, 200.0, 0.0, s)[at["swir16"], 0] for x in stands])
    vh = np.array([radar.backscatter(x, 200.0, 0.0, 0.0)[1, 0] for x in stands])
    red = np.array([optics.reflectance(x, 200.0, 0.0, s)[at["red"], 0] for x in stands])
    for x in (-swir, vh):
        slope = np.diff(x) / np.diff(mass)
        assert (slope > 0).all()
        assert slope[0] > 4 * slope[-1]
    assert np.ptp(red) < 0.2 * np.ptp(swir)


def test_radar_levels_and_water():
    dry, wet = (
        radar.backscatter(place(cover=0.0, moisture=m), 200.0, 0.0, 0.0) for m in (0.0, 1.0)
    )
    forest = radar.decibel(radar.backscatter(place(cover=1.0, height=30.0), 200.0, 0.0, 0.0))
    assert (wet > dry).all()
    assert -10 < forest[0, 0] < -7
    assert -15 < forest[1, 0] < -12
    assert radar.decibel(dry)[1, 0] < forest[1, 0] - 5


def test_speckle_is_multiplicative_with_the_stated_looks():
    x = radar.speckle(stream(0, "t"), (200_000,))
    assert x.mean() == pytest.approx(1.0, abs=0.01)
    assert x.var() == pytest.approx(1 / radar.LOOKS, rel=0.03)


def test_slopes_that_face_the_light_are_brighter():
    slope = np.full(2, 0.3)
    east_west = Terrain(np.zeros(2), slope, np.deg2rad([90.0, 270.0]))
    morning = optics.illumination(east_west, *phenology.sun(172.0, hour=8.0))
    assert morning[0] > 1 > morning[1]
    gain = radar.terrain_gain(east_west)
    assert gain[1] > 1 > gain[0]
    flat = Terrain(np.zeros(1), np.zeros(1), np.zeros(1))
    assert optics.illumination(flat, 0.7, 2.0)[0] == pytest.approx(1.0)
    assert radar.terrain_gain(flat)[0] == pytest.approx(1.0)


def test_aspect_points_downhill():
    y, x = np.mgrid[0:5, 0:5] * 10.0
    # Row 0 is the north: height that grows with the row falls towards the north.
    for elevation, degrees in ((y, 0.0), (-x, 90.0), (-y, 180.0), (x, 270.0)):
        terrain = terrain_of(elevation, 10.0)
        assert np.rad2deg(terrain.aspect[2, 2]) % 360 == pytest.approx(degrees)
        assert np.rad2deg(terrain.slope[2, 2]) == pytest.approx(45.0, abs=1e-3)


def test_clouds_shadows_and_the_imperfect_mask():
    sky = clouds.sky(stream(0, "t"), 128, cover=0.3, azimuth=np.deg2rad(150.0), haze=0.0)
    assert (sky.opacity[sky.valid] < 0.15).all()
    assert sky.opacity[sky.valid].max() > 0.02  # thin haze is missed
    assert 0.3 < 1 - sky.valid.mean() < 0.9
    # The sun stands in the south-east: shadows fall to the north-west.
    moved = [
        np.corrcoef(
            sky.opacity[20:-20, 20:-20].ravel(),
            np.roll(sky.shade, shift, (0, 1))[20:-20, 20:-20].ravel(),
        )[0, 1]
        for shift in ((8, 4), (-8, -4))
    ]
    assert moved[0] == pytest.approx(1.0, abs=1e-6)
    assert moved[1] < 0.95
    seen = clouds.seen_through(np.full((2, 128, 128), 0.2, np.float32), sky, np.array([0.5, 0.8]))
    assert seen[:, sky.opacity > 0.95].mean() > 0.5
    assert seen[:, (sky.shade > 0.9) & (sky.opacity < 0.05)].mean() < 0.12


def test_an_overcast_date_has_no_valid_pixel():
    sky = clouds.sky(stream(0, "t"), 64, cover=1.0, azimuth=2.5, haze=0.0)
    assert not sky.valid.any()
    world = PRESETS["full"]
    assert [acquire.cloud_cover(0, world, b, i) for b, i in world.overcast] == [1.0]


@pytest.mark.parametrize("size", [7, 8])
def test_coarse_keeps_block_means_at_the_edge(size):
    x = np.random.default_rng(0).random((1, size, size)).astype(np.float32)
    found = acquire.coarse(x, 3)
    assert found.shape == x.shape
    np.testing.assert_allclose(found[0, :3, :3], x[0, :3, :3].mean(), rtol=1e-6)
    np.testing.assert_allclose(found[0, 6:, 6:], x[0, 6:, 6:].mean(), rtol=1e-6)
