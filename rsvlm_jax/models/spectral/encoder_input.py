"""From physical frames to what the vision tower reads: the only place that knows statistics,
stretch and resizing.

    Frames [B,T,G,H,W,3] --normalise by FrameStats [G,3]--> --resize--> images [B*T*G,S,S,3]
           [B,T,G,H,W]  --------------------resize-------> patch_valid [B,T,G,P]

Resizing averages valid pixels only (resize(x * valid) / resize(valid)); where nothing valid is in
reach, the image is 0, which is the mean of the training split under "zscore" and of the RGB images
of a pretrained tower under "minmax".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import DataError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Observation

from .plan import RecombinePlan
from .recombine import Frames, recombine

MIN_WEIGHT = 1e-6
"""A resized pixel needs this share of valid area; rounding errors of the filter stay below it."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class FrameStats:
    """Statistics of the frames of a training split, in physical units, by group and slot.

    Attributes:
      low, high: 2nd and 98th percentile, read by the "minmax" stretch.
    """

    mean: Float[Array, "G 3"]
    std: Float[Array, "G 3"]
    low: Float[Array, "G 3"]
    high: Float[Array, "G 3"]


def frame_stats(
    plan: RecombinePlan, observations: Iterable[Observation], *, sample: int = 200_000
) -> FrameStats:
    """Statistics over the valid frame pixels of all observations, read once.

    Mean and standard deviation are exact (float64, batches merged after Chan et al. 1979). The
    percentiles are exact up to `sample` valid pixels a group; beyond that they come from a uniform
    sample of this many, drawn with a fixed seed.

    Raises:
      DataError: a group has no valid pixel, or a slot is constant.
    """
    make = jax.jit(lambda obs: recombine(obs, plan))
    moments = [_Moments(sample) for _ in plan.groups]
    for obs in observations:
        frames = make(jax.tree.map(jnp.asarray, obs))
        pixels, valid = np.asarray(frames.pixels), np.asarray(frames.valid)
        for g, m in enumerate(moments):
            m.add(pixels[:, :, g][valid[:, :, g]].astype(np.float64))
    for group, m in zip(plan.groups, moments, strict=True):
        where = f"{plan.spec.name}, group {group.name}"
        if m.count == 0:
            raise DataError("no valid pixel to normalise by", where=where, expected="at least one")
        if not (m.square > 0).all():
            slot = "RGB"[int(np.argmin(m.square))]
            raise DataError(
                "a band is constant over the training split",
                where=f"{where}, slot {slot}",
                expected="a standard deviation above 0",
                found=0,
                remedy="check the band, or leave it out by `bands`",
            )
    low, high = zip(*(np.percentile(m.kept, (2, 98), axis=0) for m in moments), strict=True)

    def array(rows: Sequence[np.ndarray]) -> Array:
        return jnp.asarray(np.stack(rows), jnp.float32)

    return FrameStats(
        mean=array([m.mean for m in moments]),
        std=array([np.sqrt(m.square / m.count) for m in moments]),
        low=array(low),
        high=array(high),
    )


class _Moments:
    """Count, mean, summed squares about it, and a uniform sample, of a stream of [n, 3] rows."""

    def __init__(self, sample: int) -> None:
        self.count = 0
        self.mean, self.square = np.zeros(3), np.zeros(3)
        self.sample = sample
        self.kept, self._key = np.zeros((0, 3)), np.zeros(0)
        self._rng = np.random.default_rng(0)

    def add(self, rows: np.ndarray) -> None:
        n = len(rows)
        if n == 0:
            return
        mean = rows.mean(0)
        delta, total = mean - self.mean, self.count + n
        self.square += ((rows - mean) ** 2).sum(0) + delta**2 * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total
        # Every row draws a random key and the smallest keys stay: a uniform sample of a stream.
        kept = np.concatenate([self.kept, rows])
        key = np.concatenate([self._key, self._rng.random(n)])
        if len(key) > self.sample:
            chosen = np.argpartition(key, self.sample)[: self.sample]
            kept, key = kept[chosen], key[chosen]
        self.kept, self._key = kept, key


def to_encoder(
    frames: Frames,
    stats: FrameStats,
    size: int,
    *,
    stretch: Literal["zscore", "minmax"] = "zscore",
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.25, 0.25, 0.25),
) -> Float[Array, "F S S 3"]:
    """Images for the vision tower, F = B*T*G of them, each size x size.

    Args:
      stretch: "zscore" by `stats.mean` and `stats.std`; "minmax" from [low, high] to [0, 1],
        clipped, then by `mean` and `std`.
      mean, std: of the RGB images in [0, 1] that the tower was trained on (`ViTConfig`).
    """
    f = frames.pixels
    if stretch == "zscore":
        f = (f - _by_slot(stats.mean)) / _by_slot(stats.std)
    else:
        span = jnp.maximum(stats.high - stats.low, jnp.finfo(jnp.float32).tiny)
        f = jnp.clip((f - _by_slot(stats.low)) / _by_slot(span), 0.0, 1.0)
        f = (f - _by_slot(jnp.asarray([mean]))) / _by_slot(jnp.asarray([std]))
    shape = (-1, *f.shape[3:5])
    valid = frames.valid.reshape(*shape, 1)
    images = jnp.where(valid, f.reshape(*shape, 3), 0.0)
    if f.shape[3:5] == (size, size):
        return images
    weight = _resize(valid.astype(jnp.float32), size)
    some = weight > MIN_WEIGHT
    return jnp.where(some, _resize(images, size) / jnp.where(some, weight, 1.0), 0.0)


def patch_valid(frames: Frames, size: int, patch: int) -> Bool[Array, "B T G P"]:
    """Whether a patch of the resized frame has at least one valid pixel, row by row.

    Pixels at the right and bottom edge that fill no patch belong to none.
    """
    b, t, g, h, w = frames.valid.shape
    valid = frames.valid.reshape(b * t * g, h, w, 1)
    if (h, w) != (size, size):
        valid = _resize(valid.astype(jnp.float32), size) > MIN_WEIGHT
    n = size // patch
    valid = valid[:, : n * patch, : n * patch]
    blocks = valid.reshape(b, t, g, n, patch, n, patch)
    return blocks.any(axis=(4, 6)).reshape(b, t, g, n * n)


def _by_slot(x: Float[Array, "G 3"]) -> Float[Array, "1 1 G 1 1 3"]:
    return x[None, None, :, None, None, :]


def _resize(x: Float[Array, "F H W c"], size: int) -> Float[Array, "F S S c"]:
    """Linear; when shrinking, the filter is widened so that every source pixel counts."""
    return jax.image.resize(x, (x.shape[0], size, size, x.shape[3]), "linear", antialias=True)
