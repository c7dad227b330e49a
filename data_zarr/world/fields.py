"""Named streams of random numbers, and smooth random fields made from them.

A stream is seeded by the world's seed and by *what it is for*, so adding a date or a sensor
changes no other number of the world.
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Float


def stream(seed: int, *purpose: object) -> np.random.Generator:
    """The random numbers for one purpose, e.g. `stream(7, "speckle", "s1_db", 3)`."""
    words = [zlib.crc32(str(p).encode()) for p in purpose]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def gaussian_field(
    rng: np.random.Generator, size: int, scale: float, roughness: float = 4.0
) -> Float[np.ndarray, "H W"]:
    """A stationary Gaussian random field of mean 0 and variance 1 (in expectation over space).

    Its power spectrum is flat below the wave number 1 / scale and falls as k ** -roughness above
    (a von Karman spectrum): larger `roughness`, smoother field. It is made on a larger torus and
    cropped, so opposite edges are independent.

    Args:
      rng: its random numbers.
      size: edge in pixels.
      scale: correlation length in pixels.
      roughness: exponent of the spectrum.

    Returns:
      float32 [size, size].
    """
    padded = size + int(4 * scale)
    padded += padded % 2
    k = np.hypot(
        np.fft.fftfreq(padded)[:, None] * 2 * np.pi, np.fft.rfftfreq(padded)[None, :] * 2 * np.pi
    )
    amplitude = (1.0 + (k * scale) ** 2) ** (-roughness / 4)
    noise = np.fft.rfft2(rng.standard_normal((padded, padded)))
    field = np.fft.irfft2(noise * amplitude, s=(padded, padded))
    # The variance is that of the spectrum, not of this realisation: a scene may be extreme.
    weight = np.full(k.shape[1], 2.0)
    weight[[0, -1]] = 1.0
    field /= np.sqrt((amplitude**2 * weight).sum() / padded**2)
    return field[:size, :size].astype(np.float32)
