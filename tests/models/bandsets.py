"""Band sets and observations for the tests of this folder."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import BandSetSpec, BandSpec
from rsvlm_jax.data.batch import Batch, Observation

S2 = (
    ("B01", 0.443),
    ("B02", 0.490),
    ("B03", 0.560),
    ("B04", 0.665),
    ("B05", 0.704),
    ("B06", 0.740),
    ("B07", 0.783),
    ("B08", 0.833),
    ("B8A", 0.865),
    ("B09", 0.945),
    ("B10", 1.374),
    ("B11", 1.610),
    ("B12", 2.190),
)


def optical(name: str, bands, *, fwhm: float | None = 0.03, scale: float = 1.0) -> BandSetSpec:
    made = tuple(BandSpec(n, None, w, fwhm, scale) for n, w in bands)
    return BandSetSpec(name, "optical", made)


def sar(*names: str, unit: str = "dB") -> BandSetSpec:
    return BandSetSpec("s1", "sar", tuple(BandSpec(n, unit=unit) for n in names))


L1C = optical("s2", S2)
L2A = optical("s2_l2a", [b for b in S2 if b[0] != "B10"])
RGB = optical("rgb", [("R", 0.665), ("G", 0.560), ("B", 0.490)])
LANDSAT = optical(
    "landsat",
    [("B", 0.482), ("G", 0.561), ("R", 0.655), ("N", 0.865), ("S1", 1.609), ("S2", 2.201)],
)
LANDSAT8 = optical("l8", [("C", 0.443), *((b.name, b.wavelength) for b in LANDSAT.bands)])
THEOS = optical("theos", [("B", 0.485), ("G", 0.56), ("R", 0.655), ("N", 0.835)])
MODIS = optical(
    "modis",
    [
        ("1", 0.645),
        ("2", 0.8585),
        ("3", 0.469),
        ("4", 0.555),
        ("5", 1.24),
        ("6", 1.64),
        ("7", 2.13),
    ],
)
WEATHER = BandSetSpec("era5", "covariate", (BandSpec("t2m", unit="K"), BandSpec("tp", unit="m")))


def observation(spec: BandSetSpec, pixels, valid=None, **given) -> Observation:
    """An observation of `pixels` [B,T,C,H,W], valid everywhere unless said."""
    pixels = jnp.asarray(pixels)
    b, t = pixels.shape[:2]
    valid = jnp.ones((b, t, 1, *pixels.shape[3:]), bool) if valid is None else jnp.asarray(valid)
    dates = 8000.0 + 37.0 * jnp.arange(t, dtype=jnp.float32)
    fields = {
        "date": jnp.broadcast_to(dates[None], (b, t)),
        "year_known": jnp.ones((b,), bool),
        "platform": jnp.ones((b, t), jnp.int32),
        "lonlat": jnp.zeros((b, 2), jnp.float32),
        "gsd": jnp.full((b,), 10.0, jnp.float32),
    }
    return Observation(pixels=pixels, valid=valid, bandset=spec.name, **{**fields, **given})


def random_observation(spec: BandSetSpec, b=2, t=3, h=8, *, seed=0, share=0.8) -> Observation:
    """Random reflectances (or dB) and a random mask for each band."""
    rng = np.random.default_rng(seed)
    shape = (b, t, len(spec.bands), h, h)
    low, high = (-25, 0) if spec.kind == "sar" else (0.02, 0.6)
    pixels = rng.uniform(low, high, shape).astype(np.float32)
    return observation(spec, pixels, rng.random(shape) < share)


def garbage(obs: Observation, seed: int = 1) -> Observation:
    """The same observation with other values wherever it is not valid: huge, NaN, infinite."""
    rng = np.random.default_rng(seed)
    pixels = np.array(obs.pixels)
    noise = rng.choice([np.nan, np.inf, -np.inf, 1e30, -9999.0, 0.0], pixels.shape)
    valid = np.broadcast_to(np.asarray(obs.valid), pixels.shape)
    return dataclasses.replace(
        obs, pixels=jnp.asarray(np.where(valid, pixels, noise.astype(np.float32)))
    )


def text_batch(obs: dict[str, Observation], *, n: int, q: int, length: int = 16) -> Batch:
    """`<bos> <image>*n text... <reg>*q <eos>` for every sample; `<image>` 512, `<reg>` 513."""
    b = next(iter(obs.values())).pixels.shape[0]
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, 500, (b, length))
    slot = np.full((b, length), -1)
    tokens[:, 0], tokens[:, -1] = 1, 2
    tokens[:, 1 : n + 1], slot[:, 1 : n + 1] = 512, np.arange(n)
    tokens[:, length - 1 - q : length - 1] = 513
    i32 = jnp.int32
    return Batch(
        obs=obs,
        tokens=jnp.asarray(tokens, i32),
        segment=jnp.ones((b, length), i32),
        position=jnp.broadcast_to(jnp.arange(length, dtype=i32)[None], (b, length)),
        weight=jnp.ones((b, length), jnp.float32),
        image_slot=jnp.asarray(slot, i32),
        target=jnp.asarray(rng.random((b, 1)), jnp.float32),
        target_valid=jnp.ones((b, 1), bool),
        sample=jnp.arange(b, dtype=i32),
    )
