"""Rotary position embedding in Hugging Face's half-split convention.

Feature i of the first half of a head turns with feature i of the second half:

    head   [ a0 a1 a2 a3 | b0 b1 b2 b3 ]      angle of pair (ai, bi) = position * theta^(-i / 4)

    position [B,L] --turns--> cos, sin [B,L,Dh/2] --rotate--> q [B,L,H,Dh], k [B,L,Hkv,Dh]

Angles are the same for all layers: a decoder makes them once and its layers only rotate.
Checkpoints in the original Llama layout (adjacent pairs a0 b0 a1 b1 ...) are permuted when they are
imported (`rsvlm_jax.interop`), never here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import RopeScaling
from rsvlm_jax.core.shapes import Array, Float, Int


class Turns(NamedTuple):
    """Cosines and sines of the angles, float32."""

    cos: Float[Array, "B L half"]
    sin: Float[Array, "B L half"]


def rope(
    x: Float[Array, "B L H Dh"], position: Int[Array, "B L"], theta: float
) -> Float[Array, "B L H Dh"]:
    """Turn each pair of `x` by its position (Su et al. 2021, eq. 34); angles in float32."""
    return rotate(x, turns(position, x.shape[-1], theta))


def rotate(x: Float[Array, "B L H Dh"], by: Turns) -> Float[Array, "B L H Dh"]:
    """Each pair of `x` turned, in float32."""
    cos, sin = by.cos[:, :, None], by.sin[:, :, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def turns(
    position: Int[Array, "B L"],
    dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
    max_length: int = 0,
) -> Turns:
    """Angles of every position.

    "dynamic" scaling depends on how long a sequence is by now: 1 + the largest of its positions
    in this call, each row of a batch by itself, so that no sample depends on its neighbours. In
    decoding the new token turns by the frequencies of its own length, while keys in the cache
    keep those of the time when they were written, as in `transformers`.

    Args:
      dim: width of a head.
      theta: base of the frequencies.
      max_length: of pretraining; read by "dynamic" only.
    """
    if scaling is not None and scaling.rope_type == "dynamic":
        frequency = _dynamic(position, dim, theta, scaling.factor, max_length)
    else:
        frequency = jnp.asarray(frequencies(dim, theta, scaling))[None]
    angle = position.astype(jnp.float32)[:, :, None] * frequency[:, None, :]
    return Turns(jnp.cos(angle), jnp.sin(angle))


def frequencies(dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians a position, float32 [dim / 2]: those that do not depend on the sequence.

    They are made on the host, rounded where `transformers` rounds them: at position 4096 an error
    in the last place of a frequency is one of 2e-4 in the angle.

    "linear" divides all by `factor`. "llama3" (Llama 3.1) divides those whose wavelength is longer
    than `original / low_freq_factor`, keeps those shorter than `original / high_freq_factor`, and
    interpolates between.
    """
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequency = np.float32(1) / (theta ** exponent.astype(np.float64)).astype(np.float32)
    if scaling is None:
        return frequency
    factor = np.float32(scaling.factor)
    if scaling.rope_type == "linear":
        return frequency / factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    original = scaling.original_max_position_embeddings
    assert scaling.rope_type == "llama3"
    assert original is not None
    wavelength = np.float32(2 * math.pi) / frequency
    share = (np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low)
    between = (np.float32(1) - share) * frequency / factor + share * frequency
    long, short = wavelength > original / low, wavelength < original / high
    return np.where(long, frequency / factor, np.where(short, frequency, between))


def _dynamic(
    position: Int[Array, "B L"], dim: int, theta: float, factor: float, max_length: int
) -> Float[Array, "B half"]:
    """NTK-aware scaling: the base grows with the length beyond `max_length`.

    base = theta (factor * length / max_length - (factor - 1))^(dim / (dim - 2))
    """
    length = jnp.maximum(position.max(axis=1) + 1, max_length).astype(jnp.float32)
    base = theta * (factor * length / max_length - (factor - 1)) ** (dim / (dim - 2))
    exponent = jnp.asarray(np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    return 1.0 / base[:, None] ** exponent[None]
