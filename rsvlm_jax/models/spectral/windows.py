"""The tables of the `wavelength` plan: what part of the spectrum plays which role, in which group.

Data, no code; `plan` reads them. Wavelengths are centre wavelengths in micrometres.
"""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A stretch of the spectrum, low <= wavelength < high, in micrometres."""

    low: float
    high: float


WINDOWS: dict[str, Window] = {
    "coastal": Window(0.38, 0.45),
    "blue": Window(0.45, 0.515),
    "green": Window(0.515, 0.595),
    "yellow": Window(0.595, 0.62),
    "red": Window(0.62, 0.69),
    "rededge1": Window(0.69, 0.73),
    "rededge2": Window(0.73, 0.76),
    "rededge3": Window(0.76, 0.80),
    "nir": Window(0.80, 0.90),
    "nir09": Window(0.90, 1.00),  # water vapour
    "nir12": Window(1.00, 1.34),
    "cirrus": Window(1.34, 1.46),
    "swir16": Window(1.46, 1.78),
    "swir19": Window(1.78, 2.05),
    "swir22": Window(2.05, 2.50),
}
"""The reflective spectrum, tiled without gaps. The limits stand between the bands of Sentinel-2,
Landsat 5-9, MODIS, THEOS and PlanetScope, so that each of them falls where its name says."""

ROLES: dict[str, tuple[str, float]] = {
    "coastal": ("coastal", 0.443),
    "blue": ("blue", 0.485),
    "green": ("green", 0.560),
    "red": ("red", 0.660),
    "rededge1": ("rededge1", 0.705),
    "rededge2": ("rededge2", 0.740),
    "rededge3": ("rededge3", 0.780),
    "nir": ("nir", 0.835),
    "nir08": ("nir", 0.865),
    "nir09": ("nir09", 0.945),
    "cirrus": ("cirrus", 1.375),
    "swir16": ("swir16", 1.610),
    "swir22": ("swir22", 2.200),
}
"""role -> (window, nominal wavelength). Of two bands in a window the one nearest to the nominal
wavelength plays the role: Sentinel-2's broad B08 is `nir`, its narrow B8A `nir08`."""

RECIPES: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("true_colour", (("red", "green", "blue"),)),
    ("nir", (("nir", "red", "green"),)),
    (
        "swir",
        (("swir22", "swir16", "nir08"), ("swir16", "nir08", "red"), ("swir22", "nir08", "red")),
    ),
    ("red_edge", (("rededge3", "rededge2", "rededge1"), ("nir", "rededge1", "red"))),
    (
        "atmosphere",
        (("cirrus", "nir09", "coastal"), ("nir09", "red", "coastal"), ("cirrus", "red", "coastal")),
    ),
)
"""group -> alternatives, long-mid-short; the first whose three roles exist is taken, otherwise the
group is dropped. Bands that no group took form `rest` groups, longest wavelength first."""

CONTEXT = ("red", "green", "nir", "blue")
"""What fills a last `rest` group of fewer than three bands, in this order of preference."""

INDICES: dict[str, tuple[str, str]] = {
    "ndvi": ("nir08", "red"),
    "ndre": ("nir08", "rededge1"),
    "ndmi": ("nir08", "swir16"),
    "nbr": ("nir08", "swir22"),
    "ndwi": ("green", "nir08"),
    "mndwi": ("green", "swir16"),
}
"""Normalised differences (a - b) / (a + b), by role."""

NARROW = 3
"""A window that holds this many bands or more is averaged before it fills a slot."""
