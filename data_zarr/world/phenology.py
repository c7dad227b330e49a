"""What the date does: leaves, grass, soil water and the sun.

All functions take decimal `doy` (1 .. 366) and return scalars or arrays that broadcast with it.
The landscape lies in a temperate north: leaves from late April to late October.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

LATITUDE = 46.0
"""Degrees north; sets the sun."""


def day_of_year(date: np.datetime64) -> float:
    """1.0 at the start of 1 January."""
    day = (date - date.astype("datetime64[Y]").astype(date.dtype)) / np.timedelta64(1, "D")
    return 1.0 + float(day)


def years_before(date: np.datetime64, end: np.datetime64) -> float:
    """Years from `date` to `end`, of 365.25 days."""
    return float((end - date) / np.timedelta64(1, "D")) / 365.25


def _season(doy: float, rise: float, fall: float, width: float) -> float:
    """0 in winter, 1 in summer: a rising and a falling logistic (Zhang et al. 2003, RSE 84)."""
    up = 1.0 / (1.0 + np.exp(-(doy - rise) / width))
    down = 1.0 / (1.0 + np.exp((doy - fall) / width))
    return float(up * down)


def leaf_share(doy: float, evergreen: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Share of the full leaf area that is on the trees; bare crowns keep 0.15 as wood."""
    deciduous = 0.15 + 0.85 * _season(doy, rise=118.0, fall=292.0, width=7.0)
    return np.float32(deciduous) + np.float32(1.0 - deciduous) * evergreen


def grass_share(doy: float) -> float:
    """Greenness of the ground layer: earlier and longer than trees, dull in midsummer."""
    dry = 0.25 * _season(doy, rise=190.0, fall=235.0, width=8.0)
    return 0.25 + 0.75 * _season(doy, rise=85.0, fall=310.0, width=10.0) - dry


def wetness(doy: float) -> float:
    """Seasonal part of soil water, 1 in winter to 0.3 in late summer."""
    return 0.65 + 0.35 * float(np.cos(2 * np.pi * (doy - 25.0) / 365.25))


def sun(doy: float, hour: float = 10.4) -> tuple[float, float]:
    """Zenith and azimuth of the sun in radians (azimuth clockwise from north).

    Declination by Cooper (1969): 23.45 degrees times sin(2 pi (284 + doy) / 365).
    """
    declination = np.deg2rad(23.45) * np.sin(2 * np.pi * (284 + doy) / 365.0)
    latitude, angle = np.deg2rad(LATITUDE), np.deg2rad(15.0 * (hour - 12.0))
    cos_zenith = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(
        declination
    ) * np.cos(angle)
    azimuth = np.pi + np.arctan2(
        np.sin(angle),
        np.cos(angle) * np.sin(latitude) - np.tan(declination) * np.cos(latitude),
    )
    return float(np.arccos(cos_zenith)), float(azimuth)
