"""Level-1 formulas against numbers worked out in the test, never by the code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_zarr.atmosphere import (
    dark_object_reflectance,
    earth_sun_distance,
    haze,
    read_curves,
    solar_irradiance,
    surface_from_curve,
    toa_radiance,
    toa_reflectance,
)
from data_zarr.errors import CubeError
from data_zarr.ingest import dark
from data_zarr.ingest.dark import dark_number

SUNS = {"blue": 1970.0, "green": 1842.0, "red": 1547.0, "nir08": 1044.0}
"""ESUN of Landsat 7 bands 1 to 4, W m-2 um-1."""
COSINE, DISTANCE = 0.5, 1.0


def test_toa_by_hand() -> None:
    """L = 0.8 * 100 - 6 = 74; rho = pi 74 / (1970 / 2) = 232.478 / 985 = 0.23602."""
    radiance = toa_radiance(np.array([100], np.uint8), 0.8, -6.0)
    assert radiance[0] == pytest.approx(74.0)
    assert toa_reflectance(radiance, 1970.0, 0.5, 1.0)[0] == pytest.approx(0.236018, abs=1e-6)


def test_dark_object_by_hand() -> None:
    """cos = 1/2, d = 1, E = 1000 pi: rho = L / 500 and one per cent is L = 5 (COST: 2.5, / 250).

    Dark object L = 35, pixel L = 135.
        DOS1   Lp = 35 - 5 = 30      rho = (135 - 30) / 500 = 0.21
        COST   Lp = 35 - 2.5 = 32.5  rho = (135 - 32.5) / 250 = 0.41
    """
    sun = (1000 * math.pi, 0.5, 1.0)
    assert haze(35.0, *sun, "dos1") == pytest.approx(30.0)
    assert haze(35.0, *sun, "cost") == pytest.approx(32.5)
    pixel = np.array([135.0, 35.0])
    np.testing.assert_allclose(dark_object_reflectance(pixel, 30.0, *sun, "dos1"), [0.21, 0.01])
    np.testing.assert_allclose(dark_object_reflectance(pixel, 32.5, *sun, "cost"), [0.41, 0.01])


@pytest.mark.parametrize("method", ["dos1", "cost"])
@pytest.mark.parametrize("cosine", [0.3, 0.7, 1.0])
def test_the_dark_pixel_is_one_per_cent_in_every_band(method: str, cosine: float) -> None:
    for sun in SUNS.values():
        lowest = 60.0
        path = haze(lowest, sun, cosine, 0.99, method)
        rho = dark_object_reflectance(np.array([lowest]), path, sun, cosine, 0.99, method)
        assert rho[0] == pytest.approx(0.01, abs=1e-12)


@given(st.floats(0.1, 1.0), st.floats(5, 300), st.floats(0, 300))
def test_dos1_is_never_above_toa(cosine: float, lowest: float, more: float) -> None:
    """Haze is only ever taken away; in blue, where it is strongest, as in every band."""
    radiance = np.array([lowest, lowest + more])
    for sun in SUNS.values():
        path = haze(lowest, sun, cosine, 1.0, "dos1")
        assert path >= 0
        rho = dark_object_reflectance(radiance, path, sun, cosine, 1.0, "dos1")
        assert (rho <= toa_reflectance(radiance, sun, cosine, 1.0) + 1e-12).all()


def test_cost_of_a_dark_blue_surface_is_below_toa() -> None:
    """Blue over vegetation: TOA 0.10, of which the dark object shows 0.085; the sun at 45 deg.

    rho = (0.10 - 0.085 + 0.01 * 0.7071) / 0.7071 = 0.03121
    """
    cosine = math.sqrt(0.5)
    unit = SUNS["blue"] * cosine / math.pi  # radiance of reflectance 1
    path = haze(0.085 * unit, SUNS["blue"], cosine, 1.0, "cost")
    rho = dark_object_reflectance(np.array([0.10 * unit]), path, SUNS["blue"], cosine, 1.0, "cost")
    assert rho[0] == pytest.approx(0.031213, abs=1e-6)


def test_no_haze_in_a_band_that_is_darker_than_one_per_cent() -> None:
    assert haze(1.0, 1000 * math.pi, 0.5, 1.0, "dos1") == 0.0


@pytest.mark.parametrize("cosine", [0.0, 1e-9, -0.2, 1.2, math.nan])
def test_cosine_towards_zero(cosine: float) -> None:
    for call in (
        lambda: toa_reflectance(np.ones(1), 1000.0, cosine, 1.0),
        lambda: haze(1.0, 1000.0, cosine, 1.0, "cost"),
        lambda: dark_object_reflectance(np.ones(1), 0.0, 1000.0, cosine, 1.0, "cost"),
    ):
        with pytest.raises(CubeError, match="sun too low for reflectance"):
            call()


def test_the_order_of_the_bands_does_not_matter() -> None:
    radiances = {"blue": 74.0, "green": 60.0, "red": 40.0, "nir08": 90.0}

    def correct(names: list[str]) -> dict[str, float]:
        out = {}
        for name in names:
            path = haze(30.0, SUNS[name], COSINE, DISTANCE, "cost")
            pixel = np.array([radiances[name]])
            out[name] = float(
                dark_object_reflectance(pixel, path, SUNS[name], COSINE, DISTANCE, "cost")[0]
            )
        return out

    assert correct(list(SUNS)) == correct(list(SUNS)[::-1])


def test_irradiance_of_the_products_maxima() -> None:
    """pi * 1.01^2 * 700 / 1.2 = 3.20474 * 583.333 = 1869.43."""
    assert solar_irradiance(700.0, 1.2, 1.01) == pytest.approx(1869.43, abs=0.01)


def test_distance_of_the_sun() -> None:
    """Perihelion about 3 January at 0.98328 AU, aphelion about 4 July at 1.01672 AU."""
    assert earth_sun_distance(4) == pytest.approx(0.98328, abs=1e-5)
    assert earth_sun_distance(187) == pytest.approx(1.01672, abs=1e-5)


def test_curve_by_hand(tmp_path: Path) -> None:
    """a L - b = 0.003 * 90 - 0.07 = 0.2; 0.2 / (1 + 0.15 * 0.2) = 0.194175."""
    rho = surface_from_curve(np.array([90.0]), 0.003, 0.07, 0.15)
    assert rho[0] == pytest.approx(0.194175, abs=1e-6)
    assert np.isnan(surface_from_curve(np.array([0.0]), 1.0, 10.0, 0.2)[0])  # 1 + c y < 0
    (tmp_path / "a.csv").write_text("band,a,b,c\nred,0.003,0.07,0.15\n")
    (tmp_path / "a.json").write_text('{"red": [0.003, 0.07, 0.15]}')
    assert read_curves(str(tmp_path / "a.csv")) == {"red": (0.003, 0.07, 0.15)}
    assert read_curves(str(tmp_path / "a.csv")) == read_curves(str(tmp_path / "a.json"))


@pytest.mark.parametrize("text", ["band,a,b\nred,1,2\n", "band,a,b,c\nred,1,x,3\n", "", "a\n"])
def test_unreadable_coefficients(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text or "band,a,b,c\nred,1,2,nan\n")
    with pytest.raises(CubeError, match=r"unreadable coefficients|not finite|no coefficients"):
        read_curves(str(tmp_path / "a.csv"))


def test_the_dark_number_of_a_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 known pixels: 9 of 50 are fewer than one per cent, with one of 51 they are."""
    from data_zarr.grid import Grid
    from data_zarr.ingest.scene import Layer

    values = np.full(1024, 100, np.uint16)
    values[:24] = 0  # fill
    values[24:33] = 50
    values[33] = 51
    image = values.reshape(32, 32)
    grid = Grid.from_bounds(32633, (0, 0, 320, 320), 32, 32)
    monkeypatch.setattr(dark.native, "read", lambda layer, y, x, h, w: image[y : y + h, x : x + w])
    layer = Layer("x", grid, "uint16", nodata=0)
    assert dark_number(layer, 0.01) == 51
    assert dark_number(layer, 0.009) == 50
