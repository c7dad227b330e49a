"""Clouds, their shadows, haze, and a mask that is good but not perfect.

opacity [H,W] (0 clear, 1 opaque) --threshold, grow--> valid [H,W]
   what the threshold misses stays in the pixels as thin haze
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from data_zarr.sampling import box_sums, integral
from data_zarr.world.fields import gaussian_field

CLOUD = 0.62
"""Reflectance of an opaque cloud."""

SHADOW = 0.55
"""Share of light that the shadow of an opaque cloud takes away."""

_DETECTED = 0.12
_SHIFT = 9
_GROW = 2


@dataclass(frozen=True, eq=False)
class Sky:
    """One date's atmosphere.

    Attributes:
      opacity: of clouds, 0 to 1.
      shade: of cloud shadows, 0 to 1.
      haze: aerosol that the atmospheric correction left or overcorrected, as reflectance at
        0.49 um; smooth, of either sign.
      valid: the mask that ships with the pixels.
    """

    opacity: Float[np.ndarray, "H W"]
    shade: Float[np.ndarray, "H W"]
    haze: Float[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]


def sky(rng: np.random.Generator, size: int, cover: float, azimuth: float, haze: float) -> Sky:
    """The atmosphere of one date.

    Args:
      rng: its random numbers.
      size: edge in pixels.
      cover: share of the sky covered, 0 to 1.
      azimuth: of the sun; shadows fall on the other side.
      haze: standard deviation of the haze.
    """
    field = gaussian_field(rng, size + 2 * _SHIFT, 24.0, roughness=3.4)
    level = float(np.quantile(field, 1.0 - np.clip(cover, 0.0, 1.0)))
    opacity = 1.0 - np.exp(-(np.maximum(2.5 * (field - level + 0.12), 0.0) ** 1.5))
    # Row 0 is the north, so a shadow moves by (+cos, -sin) of the sun's azimuth.
    dy, dx = round(_SHIFT * np.cos(azimuth)), round(-_SHIFT * np.sin(azimuth))
    over = opacity[_SHIFT : _SHIFT + size, _SHIFT : _SHIFT + size]
    shade = opacity[_SHIFT - dy : _SHIFT - dy + size, _SHIFT - dx : _SHIFT - dx + size]
    cloudy = (over > _DETECTED) | (shade > 3 * _DETECTED)
    return Sky(
        opacity=over.astype(np.float32),
        shade=shade.astype(np.float32),
        haze=np.float32(haze) * gaussian_field(rng, size, 30.0),
        valid=~_grown(cloudy, _GROW),
    )


def aerosol(wavelength: Float[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """Spectral shape of haze, 1 at 0.49 um: Angstrom's law with exponent 1.5."""
    return ((wavelength / 0.49) ** -1.5).astype(np.float32)


def seen_through(
    surface: Float[np.ndarray, "C H W"], sky: Sky, wavelength: Float[np.ndarray, " C"]
) -> Float[np.ndarray, "C H W"]:
    """What a sensor records of a surface under a sky."""
    lit = surface * (1.0 - np.float32(SHADOW) * sky.shade)
    hazy = lit + aerosol(wavelength)[:, None, None] * sky.haze
    return hazy * (1.0 - sky.opacity) + np.float32(CLOUD) * sky.opacity


def _grown(mask: Bool[np.ndarray, "H W"], r: int) -> Bool[np.ndarray, "H W"]:
    y, x = np.indices(mask.shape)
    edge = 2 * r + 1
    return (
        box_sums(integral(mask), y.ravel() - r, x.ravel() - r, edge, edge).reshape(mask.shape) > 0
    )
