"""What a model may know of a cube, by name."""

from __future__ import annotations

import dataclasses

import pytest

from data_zarr.cube import Cube
from rsvlm_jax.config import DataError, InputConfig, TargetConfig
from rsvlm_jax.data import bandset_specs, facts, target_spec


def test_describes_bands_in_the_wanted_order(cube: Cube):
    (spec,) = bandset_specs(cube, [InputConfig("s2_l1c", bands=("B08", "red", "B02"))])
    assert spec.band_names == ("B08", "B04", "B02")
    assert spec.kind == "optical"
    assert spec.gsd == pytest.approx(10)
    red = spec.bands[1]
    assert (red.common_name, red.scale, red.offset) == ("red", 1e-4, 0.0)
    assert red.wavelength == pytest.approx(0.665, abs=0.002)


def test_a_static_covariate(cube: Cube):
    (spec,) = bandset_specs(cube, [InputConfig("dem", front="pixel")])
    assert spec.static
    assert spec.bands[0].wavelength is None


def test_missing_band_with_suggestion(cube: Cube):
    with pytest.raises(DataError, match=r"no such band in .*s2_l1c.*B8A.*did you mean"):
        bandset_specs(cube, [InputConfig("s2_l1c", bands=("B04", "B8AA"))])


def test_missing_band_set_with_suggestion(cube: Cube):
    with pytest.raises(DataError, match=r"no band set 's2_l2a'.*did you mean 's2_l1c'"):
        bandset_specs(cube, [InputConfig("s2_l2a")])


def test_a_band_asked_for_twice(cube: Cube):
    with pytest.raises(DataError, match=r"a band is read twice.*found B04, red"):
        bandset_specs(cube, [InputConfig("s2_l1c", bands=("B04", "red"))])


def test_the_saved_band_sets_are_checked(cube: Cube):
    specs = bandset_specs(cube, [InputConfig("s2_l1c"), InputConfig("dem")])
    assert bandset_specs(cube, specs) == specs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 1e-3}, "another scale than the model was trained on .*0.001; found 0.0001"),
        ({"offset": -0.1}, "another offset"),
        ({"unit": "K"}, "another unit"),
        ({"wavelength": 0.9}, "another wavelength"),
        ({"name": "B99"}, "no such band"),
    ],
)
def test_a_cube_with_other_bands_is_refused(cube: Cube, change: dict, message: str):
    (spec,) = bandset_specs(cube, [InputConfig("s2_l1c")])
    first = dataclasses.replace(spec.bands[0], **change)
    other = dataclasses.replace(spec, bands=(first, *spec.bands[1:]))
    with pytest.raises(DataError, match=message):
        bandset_specs(cube, [other])


def test_target(cube: Cube):
    spec = target_spec(cube, TargetConfig("tree_cover"))
    assert (spec.unit, spec.bounds, spec.long_name) == ("1", (0.0, 1.0), "tree cover")


def test_missing_target_with_suggestion(cube: Cube):
    with pytest.raises(DataError, match=r"no target 'treecover'.*did you mean 'tree_cover'"):
        target_spec(cube, TargetConfig("treecover"))


def test_a_category_is_not_regressed(cube: Cube):
    with pytest.raises(DataError, match=r"a map of categories.*expected a continuous target"):
        target_spec(cube, TargetConfig("land_cover"))


def test_facts(cube: Cube):
    specs = bandset_specs(cube, [InputConfig("s2_l1c"), InputConfig("s1_db"), InputConfig("dem")])
    f = facts(cube, specs, 8)
    assert f.sensors == ("Sentinel-2", "Sentinel-1")
    assert (f.optical, f.radar, f.dates, f.bands, f.window) == (True, True, 3, 13, 8)
    assert f.gsd == pytest.approx(10)
    radar = facts(cube, specs[1:2], 8)
    assert (radar.optical, radar.radar, radar.dates) == (False, True, 1)
    assert facts(cube, specs[2:], 8).sensors == ()


def test_dates_are_counted_as_the_model_sees_them(cube: Cube):
    specs = bandset_specs(cube, [InputConfig("dem"), InputConfig("s2_l1c")])
    assert facts(cube, specs, 8).dates == 3
    assert facts(cube, specs, 8, [None, 2]).dates == 2
    assert facts(cube, specs, 8, [None, 9]).dates == 3
