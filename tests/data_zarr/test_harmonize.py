"""Published adjustments between instruments: the numbers, both ways, by platform."""

from __future__ import annotations

import numpy as np
import pytest

from data_zarr.errors import CubeError
from data_zarr.harmonize import ADJUSTMENTS, INSTRUMENTS, adjustment, harmonize
from data_zarr.sensors import BANDSETS, PLATFORMS

WAY = ("etm", "oli")
SIX = ("blue", "green", "red", "nir08", "swir16", "swir22")


def test_every_row_has_a_document_and_bands_and_platforms_that_exist():
    names = {b.common_name for row in BANDSETS.values() for b in row.bands}
    for row in ADJUSTMENTS:
        assert row.document
        assert set(row.coefficients) <= names
        assert all(0.8 < a < 1.2 and abs(b) < 0.05 for a, b in row.coefficients.values())
    assert set(INSTRUMENTS) <= set(PLATFORMS)
    keys = [(row.source, row.target, row.method) for row in ADJUSTMENTS]
    assert len(set(keys)) == len(keys)


def test_dates_are_adjusted_by_their_platform_and_those_of_the_target_are_kept():
    x = np.full((4, 6, 2, 3), 0.2, np.float32)
    x[1, 0, 0, 0] = np.nan
    found = harmonize(x, SIX, ["landsat-8", "landsat-7", "landsat-9", "landsat-5"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[[0, 2]], x[[0, 2]])
    assert np.isnan(found[1, 0, 0, 0])
    assert found[1, 3, 1, 1] == pytest.approx(0.0412 + 0.8462 * 0.2)
    np.testing.assert_array_equal(found[3, :, 1, 1], found[1, :, 1, 1])
    turned = harmonize(
        np.moveaxis(x, 0, -1), SIX, ["landsat-8", "landsat-7", "landsat-9", "landsat-5"],
        time_axis=-1, band_axis=0,
    )  # fmt: skip
    np.testing.assert_array_equal(np.moveaxis(turned, -1, 0), found)


def test_one_line_both_ways_comes_back_and_two_regressions_shrink():
    x = np.linspace(0, 0.6, 7)[:, None] * np.ones(6)
    seven, eight = ["landsat-7"] * 7, ["landsat-8"] * 7
    there = harmonize(x, SIX, seven, method="rma")
    back = harmonize(there, SIX, eight, to="etm", method="rma")
    np.testing.assert_allclose(back, x, atol=1e-15)
    back = harmonize(harmonize(x, SIX, seven), SIX, eight, to="etm")
    assert (np.ptp(back, axis=0) < np.ptp(x, axis=0)).all()
    # Both regression lines lie on either side of the reduced major axis: slopes a, 1 / b around it.
    for name in SIX:
        steep = 1 / adjustment("oli", "etm").coefficients[name][0]
        axis = adjustment("etm", "oli", "rma").coefficients[name][0]
        assert adjustment("etm", "oli").coefficients[name][0] < axis < steep
        # The slope of the axis is the geometric mean of the two, but for four digits.
        middle = (adjustment("etm", "oli").coefficients[name][0] * steep) ** 0.5
        assert axis == pytest.approx(middle, abs=2e-4)
        # All three meet at the means of the two instruments; those of red miss by 0.0009.
        (a, b), (c, d) = (adjustment(*way).coefficients[name] for way in (WAY, WAY[::-1]))
        mean = (d + c * b) / (1 - a * c)
        offset = adjustment(*WAY, "rma").coefficients[name][1]
        assert offset + axis * mean == pytest.approx(
            b + a * mean, abs=1e-3 if name == "red" else 1e-4
        )


def test_sentinel_as_oli_as_in_hls():
    x = np.full((2, 1), 0.1)
    found = harmonize(x, ["swir22"], ["sentinel-2a", "sentinel-2b"])
    np.testing.assert_allclose(found[:, 0], [0.1003 - 0.0012, 0.09867 + 0.0004])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reflectance": np.zeros((1, 6), np.int16)}, "to_physical"),
        ({"platforms": ["sentinel-2c"]}, "sentinel-2a"),
        ({"platforms": ["landsat-7"] * 2}, "found 2 and 6"),
        ({"bands": ("coastal", *SIX[1:])}, "coastal"),
        ({"to": "etm", "platforms": ["sentinel-2a"]}, "no published adjustment"),
        ({"method": "rma", "platforms": ["sentinel-2b"]}, "no published adjustment"),
    ],
)
def test_what_is_not_published_is_refused(untyped, change, words):
    given = {"reflectance": np.zeros((1, 6)), "bands": SIX, "platforms": ["landsat-7"]} | change
    with pytest.raises(CubeError, match=words) as caught:
        harmonize(**given)
    assert "\n" not in str(caught.value)
