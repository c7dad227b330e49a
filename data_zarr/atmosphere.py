"""Level-1 numbers to reflectance: top of the atmosphere, dark-object subtraction, look-up curve.

Not for surface reflectance, which has been through this already: the sources of `data_zarr.ingest`
refuse it there. Pure functions on arrays; reflectance has no unit, radiance is in W m-2 sr-1 um-1,
`sun` (ESUN) in W m-2 um-1 at the mean distance, `distance` in astronomical units, angles enter as
the cosine of the solar zenith angle.

    L   = gain * DN + bias
    TOA   rho = pi d^2 L / (E cos)
    DOS   L1  = 0.01 E cos Tz Tv / (pi d^2)             a dark object reflects one per cent
          Lp  = max(0, L(DN dark) - L1)                 haze: what it shows above that
          rho = pi d^2 (L - Lp) / (E cos Tz Tv)

DOS1: Tz = Tv = 1; COST: Tz = cos, Tv = 1; the diffuse light Ed is 0 in both. P. S. Chavez, Image-
based atmospheric corrections revisited and improved, PE&RS 62 (1996); for DOS1 also Song et al.,
Remote Sensing of Environment 75 (2001).
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import near_miss
from data_zarr.sensors import Number

Method = Literal["dos1", "cost"]
DARK_REFLECTANCE = 0.01
LOWEST_COSINE = 0.05
"""A sun 3 degrees above the horizon: below, every one of these formulas divides by nothing."""


def toa_radiance(numbers: np.ndarray, gain: Number, bias: Number) -> np.ndarray:
    """gain * DN + bias, float64."""
    return np.asarray(numbers, np.float64) * gain + bias


def earth_sun_distance(day_of_year: Number) -> float:
    """Astronomical units, to 0.0004: 1 - 0.01672 cos(0.9856 deg (day - 4))."""
    return 1 - 0.01672 * math.cos(math.radians(0.9856 * (day_of_year - 4)))


def solar_irradiance(
    radiance_maximum: Number, reflectance_maximum: Number, distance: Number
) -> float:
    """ESUN that a product's own maxima imply: pi d^2 Lmax / rho max (Landsat gives no ESUN).

    Landsat's reflectances of level 1 are not yet divided by the cosine, nor is this.
    """
    return math.pi * distance**2 * radiance_maximum / reflectance_maximum


def toa_reflectance(
    radiance: np.ndarray, sun: Number, cosine: Number, distance: Number
) -> np.ndarray:
    """pi d^2 L / (E cos), float64.

    Raises:
      CubeError: a sun too low to divide by.
    """
    return np.asarray(radiance, np.float64) * to_reflectance(sun, cosine, distance)


def haze(
    dark_radiance: Number, sun: Number, cosine: Number, distance: Number, method: Method
) -> float:
    """Path radiance of a band from the radiance of its dark object; 0 where there is no haze."""
    one_per_cent = DARK_REFLECTANCE / to_reflectance(
        sun, cosine, distance, downward(method, cosine)
    )
    return max(0.0, dark_radiance - one_per_cent)


def dark_object_reflectance(
    radiance: np.ndarray,
    path_radiance: Number,
    sun: Number,
    cosine: Number,
    distance: Number,
    method: Method,
) -> np.ndarray:
    """pi d^2 (L - Lp) / (E cos Tz Tv), float64.

    Raises:
      CubeError: a sun too low to divide by.
    """
    factor = to_reflectance(sun, cosine, distance, downward(method, cosine))
    return (np.asarray(radiance, np.float64) - path_radiance) * factor


def surface_from_curve(radiance: np.ndarray, a: Number, b: Number, c: Number) -> np.ndarray:
    """rho = (a L - b) / (1 + c (a L - b)), float64; NaN where the denominator is not positive.

    The form in which radiative-transfer codes give an atmosphere (xap, xb, xc of 6S): `a` takes
    radiance to reflectance over transmittance, `b` is the reflectance of the path, `c` the
    spherical albedo of the sky.
    """
    y = a * np.asarray(radiance, np.float64) - b
    below = 1 + c * y
    return np.where(below > 0, y / np.where(below > 0, below, 1.0), np.nan)


def read_curves(path: str) -> dict[str, tuple[float, float, float]]:
    """Coefficients by band: CSV with columns band, a, b, c, or JSON {"band": [a, b, c]}.

    Raises:
      CubeError: unreadable, a column missing, or a coefficient that is not a finite number.
    """
    try:
        text = Path(path).read_text()
        if path.endswith(".json"):
            rows = {k: list(v) for k, v in json.loads(text).items()}
        else:
            table = list(csv.DictReader(text.splitlines()))
            rows = {r["band"]: [r["a"], r["b"], r["c"]] for r in table}
        curves = {k: (float(v[0]), float(v[1]), float(v[2])) for k, v in rows.items()}
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CubeError(
            "unreadable coefficients",
            where=path,
            expected='columns band, a, b, c, or {"band": [a, b, c]}',
            found=f"{type(error).__name__}: {error}"[:120],
        ) from error
    if not curves:
        raise CubeError("no coefficients", where=path, expected="one row a band", found="none")
    for band, values in curves.items():
        if not all(map(math.isfinite, values)):
            raise CubeError("coefficient is not finite", where=f"{path}: {band}", found=values)
    return curves


def curve_of(
    curves: dict[str, tuple[float, float, float]], names: tuple[str, ...], where: str
) -> tuple[float, float, float]:
    """The curve of a band by any of its names; CubeError when the table has none."""
    for name in names:
        if name in curves:
            return curves[name]
    raise CubeError(
        "no coefficients for a band",
        where=where,
        expected=" or ".join(names),
        found=", ".join(curves),
        remedy=near_miss(names[0], curves),
    )


def downward(method: Method, cosine: Number) -> float:
    """Tz, the transmittance from the sun to the ground."""
    if method not in ("dos1", "cost"):
        raise CubeError("no such correction", expected="dos1 or cost", found=repr(method))
    return 1.0 if method == "dos1" else float(cosine)


def to_reflectance(sun: Number, cosine: Number, distance: Number, downward: Number = 1.0) -> float:
    """pi d^2 / (E cos Tz): reflectance a unit of radiance.

    Raises:
      CubeError: a sun too low to divide by.
    """
    if not LOWEST_COSINE <= cosine <= 1:
        raise CubeError(
            "sun too low for reflectance",
            expected=f"cosine of the solar zenith angle in {LOWEST_COSINE}..1",
            found=f"{cosine:.4g}",
            remedy="leave the scene out",
        )
    if sun <= 0 or not 0.9 < distance < 1.1:
        raise CubeError("impossible sun", expected="E > 0, distance in 0.9..1.1 AU",
                        found=f"E = {sun:.4g}, distance = {distance:.4g}")  # fmt: skip
    return math.pi * distance**2 / (sun * cosine * downward)
