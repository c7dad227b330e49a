"""From observations to what pretrained encoders read: months, units, places, and real scenes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandsets import garbage, observation
from filled import FAST
from references import galileo_arrays, galileo_case, presto_arrays

from rsvlm_jax.config import (
    BandSetSpec,
    BandSpec,
    ConfigError,
    DataError,
    GalileoConfig,
    PrestoConfig,
)
from rsvlm_jax.data.batch import Observation, to_days
from rsvlm_jax.interop import encoders
from rsvlm_jax.models.embed import embed
from rsvlm_jax.models.galileo_inputs import SCALES, galileo_inputs
from rsvlm_jax.models.monthly import series
from rsvlm_jax.models.months import month_count, month_table
from rsvlm_jax.models.presto_inputs import presto_inputs
from rsvlm_jax.models.quantities import readings

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
COMMON = ("blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08",
          "swir16", "swir22")  # fmt: skip
S2 = BandSetSpec(
    "s2_l1c", "optical",
    tuple(BandSpec(n, c, scale=1e-4) for n, c in zip(S2_BANDS, COMMON, strict=True)),
)  # fmt: skip
S1 = BandSetSpec("s1_db", "sar", (BandSpec("VV", unit="dB"), BandSpec("VH", unit="dB")))
ERA5 = BandSetSpec("era5", "covariate", (BandSpec("t2m", unit="K"), BandSpec("tp", unit="m")))
SRTM = BandSetSpec(
    "srtm", "covariate",
    (BandSpec("elevation", unit="m"), BandSpec("slope", unit="degree")), static=True,
)  # fmt: skip
ALL = (S2, S1, ERA5, SRTM)


def days(*dates: str) -> jnp.ndarray:
    return jnp.asarray(to_days(np.asarray(dates, "datetime64[s]")))


def middle_of(months: np.ndarray, *, year: int = 2001) -> jnp.ndarray:
    """[B,T] dates in the middle of months that follow each other."""
    years = year + (np.diff(months, axis=1, prepend=months[:, :1]) < 0).cumsum(axis=1)
    since = (years - 1970) * 12 + months
    return jnp.asarray(to_days(since.astype("datetime64[M]") + np.timedelta64(14, "D")))


def test_months_are_those_of_the_calendar():
    day = np.arange("1899-12-25", "2104-03-05", dtype="datetime64[D]")
    wanted = (day.astype("datetime64[M]") - np.datetime64("2000-01", "M")).astype(int)
    made = jax.jit(month_count)(jnp.asarray(to_days(day)))
    assert np.array_equal(made, wanted)
    assert month_count(days("2001-02-28T23:59:00")).item() == 13
    assert month_count(jnp.asarray([jnp.nan])).item() == 0
    np.testing.assert_allclose(month_table(4)[3], [1, 1, 0, 0], atol=1e-7)


def radar(values: list[float], dates: jnp.ndarray, **given: Any) -> Observation:
    """One pixel, one sample; VV and VH alike."""
    x = np.repeat(np.asarray(values, np.float32)[None, :, None, None, None], 2, axis=2)
    return observation(S1, x, date=dates[None], **given)


def steps_of(obs: Observation, steps: int, by: Any = "month") -> tuple[list, list, list]:
    made = series({"s1_db": obs}, (S1,), steps, by)
    there = made.valid["VV"][0, :, 0, 0].tolist()
    values = np.where(there, made.value["VV"][0, :, 0, 0], np.nan).round(3).tolist()
    return values, there, made.month[0].tolist()


def test_steps_are_calendar_months_from_the_first_with_a_value():
    dates = days("2003-11-28", "2004-01-03", "2004-01-19", "2004-02-01")
    values, there, month = steps_of(radar([-10, -12, -14, -9], dates), 5)
    assert there == [True, False, True, True, False]
    assert [values[i] for i in (0, 2, 3)] == [-10, -13, -9]
    assert month == [10, 11, 0, 1, 2]


def test_a_longer_series_is_cut_at_its_beginning():
    dates = days("2003-11-28", "2004-01-03", "2004-01-19", "2004-02-01")
    values, there, month = steps_of(radar([-10, -12, -14, -9], dates), 2)
    assert (values, there, month) == ([-13, -9], [True, True], [0, 1])


def test_dates_without_a_valid_value_move_no_month():
    dates = days("2002-05-01", "2004-01-03", "2004-02-01", "2009-01-01")
    valid = np.asarray([False, True, True, False])[None, :, None, None, None]
    values, there, month = steps_of(radar([1, -12, -9, 1], dates, valid=valid), 3)
    assert values[:2] == [-12, -9]
    assert (there, month) == ([True, True, False], [0, 1, 2])


def test_undated_and_wholly_missing_series_are_masked():
    nowhere = jnp.full((2,), jnp.nan)
    for obs in (
        radar([-10, -12], nowhere),
        radar([-10, -12], days("2004-01-03", "2004-02-01"), valid=np.zeros((1, 2, 1, 1, 1), bool)),
    ):
        _, there, month = steps_of(obs, 3)
        assert (there, month) == ([False] * 3, [0, 1, 2])


def test_steps_may_be_dates():
    dates = days("2004-05-23", "2004-05-02", "2004-04-15")
    values, there, month = steps_of(radar([-3, -2, -1], dates), 4, "date")
    assert values[:3] == [-1, -2, -3]
    assert (there, month[:3]) == ([True, True, True, False], [3, 4, 4])
    with pytest.raises(ConfigError, match=r"more dates than steps in band set 's1_db'"):
        steps_of(radar([-3, -2, -1], dates), 2, "date")


def test_other_band_sets_go_to_the_nearest_date():
    first = radar([-1, -2], days("2004-04-15", "2004-05-20"))
    rain = np.asarray([[280, 0.1], [290, 0.2], [300, 0.3]], np.float32)
    weather = observation(
        ERA5,
        rain[None, :, :, None, None],
        date=days("2004-05-15", "2004-04-17", "2004-07-01")[None],
    )
    made = series({"s1_db": first, "era5": weather}, (S1, ERA5), 2, "date")
    assert made.value["temperature_2m"][0, :, 0, 0].tolist() == [290, 280]


def scene(seed: int = 0, edge: int = 4) -> dict[str, Observation]:
    """Two samples of all four band sets, five dates in three months, with holes."""
    rng = np.random.default_rng(seed)
    dates = days("2019-07-03", "2019-07-21", "2019-08-02", "2019-08-30", "2019-09-14")
    dates = jnp.stack([dates, dates + 150])
    place = jnp.asarray([[14.5, 46.1], [jnp.nan, jnp.nan]])

    def of(spec: BandSetSpec, low, high, *, h: int = edge, t: int = 5) -> Observation:
        shape = (2, t, len(spec.bands), h, h)
        low, high = (np.reshape(np.asarray(v, float), (-1, 1, 1)) for v in (low, high))
        x = rng.uniform(low, high, shape).astype(np.float32)
        given = {} if t == 5 else {"date": jnp.full((2, t), jnp.nan)}
        return observation(
            spec, x, rng.random(shape) < 0.8, lonlat=place, **{"date": dates, **given}
        )

    return {
        "s2_l1c": of(S2, 100, 5000),
        "s1_db": of(S1, -20, -5),
        "era5": of(ERA5, [270, 0.0], [300, 0.2], h=1),
        "srtm": of(SRTM, [0, 0], [2000, 30], h=2, t=1),
    }


GALILEO = GalileoConfig(patch_size=2, steps=3)
PRESTO = PrestoConfig(steps=3, cell=2)


@pytest.fixture(scope="module")
def read():
    """Both encoders' inputs, and both embeddings of the scene."""
    galileo, presto = encoders.galileo(GALILEO), encoders.presto(PRESTO)

    def made(obs):
        return (
            galileo_inputs(obs, ALL, GALILEO),
            presto_inputs(obs, ALL, PRESTO),
            embed(galileo, obs, ALL),
            embed(presto, obs, ALL),
        )

    return jax.jit(made, compiler_options=FAST)


def test_all_band_sets_give_all_their_groups(read):
    galileo, presto, *vectors = read(scene())
    groups = ["ERA5", "NDVI", "S1", "S2_NIR_10m", "S2_NIR_20m", "S2_RGB", "S2_Red_Edge", "S2_SWIR",
              "SRTM", "location"]  # fmt: skip
    assert sorted(galileo.values) == groups
    assert galileo.seen["S1"].shape == (2, 2, 2, 3)
    assert galileo.seen["location"].tolist() == [True, False]
    assert galileo.month.tolist() == [[6, 7, 8], [11, 0, 1]]
    assert presto.x.shape == (8, 3, 17)
    assert presto.month[:4].tolist() == [[6, 7, 8]] * 4
    assert np.asarray(presto.seen).mean() > 0.9
    for vector in vectors:
        assert vector.shape == (2, 128)
        assert np.isfinite(vector).all()


def test_invalid_values_change_no_bit(read):
    obs = scene()
    a, b = read(obs), read({name: garbage(one) for name, one in obs.items()})
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(x, y, equal_nan=True)


def test_dates_may_stand_in_any_order(read):
    obs = scene()
    order = np.asarray([3, 0, 4, 2, 1])

    def turned(one: Observation) -> Observation:
        return dataclasses.replace(
            one, pixels=one.pixels[:, order], valid=one.valid[:, order], date=one.date[:, order]
        )

    other = {name: one if name == "srtm" else turned(one) for name, one in obs.items()}
    for x, y in zip(jax.tree.leaves(read(obs)), jax.tree.leaves(read(other)), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6)


def test_a_patch_is_read_where_enough_of_it_is_valid():
    x = np.full((1, 1, 2, 4, 4), -10, np.float32)
    x[0, 0, :, 0, 0] = -14
    valid = np.ones((1, 1, 2, 4, 4), bool)
    valid[0, 0, 0, 0, 1] = valid[0, 0, 1, 1, 0] = False  # two of four pixels lack a channel
    valid[0, 0, 0, :2, 3] = valid[0, 0, 0, 0, 2] = False  # three of four
    obs = observation(S1, x, valid)
    made = galileo_inputs({"s1_db": obs}, (S1,), dataclasses.replace(GALILEO, steps=1))
    assert made.seen["S1"][0, :, :, 0].tolist() == [[True, False], [True, True]]
    shift, scale = SCALES["VV"]
    vv = made.values["S1"][0, :2, :2, 0, 0] * scale + shift
    np.testing.assert_allclose(vv, [[-14, -12], [-12, -10]], atol=1e-4)  # holes: the patch's mean


def test_ndvi_takes_narrow_nir_where_there_is_no_other():
    spec = BandSetSpec("hls", "optical", (BandSpec("B04", "red"), BandSpec("B05", "nir08")))
    x = np.asarray([0.1, 0.3], np.float32).reshape(1, 1, 2, 1, 1)
    config = dataclasses.replace(GALILEO, patch_size=1, steps=1)
    made = galileo_inputs({"hls": observation(spec, x)}, (spec,), config)
    assert sorted(made.values) == ["NDVI", "S2_NIR_20m", "location"]
    np.testing.assert_allclose(made.values["NDVI"], 0.5, rtol=1e-6)
    x = presto_inputs({"hls": observation(spec, x)}, (spec,), PrestoConfig(steps=1)).x[0, 0]
    np.testing.assert_allclose(x[jnp.asarray([4, 9, 16])], [0.1, 0.3, 0.5], rtol=1e-6)


def test_two_orbits_are_averaged():
    other = dataclasses.replace(S1, name="s1_des")
    obs = {"s1_db": radar([-10], days("2004-01-03")), "s1_des": radar([-12], days("2004-01-09"))}
    assert series(obs, (S1, other), 1).value["VV"].item() == -11


def test_the_real_scene_gives_the_public_embedding():
    """Sentinel-1 and Sentinel-2 over Spain as raw numbers, through an observation."""
    a, config = galileo_arrays(), GalileoConfig(patch_size=4, steps=1)
    raw = np.moveaxis(a["spain_raw"], (3, 4), (1, 2))  # [B,T,C,H,W]
    given = {
        "date": middle_of(a["spain_months"].astype(int)),
        "lonlat": jnp.asarray(a["spain_latlon"][:, ::-1], jnp.float32),
    }
    obs = {
        "s1_db": observation(S1, raw[:, :, :2], **given),
        "s2_l1c": observation(S2, raw[:, :, 2:12], **given),
    }
    model = encoders.galileo(config)
    specs = (S2, S1)
    inputs, vector = jax.jit(
        lambda o: (galileo_inputs(o, specs, config), embed(model, o, specs)), compiler_options=FAST
    )(obs)
    wanted = galileo_case("spain")
    for name, x in inputs.values.items():
        np.testing.assert_allclose(x, wanted.values[name], rtol=0, atol=1e-6)
        assert np.array_equal(inputs.seen[name], wanted.seen[name])
    np.testing.assert_allclose(vector, a["spain_pooled"], rtol=0, atol=1e-4)


def test_scales_are_those_of_the_public_model():
    a = galileo_arrays()
    for short, names in {
        "s_t": ("VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "NDVI"),
        "sp": ("elevation", "slope"),
        "t": ("temperature_2m", "total_precipitation"),
    }.items():
        for i, name in enumerate(names):
            assert tuple(SCALES[name]) == (a[f"norm_{short}_shift"][i], a[f"norm_{short}_div"][i])


def test_real_rows_are_normalised_as_the_public_model_does():
    """Fuel moisture: three dates of a site, some of them in one month."""
    a = presto_arrays()
    raw = a["fuel_raw"].astype(np.float32)[..., None, None]  # [16,3,18,1,1]
    given = {
        "date": middle_of(a["fuel_months"].astype(int)) + jnp.arange(3, dtype=jnp.float32)[None],
        "lonlat": jnp.asarray(a["fuel_latlons"][:, ::-1]),
    }
    s2 = np.asarray([2, 3, 4, 5, 6, 7, 8, 9, 11, 12])
    obs = {
        "s1_db": observation(S1, raw[:, :, :2], **given),
        "s2_l1c": observation(S2, raw[:, :, s2], **given),
        "era5": observation(ERA5, raw[:, :, 13:15], **given),
        "srtm": observation(SRTM, raw[:, :1, 15:17], date=jnp.full((16, 1), jnp.nan)),
    }
    config = PrestoConfig(steps=3, by="date")
    made = jax.jit(lambda o: presto_inputs(o, ALL, config), compiler_options=FAST)(obs)
    assert np.asarray(made.seen).all()
    assert np.array_equal(made.month, a["fuel_months"])
    np.testing.assert_allclose(made.x, a["fuel_x"], rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(made.lonlat[:, ::-1], a["fuel_latlons"])


def refused(*bands: BandSpec, kind: Any = "optical") -> str:
    with pytest.raises(ConfigError) as e:
        readings(BandSetSpec("set", kind, bands))
    return str(e.value)


def test_bands_in_another_unit_are_refused():
    line = refused(BandSpec("B04", "red", unit="DN"))
    assert "B4 in another unit than the encoder was trained on" in line
    assert "band set 'set', band 'B04'; expected '1'; found 'DN'; convert the cube" in line
    assert "expected 'dB'; found '1'" in refused(BandSpec("VV"), kind="sar")
    assert "expected 'K'; found 'degC'" in refused(BandSpec("t2m", unit="degC"), kind="covariate")
    assert "expected 'm'; found 'mm'" in refused(BandSpec("tp", unit="mm"), kind="covariate")


def test_bands_that_are_others_are_refused():
    line = refused(BandSpec("HH", unit="dB"), BandSpec("HV", unit="dB"), kind="sar")
    assert "a band set of which the encoder reads nothing in band set 'set'; expected" in line
    assert "found HH, HV" in line
    line = refused(BandSpec("B05", None, 0.865))  # of Landsat
    assert "a band that is not Sentinel-2's B05" in line
    assert "expected 0.7041 um; found 0.865 um" in line
    assert "two bands are B4" in refused(BandSpec("B04", "red"), BandSpec("red", "red"))
    native = readings(BandSetSpec("s", "optical", (BandSpec("B8A", None, 0.865), BandSpec("B01"))))
    assert {i: q.name for i, q in native.items()} == {0: "B8A"}


def test_observations_that_do_not_fit_are_refused():
    obs = scene()
    with pytest.raises(DataError, match=r"the batch lacks a band set in Batch.obs; expected s1_db"):
        series({}, (S1,), 3)
    with pytest.raises(DataError, match=r"expected 2 bands \(VV, VH\); found 10"):
        series({"s1_db": obs["s2_l1c"]}, (S1,), 3)
    with pytest.raises(ConfigError, match="no band set to read"):
        series(obs, (), 3)
    odd = dataclasses.replace(obs["srtm"], pixels=jnp.zeros((2, 1, 2, 3, 3)),
                              valid=jnp.ones((2, 1, 1, 3, 3), bool))  # fmt: skip
    with pytest.raises(ConfigError, match=r"do not fit each other in band set 'srtm'; .* 3 x"):
        series(obs | {"srtm": odd}, (S2, SRTM), 3)
    with pytest.raises(ConfigError, match=r"into patches in GalileoConfig.patch_size; .* found 3"):
        galileo_inputs(obs, (S2,), dataclasses.replace(GALILEO, patch_size=3))
    with pytest.raises(ConfigError, match=r"into cells in PrestoConfig.cell; .* found 3"):
        presto_inputs(obs, (S2,), dataclasses.replace(PRESTO, cell=3))
    dem = dataclasses.replace(SRTM, bands=SRTM.bands[:1])
    height = observation(dem, np.ones((2, 1, 1, 2, 2), np.float32))
    with pytest.raises(ConfigError, match=r"complete no group of Galileo .* found elevation"):
        galileo_inputs({"srtm": height}, (dem,), GALILEO)
