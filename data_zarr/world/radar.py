"""State and date -> C-band backscatter, VV and VH; speckle.

A water-cloud model (Attema and Ulaby 1978, Radio Science 13): a canopy that saturates with
the size of the stand, over a ground that depends on soil water. Radar does not tell light wood
from heavy: for that one needs to know the trees, which optical dates do.

    State [...] , doy, rain  -->  power [2, ...]  (VV, VH)   --speckle, dB-->  pixels
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

from data_zarr.world import phenology
from data_zarr.world.scene import State, Terrain, stand

POLARISATIONS = ("VV", "VH")
LOOKS = 5.0
"""Equivalent number of looks: speckle is gamma distributed with relative variance 1 / LOOKS."""

INCIDENCE = float(np.deg2rad(38.0))
LOOK_AZIMUTH = float(np.deg2rad(100.0))
"""The beam comes from the west: it travels towards this azimuth."""

_SATURATION = np.array([60.0, 100.0], np.float32)
_VOLUME_DB = np.array([-8.5, -13.5], np.float32)
_GROUND_DB = np.array([-15.0, -23.0], np.float32)
_WATER_DB = np.array([8.0, 4.0], np.float32)
_GRASS = np.array([0.006, 0.002], np.float32)


def backscatter(
    state: State, doy: float, years_before: float, rain: float
) -> Float[np.ndarray, "2 *S"]:
    """Linear power on flat ground.

    Args:
      state: arrays of one shape S.
      doy: day of the year.
      years_before: of the last day of the series.
      rain: departure of soil water from its season, on that date.
    """

    def pol(x: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "2 *S"]:
        return x.reshape(-1, *([1] * np.ndim(state.cover)))

    season = np.float32(0.3 * phenology.wetness(doy) + rain)
    water = np.clip(np.float32(0.6) * state.moisture + season, 0.0, 1.0)
    ground = np.float32(10.0) ** ((pol(_GROUND_DB) + pol(_WATER_DB) * water) / np.float32(10.0))
    ground = ground + pol(_GRASS) * (np.float32(phenology.grass_share(doy)) * state.grass)
    through = np.exp(-stand(state, years_before) / pol(_SATURATION))
    volume = np.float32(10.0) ** (pol(_VOLUME_DB) / np.float32(10.0))
    return volume * (np.float32(1.0) - through) + ground * through


def terrain_gain(terrain: Terrain) -> Shaped[np.ndarray, "..."]:
    """Power of a slope over that of flat ground: slopes that face the beam are brighter."""
    towards = LOOK_AZIMUTH + np.pi
    cos_local = np.cos(INCIDENCE) * np.cos(terrain.slope) + np.sin(INCIDENCE) * np.sin(
        terrain.slope
    ) * np.cos(towards - terrain.aspect)
    return (np.maximum(cos_local / np.cos(INCIDENCE), 0.1) ** 2).astype(np.float32)


def speckle(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Multiplicative, of mean 1."""
    return (rng.standard_gamma(LOOKS, shape) / LOOKS).astype(np.float32)


def decibel(power: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return np.float32(10.0) * np.log10(np.maximum(power, np.float32(1e-6)))
