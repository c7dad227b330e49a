"""The table of sensors holds together, and bands are found under every usual name."""

from __future__ import annotations

import numpy as np
import pytest

from data_zarr.errors import CubeError
from data_zarr.sensors import BANDSETS, PLATFORMS, SENSORS, find_band, platform_id

# STAC eo 2.0, table of common names: range in micrometres.
COMMON = {
    "coastal": (0.40, 0.45),
    "blue": (0.45, 0.53),
    "green": (0.51, 0.60),
    "red": (0.60, 0.70),
    "rededge071": (0.69, 0.73),
    "rededge075": (0.73, 0.76),
    "rededge078": (0.76, 0.80),
    "nir": (0.76, 1.00),
    "nir08": (0.75, 0.90),
    "nir09": (0.85, 1.05),
    "cirrus": (1.35, 1.40),
    "swir16": (1.55, 1.75),
    "swir22": (2.08, 2.35),
}


@pytest.mark.parametrize("name", BANDSETS)
def test_row_is_complete(name: str) -> None:
    row = BANDSETS[name]
    assert row.name == name
    assert row.source
    assert len(set(row.band_names)) == len(row.bands)
    for band in row.bands:
        assert (band.wavelength is None) == (band.fwhm is None)
        assert (band.wavelength is not None) == (row.kind == "optical")
        if band.wavelength is not None and band.common_name is not None:
            low, high = COMMON[band.common_name]
            assert low <= band.wavelength <= high, band


def test_sensors_name_known_platforms_and_bandsets() -> None:
    for sensor in SENSORS.values():
        assert set(sensor.platforms) <= set(PLATFORMS)
        assert set(sensor.bandsets) <= set(BANDSETS)


def test_platform_rows_never_move() -> None:
    """The row number is stored in cubes and checkpoints: this list may only grow."""
    assert PLATFORMS[:9] == (
        *("unknown", "sentinel-2a", "sentinel-2b", "sentinel-2c", "landsat-4", "landsat-5"),
        *("landsat-7", "landsat-8", "landsat-9"),
    )
    assert platform_id("landsat-8") == 7


def test_unknown_platform() -> None:
    with pytest.raises(CubeError, match=r"no such platform; expected one of unknown.*'landsat-1'"):
        platform_id("landsat-1")


@pytest.mark.parametrize(
    ("bandset", "name", "native"),
    [
        ("s2_l2a", "B08", "B08"),
        ("s2_l2a", "B8", "B08"),
        ("s2_l2a", "B8A", "B8A"),
        ("s2_l2a", "nir", "B08"),
        ("s2_l2a", "nir08", "B8A"),
        ("s2_l2a", "rededge1", "B05"),
        ("s2_l2a", "rededge071", "B05"),
        ("landsat8_sr", "red", "SR_B4"),
        ("landsat5_sr", "red", "SR_B3"),
        ("landsat5_sr", "swir2", "SR_B7"),
        ("landsat_sr6", "swir1", "swir16"),
        ("s1_db", "VH", "VH"),
    ],
)
def test_find_band(bandset: str, name: str, native: str) -> None:
    assert BANDSETS[bandset].band_names[find_band(bandset, name)] == native


@pytest.mark.parametrize(("bandset", "name"), [("s2_l2a", "B10"), ("rgb", "nir"), ("s9", "red")])
def test_find_band_that_is_not_there(bandset: str, name: str) -> None:
    with pytest.raises(CubeError, match="no such band"):
        find_band(bandset, name)


def test_landsat_scale_gives_reflectance() -> None:
    """DN 7273 is the lowest valid number of Collection 2: reflectance 0 (LSDS-1619)."""
    row = BANDSETS["landsat8_sr"]
    assert np.isclose(7273 * row.scale + row.offset, 0.0, atol=1e-4)
    assert np.isclose(43636 * row.scale + row.offset, 1.0, atol=1e-4)
