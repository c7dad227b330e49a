"""Stored numbers become physical ones and back; quality bits mean what their guides say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_zarr.errors import CubeError
from data_zarr.radiometry import (
    clear_mask,
    db_to_linear,
    has_bits,
    linear_to_db,
    to_physical,
    to_stored,
    unsaturated_mask,
)


def test_landsat_reflectance_and_fill() -> None:
    physical = to_physical(np.array([0, 7273, 18639, 43636], np.uint16), 2.75e-5, -0.2, nodata=0)
    assert physical.dtype == np.float32
    assert np.isnan(physical[0])
    np.testing.assert_allclose(physical[1:], [0.0, 0.3126, 1.0], atol=1e-4)


def test_fill_is_masked_before_scaling() -> None:
    """-9999 with an offset must not come out as a number near -1."""
    assert np.isnan(to_physical(np.array([-9999], np.int16), 1e-4, -0.1, nodata=-9999)).all()


def test_one_scale_a_band() -> None:
    stored = np.ones((2, 3, 4, 5), np.int16)
    physical = to_physical(stored, (1.0, 2.0, 3.0), (0.0, 0.0, 10.0))
    np.testing.assert_array_equal(physical[0, :, 0, 0], [1, 2, 13])


@given(arrays(np.int16, 20, elements=st.integers(-9998, 32767)))
def test_stored_numbers_survive_a_round_trip(stored: np.ndarray) -> None:
    physical = to_physical(stored, 1e-4, -0.1, nodata=-9999)
    np.testing.assert_array_equal(to_stored(physical, 1e-4, -0.1, -9999), stored)


def test_nan_becomes_nodata() -> None:
    assert to_stored(np.array([np.nan, 0.5]), 1e-4, 0.0, -9999).tolist() == [-9999, 5000]


@pytest.mark.parametrize("value", [4.0, -0.9999])
def test_value_that_cannot_be_stored(value: float) -> None:
    with pytest.raises(CubeError, match=r"value cannot be stored; expected int16 at scale 0\.0001"):
        to_stored(np.array([value]), 1e-4, 0.0, -9999)


@given(st.floats(-60, 40))
def test_db_round_trip(db: float) -> None:
    assert linear_to_db(db_to_linear(np.array([db])))[0] == pytest.approx(db, abs=1e-5)


def test_power_that_is_not_positive_has_no_db() -> None:
    db = linear_to_db(np.array([0.0, -1.0, 0.01, np.nan]))
    np.testing.assert_array_equal(np.isnan(db), [True, True, False, True])
    assert db[2] == pytest.approx(-20)


@pytest.mark.parametrize(
    ("qa", "clear"),
    [
        (21824, True),  # clear, all confidences low
        (21952, True),  # water
        (1, False),  # fill
        (21762, False),  # dilated cloud
        (54596, False),  # cirrus
        (22280, False),  # cloud
        (23888, False),  # cloud shadow
        (30048, True),  # snow: usable by default
    ],
)
def test_landsat_qa_pixel(qa: int, clear: bool) -> None:
    """Values as listed in the Landsat 8-9 Collection 2 Level 2 guide, table of QA_PIXEL values."""
    assert clear_mask(np.array([qa], np.uint16), "landsat_sr6")[0] == clear


def test_landsat_snow_can_be_rejected() -> None:
    assert not clear_mask(np.array([30048], np.uint16), "landsat8_sr", reject=["snow"])[0]


def test_sentinel2_scl() -> None:
    classes = np.arange(12, dtype=np.uint8)
    usable = classes[clear_mask(classes, "s2_l2a")].tolist()
    assert usable == [2, 4, 5, 6, 7, 11]


def test_hls_fmask_ignores_aerosol_bits() -> None:
    qa = np.array([0b11000000, 0b00000010, 0b00001000, 0b00100000], np.uint8)
    assert clear_mask(qa, "hls_s30").tolist() == [True, False, False, True]


def test_unknown_flag_has_a_suggestion() -> None:
    with pytest.raises(CubeError, match=r"no such quality flag in s2_l2a SCL.*mean 'thin_cirrus'"):
        clear_mask(np.zeros(1, np.uint8), "s2_l2a", reject=["thin cirrus"])


def test_band_set_without_quality_band() -> None:
    with pytest.raises(CubeError, match="no quality band in s1_db"):
        clear_mask(np.zeros(1, np.uint8), "s1_db")


def test_saturation() -> None:
    radsat = np.array([0, 0b1000], np.uint16)
    assert unsaturated_mask(radsat).tolist() == [True, False]
    assert unsaturated_mask(radsat, bits=[0]).tolist() == [True, True]
    assert has_bits(radsat, [3]).tolist() == [False, True]
