import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from data_zarr.errors import CubeError
from data_zarr.indices import INDICES, STAND_INS, compute

LEAF = {
    "blue": 0.03,
    "green": 0.06,
    "red": 0.04,
    "rededge1": 0.10,
    "nir": 0.40,
    "nir08": 0.42,
    "swir16": 0.20,
    "swir22": 0.09,
}
# Worked by hand from the published formulas, to four digits.
BY_HAND = {
    "ndvi": 0.36 / 0.44,
    "ndmi": 0.22 / 0.62,
    "nbr": 0.33 / 0.51,
    "ndwi": -0.34 / 0.46,
    "mndwi": -0.14 / 0.26,
    "evi": 2.5 * 0.36 / (0.40 + 0.24 - 0.225 + 1.0),
    "savi": 1.5 * 0.36 / 0.94,
    "ndre": 0.30 / 0.50,
}


def test_every_index_is_checked_by_hand():
    assert set(BY_HAND) == set(INDICES)


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("make", [np.float64, np.asarray, jnp.asarray, xr.DataArray])
def test_formula(name, make):
    found = compute(name, {k: make(v) for k, v in LEAF.items()})
    assert float(found) == pytest.approx(BY_HAND[name], rel=1e-5)


@pytest.mark.parametrize("name", INDICES)
def test_only_the_declared_bands_are_needed(name):
    needed = {b: LEAF[b] for b in INDICES[name].bands}
    assert compute(name, needed) == pytest.approx(BY_HAND[name])
    for band in INDICES[name].bands:
        stand_ins = {s: LEAF.get(s, LEAF[band]) for s in STAND_INS.get(band, ())}
        rest = {k: v for k, v in needed.items() if k != band and k not in stand_ins}
        with pytest.raises(CubeError, match="a band is missing in index"):
            compute(name, rest)


def test_landsat_near_infrared_stands_in():
    assert compute("ndvi", {"red": 0.04, "nir08": 0.40}) == pytest.approx(BY_HAND["ndvi"])


def test_exact_name_comes_before_its_stand_in():
    both = compute("ndvi", {"red": 0.04, "nir08": 0.9, "nir": 0.40})
    assert both == pytest.approx(BY_HAND["ndvi"])


def test_a_zero_denominator_is_nan_without_a_warning():
    assert np.isnan(compute("ndvi", {"red": np.zeros(2), "nir": np.zeros(2)})).all()


def test_missing_band_line():
    with pytest.raises(CubeError) as e:
        compute("ndvi", {"red": 0.1, "green": 0.2})
    assert str(e.value) == (
        "a band is missing in index 'ndvi'; expected nir or nir08; found red, green"
    )


def test_unknown_index_line():
    with pytest.raises(CubeError, match=r"no such index; expected one of ndvi, .*; found nvdi"):
        compute("nvdi", LEAF)
