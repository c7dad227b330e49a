"""State -> the pixels of one acquisition, with all that goes wrong on the way.

Optical: illumination of slopes, crown texture and view angle, calibration, shadows, clouds, haze,
detector noise; Landsat sees 30 m and is repeated onto the 10 m grid, and Landsat 7 lost its scan
line corrector. Radar: rain, wet canopies, slopes that face the beam, speckle. The spreads below
are the only knowledge of errors that the oracle gets.

    Scene, date --optics, sky--> reflectance f32 [C,H,W], valid [1,H,W]
    Scene, date --radar, speckle--> dB f32 [2,H,W], valid [1,H,W]
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from data_zarr.world import optics, phenology, radar
from data_zarr.world.clouds import seen_through, sky
from data_zarr.world.fields import gaussian_field, stream
from data_zarr.world.presets import Preset
from data_zarr.world.scene import Scene, make_terrain

GAIN = 0.03
"""Spread of a date's calibration and view angle, a factor common to its bands."""

TEXTURE = 0.04
"""Spread of crown texture on a date: a factor, common to bands, correlated over some pixels."""

TEXTURE_SCALE = 4.0

VIGOUR = 0.06
"""Spread of leaf pigment and structure about the season: a smooth factor on the near infrared."""

DROUGHT = 0.09
"""Spread of leaf and soil water about the season: a smooth factor on the short-wave infrared."""

WEATHER_SCALE = 16.0

BAND = 0.02
"""Spread of what adjacent pixels and correction leave in each band alone: a smooth factor."""

BAND_SCALE = 10.0

HAZE = 0.016
"""Spread of what atmospheric correction leaves, as reflectance at 0.49 um."""

NOISE = 0.006
"""Spread of detector noise, as reflectance, per pixel and band."""

WET_DB = 0.7
"""Spread of the radar's canopy wetness and calibration on a date, common to VV and VH, smooth."""

WET_SCALE = 20.0

RAIN = 0.12
"""Spread of soil water about its season, one number a radar date."""

LANDSAT_PIXEL = 3
"""Landsat pixels are this many of the grid's."""


def optical(
    seed: int,
    world: Preset,
    scene: Scene,
    bandset: str,
    i: int,
    date: np.datetime64,
    platform: str,
    wavelength: Float[np.ndarray, " C"],
    fwhm: Float[np.ndarray, " C"],
) -> tuple[Float[np.ndarray, "C H W"], Bool[np.ndarray, "1 H W"]]:
    """Surface reflectance as delivered by acquisition `i` of an optical band set."""
    size, doy = world.size, phenology.day_of_year(date)
    spectra = optics.spectra_at(wavelength, fwhm)
    surface = optics.reflectance(scene.state, doy, phenology.years_before(date, world.end), spectra)
    zenith, azimuth = phenology.sun(doy)
    rng = stream(seed, "surface", bandset, i)
    gain = 1.0 + GAIN * float(rng.standard_normal())
    texture = np.float32(TEXTURE) * gaussian_field(rng, size, TEXTURE_SCALE)
    for shape in spread_of_weather(wavelength):
        texture = texture + shape[:, None, None] * gaussian_field(rng, size, WEATHER_SCALE)
    for factor in texture:
        factor += np.float32(BAND) * gaussian_field(rng, size, BAND_SCALE)
    surface *= np.float32(gain) * optics.illumination(scene.terrain, zenith, azimuth)
    surface *= np.exp(texture)
    air = sky(
        stream(seed, "sky", bandset, i),
        size,
        cloud_cover(seed, world, bandset, i),
        azimuth,
        HAZE,
    )
    pixels, valid = seen_through(surface, air, wavelength), air.valid[None]
    noise = stream(seed, "noise", bandset, i).standard_normal(pixels.shape, np.float32)
    if bandset.startswith("landsat"):
        pixels, valid = coarse(pixels, LANDSAT_PIXEL), coarse(valid, LANDSAT_PIXEL) == 1
        first = np.arange(size) // LANDSAT_PIXEL * LANDSAT_PIXEL
        noise = noise[:, first[:, None], first]
    if platform == "landsat-7":
        valid = valid & ~scan_gaps(size)
    return (pixels + np.float32(NOISE) * noise).astype(np.float32), valid


def sar(
    seed: int, world: Preset, scene: Scene, i: int, date: np.datetime64
) -> tuple[Float[np.ndarray, "2 H W"], Bool[np.ndarray, "1 H W"]]:
    """Backscatter in dB as delivered by radar acquisition `i`; radar sees every pixel."""
    size = world.size
    rng = stream(seed, "radar", i)
    power = radar.backscatter(
        scene.state,
        phenology.day_of_year(date),
        phenology.years_before(date, world.end),
        rain=RAIN * float(rng.standard_normal()),
    )
    wet = gaussian_field(rng, size, WET_SCALE)
    power *= radar.terrain_gain(scene.terrain) * np.float32(10.0) ** (np.float32(WET_DB / 10) * wet)
    power *= radar.speckle(rng, power.shape)
    return radar.decibel(power), np.ones((1, size, size), bool)


def spread_of_weather(wavelength: Float[np.ndarray, " C"]) -> Float[np.ndarray, "2 C"]:
    """How a dry or lush spell moves the bands of one date, as the spread of a log factor."""
    near = np.interp(wavelength, (0.69, 0.75, 1.2, 1.4), (0.0, 1.0, 1.0, 0.0))
    short = np.interp(wavelength, (1.2, 1.5), (0.0, 1.0))
    return np.stack([VIGOUR * near, DROUGHT * short]).astype(np.float32)


def elevation(seed: int, world: Preset) -> Float[np.ndarray, "H W"]:
    """The terrain model in m, as a product with half a metre of error."""
    error = stream(seed, "dem").standard_normal((world.size, world.size), np.float32)
    return make_terrain(seed, world).elevation + np.float32(0.5) * error


def cloud_cover(seed: int, world: Preset, bandset: str, i: int) -> float:
    """Share of the sky on a date: mostly some clouds; the preset may name overcast dates."""
    if (bandset, i) in world.overcast:
        return 1.0
    return float(stream(seed, "cover", bandset, i).uniform(0.0, 0.25))


def coarse(x: np.ndarray, n: int) -> Float[np.ndarray, "C H W"]:
    """Means over n x n pixels, repeated; the last row and column of blocks may be smaller."""
    height, width = x.shape[-2:]
    rows, columns = np.arange(0, height, n), np.arange(0, width, n)
    total = np.add.reduceat(np.add.reduceat(x.astype(np.float32), rows, -2), columns, -1)
    tall = np.diff(np.append(rows, height)).astype(np.float32)
    wide = np.diff(np.append(columns, width)).astype(np.float32)
    mean = total / (tall[:, None] * wide)
    return mean.repeat(n, -2)[..., :height, :].repeat(n, -1)[..., :width]


def scan_gaps(size: int) -> Bool[np.ndarray, "H W"]:
    """Landsat 7 after May 2003: slanted stripes without data, wider away from the centre line."""
    y, x = np.indices((size, size))
    width = 3.0 + 9.0 * np.abs(x - size / 2) / size
    return (y + 0.15 * x) % 33 < width
