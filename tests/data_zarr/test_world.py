"""The generator: its physics by property, its difficulty by measurement, on preset "small"."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.sampling import box_sums, integral, target_means, window_table
from data_zarr.schema import validate
from data_zarr.sensors import PLATFORMS
from data_zarr.splits import split, tile_folds
from data_zarr.world import (
    PRESETS,
    acquire,
    clouds,
    make_world,
    optics,
    oracle,
    phenology,
    radar,
    scene,
    timeline,
)
from data_zarr.world.fields import gaussian_field, stream
from data_zarr.world.scene import AGB_MAX, STATE, Terrain, agb, decode, terrain_of
from data_zarr.world.writer import bands_of

SEEDS = (0, 1)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    return {s: make_world(root / f"{s}.zarr", seed=s, preset="small") for s in SEEDS}


def r2(observed, predicted):
    return 1 - ((observed - predicted) ** 2).sum() / ((observed - observed.mean()) ** 2).sum()


def place(**kwargs):
    """One pixel of a plain forest, with some quantities changed."""
    u = dict.fromkeys(STATE, np.zeros(1, np.float32))
    state = decode(np.stack([u[n] for n in STATE]))
    return state._replace(**{k: np.array([v], np.float32) for k, v in kwargs.items()})


# --- determinism and form -----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(worlds, tmp_path):
    again = make_world(tmp_path / "again.zarr", seed=0, preset="small")
    assert again.bandsets.keys() == worlds[0].bandsets.keys()
    for name in again.bandsets:
        for a, b in zip(
            again.reader(name).read(0, 0, 128, 128),
            worlds[0].reader(name).read(0, 0, 128, 128),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(again.target("agb"), worlds[0].target("agb"))


def test_another_seed_gives_another_world(worlds):
    assert abs(np.corrcoef(*(w.target("agb").ravel() for w in worlds.values()))[0, 1]) < 0.5
    dates = [timeline(s, PRESETS["small"], "s2_l2a") for s in SEEDS]
    assert (dates[0] != dates[1]).any()


def test_a_purpose_does_not_disturb_another():
    a = stream(0, "speckle", 1).random(4)
    stream(0, "clouds", 1).random(100)
    np.testing.assert_array_equal(a, stream(0, "speckle", 1).random(4))
    assert (a != stream(0, "speckle", 2).random(4)).all()


def test_it_is_a_valid_cube_with_the_announced_content(worlds):
    cube = worlds[0]
    report = validate(cube, deep=True)
    assert report.ok, [r for r in report.rows if r.level == "error"]
    assert {n: b.shape[:2] for n, b in cube.bandsets.items()} == {
        "s2_l2a": (5, 10),
        "landsat_sr6": (2, 6),
        "s1_db": (6, 2),
        "dem": (1, 1),
    }
    assert (cube.targets["agb"].unit, cube.targets["agb"].bounds) == ("Mg/ha", (0.0, 500.0))
    assert cube.targets["agb_trend"].unit == "Mg/ha/year"
    assert len(np.unique(cube.bandsets["s2_l2a"].platform)) == 2
    assert len(np.unique(cube.bandsets["landsat_sr6"].platform)) == 2
    assert not set(cube.bandsets["s2_l2a"].dates) & set(cube.bandsets["landsat_sr6"].dates)
    assert cube.grid.gsd == pytest.approx(10.0, rel=1e-3)


def test_the_cube_does_not_hold_the_answer(worlds):
    text = json.dumps({k: str(v) for k, v in worlds[0].attrs.items()})
    assert not any(f'"{n}"' in text for n in STATE)
    np.testing.assert_array_equal(worlds[0].target("agb"), scene(0, "small").agb)


def test_size_and_years_replace_those_of_the_preset(tmp_path):
    cube = make_world(tmp_path / "w.zarr", seed=3, preset="small", size=50, years=4.0)
    assert (cube.grid.height, cube.grid.width) == (50, 50)
    dates = cube.bandsets["s2_l2a"].dates
    days = (dates[-1] - dates[0]) / np.timedelta64(1, "D")
    assert 2.4 * 365 < days < 4 * 365
    assert oracle(cube).shape == (50, 50)


def test_lines_of_bad_requests(tmp_path, intact):
    with pytest.raises(CubeError) as e:
        make_world(tmp_path / "w.zarr", seed=0, preset="tiny")
    assert str(e.value) == "no such preset; expected one of small, full; found tiny"
    for bad in ({"seed": -1}, {"seed": 0, "size": 4}, {"seed": 0, "years": 0.0}):
        with pytest.raises(CubeError, match="impossible world; expected seed >= 0, size >= 16"):
            make_world(tmp_path / "w.zarr", **bad)
    with pytest.raises(CubeError, match="the oracle knows synthetic worlds only in"):
        oracle(open_cube(intact.path))


def test_an_existing_cube_is_replaced_only_on_demand(tmp_path):
    path = tmp_path / "w.zarr"
    make_world(path, seed=0, size=32)
    with pytest.raises(CubeError, match="cube exists"):
        make_world(path, seed=1, size=32)
    cube = make_world(path, seed=1, size=32, overwrite=True)
    assert cube.attrs["world"]["seed"] == 1


# --- fields, law, phenology ---------------------------------------------------------------------


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
    evergreen, deciduous = np.float32(1.0), np.float32(0.0)
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


# --- sensors ------------------------------------------------------------------------------------


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


def test_landsat_pixels_are_coarse_and_landsat_7_has_gaps(worlds):
    cube = worlds[0]
    pixels, valid = cube.reader("landsat_sr6").read(0, 0, 126, 126)
    blocks = pixels.reshape(2, 6, 42, 3, 42, 3)
    assert (blocks == blocks[:, :, :, :1, :, :1]).all()
    gaps = acquire.scan_gaps(128)[:126, :126]
    assert 0.05 < gaps.mean() < 0.3
    names = cube.bandsets["landsat_sr6"].platform
    assert not valid[1, 0][gaps].any()  # dates alternate: the second is Landsat 7
    assert names.tolist() == [PLATFORMS.index("landsat-8"), PLATFORMS.index("landsat-7")]
    assert valid[0, 0][gaps].any()


@pytest.mark.parametrize("size", [7, 8])
def test_coarse_keeps_block_means_at_the_edge(size):
    x = np.random.default_rng(0).random((1, size, size)).astype(np.float32)
    found = acquire.coarse(x, 3)
    assert found.shape == x.shape
    np.testing.assert_allclose(found[0, :3, :3], x[0, :3, :3].mean(), rtol=1e-6)
    np.testing.assert_allclose(found[0, 6:, 6:], x[0, 6:, 6:].mean(), rtol=1e-6)


# --- difficulty, measured -----------------------------------------------------------------------


class Input(NamedTuple):
    """What a model may see: some channels and dates of a band set."""

    bandset: str
    channels: slice = slice(None)
    dates: slice = slice(None)


ALL_OPTICAL = (Input("s2_l2a"), Input("landsat_sr6"))
RGB = tuple(i._replace(channels=slice(0, 3)) for i in ALL_OPTICAL)
SAR = (Input("s1_db"),)
ALL = (*ALL_OPTICAL, *SAR, Input("dem"))


def features(cube, inputs, table, spread=True):
    """Mean (and standard deviation) over valid pixels of a window; NaN where a date is hidden."""
    size, columns = table.size, []
    for name, channels, dates in inputs:
        pixels, valid = cube.reader(name).read(0, 0, cube.grid.height, cube.grid.width)
        for date, mask in zip(pixels[dates, channels], valid[dates, 0], strict=True):
            n = box_sums(integral(mask), table.y, table.x, size, size)
            for band in date:
                x = np.where(mask, band, 0).astype(np.float64)
                mean, square = (
                    box_sums(integral(v), table.y, table.x, size, size) / np.maximum(n, 1)
                    for v in (x, x * x)
                )
                std = np.sqrt(np.maximum(square - mean**2, 0))
                columns += [
                    np.where(n >= 8, v, np.nan) for v in ((mean, std) if spread else (mean,))
                ]
    return np.stack(columns, 1)


def ridge():
    return make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), RidgeCV(np.logspace(-1, 4, 11))
    )


def forest():
    return make_pipeline(
        SimpleImputer(strategy="median"),
        RandomForestRegressor(40, min_samples_leaf=3, max_features=0.3, random_state=0, n_jobs=2),
    )


class Bench:
    """Scores on spatial folds of a world, as shares of the oracle's R2."""

    def __init__(self, cube):
        size = cube.grid.height
        self.cube = cube
        self.train, self.test = window_table(size, size, 8, 4), window_table(size, size, 8, 8)
        folds = tile_folds(size, size, block=32, folds=4)
        self.splits = [split(self.train, self.test, folds, k) for k in range(4)]
        truth = cube.target("agb")
        self.y, self.y_test = (target_means(truth, t, 0.5)[0] for t in (self.train, self.test))
        self.oracle = r2(self.y_test, target_means(oracle(cube), self.test, 0.5)[0])

    def score(self, make, inputs, spread=True):
        x, x_test = (features(self.cube, inputs, t, spread) for t in (self.train, self.test))
        predicted = np.full(len(self.test), np.nan)
        for s in self.splits:
            seen = np.isfinite(x[s.train]).any(0)
            model = make().fit(x[s.train][:, seen], self.y[s.train])
            predicted[s.test] = model.predict(x_test[s.test][:, seen])
        return r2(self.y_test, predicted) / self.oracle


@pytest.fixture(scope="session")
def benches(worlds):
    return {s: Bench(w) for s, w in worlds.items()}


def test_the_first_three_optical_bands_are_rgb(worlds):
    for bandset in ("s2_l2a", "landsat_sr6"):
        names = [b.common_name for b in worlds[0].bandsets[bandset].bands[:3]]
        assert names == ["blue", "green", "red"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_oracle_knows_most_but_not_all(benches, seed):
    assert 0.85 <= benches[seed].oracle <= 0.97


@pytest.mark.parametrize("seed", SEEDS)
def test_one_optical_date_is_not_enough(benches, seed):
    bench = benches[seed]
    scores = [
        bench.score(ridge, [one._replace(dates=slice(i, i + 1))])
        for one in ALL_OPTICAL
        for i in range(bench.cube.bandsets[one.bandset].shape[0])
    ]
    assert max(scores) <= 0.75
    assert max(scores) > 0.3  # hard, not hopeless


@pytest.mark.parametrize("seed", SEEDS)
def test_sensors_pay_and_rgb_alone_does_not(benches, seed):
    bench = benches[seed]
    # Means only: the noise of as many standard deviations drowns a forest of 700 windows.
    rgb, optical, sar, everything = (
        bench.score(forest, i, spread=False) for i in (RGB, ALL_OPTICAL, SAR, ALL)
    )
    assert max(rgb, bench.score(forest, RGB), bench.score(ridge, RGB)) <= 0.5
    assert rgb < min(optical, sar)
    assert max(optical, sar) < everything


@pytest.mark.slow
def test_the_full_world_is_learnable(tmp_path):
    """A small network on window features of some 3000 windows comes close to the oracle."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPRegressor

    cube = make_world(tmp_path / "full.zarr", seed=0, preset="full")
    table = window_table(512, 512, 8, 8)
    held = split(table, table, tile_folds(512, 512, block=64, folds=4), 0)
    y = target_means(cube.target("agb"), table, 0.5)[0]
    reference = r2(y[held.test], target_means(oracle(cube), table, 0.5)[0][held.test])
    assert 0.85 <= reference <= 0.97
    x = features(cube, ALL, table)
    x = x[:, np.isfinite(x[held.train]).any(0)]
    network = MLPRegressor(
        hidden_layer_sizes=(64, 32), alpha=3.0, max_iter=150, early_stopping=True, random_state=0
    )
    model = TransformedTargetRegressor(
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), network),
        transformer=StandardScaler(),
    ).fit(x[held.train], y[held.train])
    assert len(held.train) < 3500
    assert r2(y[held.test], model.predict(x[held.test])) >= 0.85 * reference
