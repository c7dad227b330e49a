"""State and date -> surface reflectance of any optical band.

Two layers and a shadow, all by Beer's law: soil under grass, seen through a canopy whose leaf area
saturates; tall stands darken, most where the sky does not fill their shadows (infrared). In the
visible, grass and trees look alike, so RGB tells green from bare and little else: that is why the
world needs more than RGB. The spectra are stylised after common library shapes (soil, grass,
broadleaf, needleleaf), not measured.

    State [...] , doy, wavelengths [C]  -->  reflectance [C, ...]  (flat ground)
    terrain, sun                        -->  illumination [...]    (multiplies it)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from data_zarr.world import phenology
from data_zarr.world.scene import State, Terrain

_MICROMETRES = (0.44, 0.49, 0.56, 0.665, 0.705, 0.74, 0.783, 0.842, 0.865, 0.945, 1.61, 2.20)
SPECTRA = {
    "soil": (0.09, 0.11, 0.15, 0.20, 0.215, 0.23, 0.245, 0.26, 0.265, 0.28, 0.34, 0.32),
    "grass": (0.025, 0.033, 0.062, 0.040, 0.11, 0.27, 0.34, 0.37, 0.38, 0.38, 0.24, 0.13),
    "broadleaf": (0.024, 0.031, 0.060, 0.037, 0.10, 0.30, 0.40, 0.43, 0.44, 0.44, 0.19, 0.085),
    "needleleaf": (0.023, 0.030, 0.055, 0.036, 0.08, 0.19, 0.25, 0.27, 0.28, 0.28, 0.12, 0.05),
    "shadow": (0.05, 0.06, 0.08, 0.10, 0.22, 0.40, 0.46, 0.48, 0.48, 0.50, 0.65, 0.68),
}
"""Reflectance of closed covers; `shadow`: what deep crown shadow takes away, as a share."""

_EXTINCTION = np.float32(0.6)
_LEAF_AREA = np.float32(5.0)
_SHADOW_DEPTH = np.float32(7.0)


class Spectra(NamedTuple):
    """`SPECTRA` at the bands of one sensor, each float32 [C]."""

    soil: Float[np.ndarray, " C"]
    grass: Float[np.ndarray, " C"]
    broadleaf: Float[np.ndarray, " C"]
    needleleaf: Float[np.ndarray, " C"]
    shadow: Float[np.ndarray, " C"]


def spectra_at(wavelength: Float[np.ndarray, " C"], fwhm: Float[np.ndarray, " C"]) -> Spectra:
    """Averages over each band's box of width `fwhm`, so sensors differ a little. Micrometres."""
    steps = np.linspace(-0.5, 0.5, 9)
    grid = wavelength[:, None] + fwhm[:, None] * steps
    return Spectra(
        **{
            name: np.interp(grid, _MICROMETRES, values).mean(axis=1).astype(np.float32)
            for name, values in SPECTRA.items()
        }
    )


def reflectance(
    state: State, doy: float, years_before: float, spectra: Spectra
) -> Float[np.ndarray, "C *S"]:
    """Surface reflectance on flat ground.

    Args:
      state: arrays of one shape S.
      doy: day of the year.
      years_before: of the last day of the series.
      spectra: of the sensor.
    """

    def band(x: Float[np.ndarray, " C"]) -> Float[np.ndarray, "C *S"]:
        return x.reshape(-1, *([1] * np.ndim(state.cover)))

    water = state.moisture * np.float32(phenology.wetness(doy))
    soil = band(spectra.soil) * (state.soil * (np.float32(1.0) - np.float32(0.5) * water))
    through_grass = np.exp(-_EXTINCTION * np.float32(phenology.grass_share(doy)) * state.grass)
    ground = soil * through_grass + band(spectra.grass) * (np.float32(1.0) - through_grass)
    cover = state.cover_at(years_before)
    leaves = phenology.leaf_share(doy, state.evergreen)
    through_trees = np.exp(-_EXTINCTION * _LEAF_AREA * cover * leaves)
    crown = band(spectra.broadleaf) + band(spectra.needleleaf - spectra.broadleaf) * state.evergreen
    shadow = np.float32(1.0) - np.exp(-cover * state.height / _SHADOW_DEPTH)
    seen = ground * through_trees + crown * (np.float32(1.0) - through_trees)
    return seen * (np.float32(1.0) - band(spectra.shadow) * shadow)


def illumination(terrain: Terrain, zenith: float, azimuth: float) -> Shaped[np.ndarray, "..."]:
    """Brightness of a slope over that of flat ground (Minnaert with k = 0.7, at least 0.1).

    `cos i = cos z cos s + sin z sin s cos(azimuth - aspect)`; Teillet et al. 1982, Can. J. Remote
    Sens. 8. Terrain correction leaves part of this in every real product.
    """
    cos_i = np.cos(zenith) * np.cos(terrain.slope) + np.sin(zenith) * np.sin(
        terrain.slope
    ) * np.cos(azimuth - terrain.aspect)
    ratio = np.maximum(cos_i / np.cos(zenith), 0.1)
    return (ratio**0.7).astype(np.float32)
