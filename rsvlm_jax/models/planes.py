"""What each pixel of a window shows, for heads that answer about pixels.

    z [B,T,C,H,W], valid [B,T,1|C,H,W] -> planes [B,H,W,2C + masks]

Mean and deviation over the dates that show the pixel, and the share of the dates that do; nothing
of a date that does not. No parameters. What the fronts standardise is theirs (`spectral.front`,
`pixel`); how pixels become answers is in `heads.dense`.
"""

from __future__ import annotations

import jax.numpy as jnp

from rsvlm_jax.core.shapes import Array, Bool, Float

CLIP = 5.0
"""Standardised values beyond this are clouds that a mask has missed, and the like."""

FLOOR = 1e-6
"""Of a variance: the deviation of a single date has a gradient."""


def plane_count(channels: int, masks: int) -> int:
    """F of `composite`."""
    return 2 * channels + masks


def composite(
    z: Float[Array, "B T C H W"], valid: Bool[Array, "B T M H W"]
) -> Float[Array, "B H W F"]:
    """Args:
    z: standardised; values that are not valid change nothing.
    valid: of each channel, or of as many in a row as M goes into C.
    """
    each = jnp.repeat(valid, z.shape[2] // valid.shape[2], axis=2)
    z = jnp.where(each, jnp.clip(z, -CLIP, CLIP), 0.0)
    count = jnp.maximum(each.sum(axis=1, dtype=jnp.float32), 1.0)
    mean = z.sum(axis=1) / count
    off = jnp.where(each, z - mean[:, None], 0.0)
    deviation = jnp.sqrt(jnp.square(off).sum(axis=1) / count + FLOOR)
    share = valid.astype(jnp.float32).mean(axis=1)
    return jnp.moveaxis(jnp.concatenate([mean, deviation, share], axis=1), 1, -1)


def fitted(planes: Float[Array, "B h w F"], window: int) -> Float[Array, "B H W F"]:
    """Pixels of a coarser band set repeated until a window is `window` pixels wide."""
    times = window // planes.shape[1]
    if times == 1:
        return planes
    return jnp.repeat(jnp.repeat(planes, times, axis=1), times, axis=2)
