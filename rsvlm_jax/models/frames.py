"""What is known about the tokens of frames before fusion: which are valid, of what date and group.

    valid [B,T,G,cells] --of_tower--> [B,T,G,P] --of_resampler--> [B,T,G,P'] --known--> [B,S] each

No parameters. The order of tokens is that of the tower and the resampler; S runs over dates,
groups and tokens.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsvlm_jax.config import MixedConfig, PixelShuffleConfig, VisionConfig, VLMConfig
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.data.batch import Observation


class Known(NamedTuple):
    """What is known about each token."""

    valid: Bool[Array, "B S"]
    date: Float[Array, "B S"]
    platform: Int[Array, "B S"]
    group: Int[Array, "B S"]
    year_known: Bool[Array, "B S"]


def known(obs: Observation, valid: Bool[Array, "B T G P"], group: Int[Array, " G"]) -> Known:
    """Of the tokens of one band set, in the order dates, groups, tokens."""

    def flat(x: Array) -> Array:
        return jnp.broadcast_to(x, valid.shape).reshape(valid.shape[0], -1)

    return Known(
        valid=flat(valid),
        date=flat(jnp.asarray(obs.date)[:, :, None, None]),
        platform=flat(jnp.asarray(obs.platform)[:, :, None, None]),
        group=flat(group[None, None, :, None]),
        year_known=flat(jnp.asarray(obs.year_known)[:, None, None, None]),
    )


def shuffled(obs: Observation) -> Observation:
    """The dates of each sample dealt anew among its acquisitions, platforms and pixels left.

    Drawn from the place of the window, so that it is the same in every batch and of no use to
    another window. Windows of unknown place are all dealt alike.
    """
    date, place = jnp.asarray(obs.date), jnp.asarray(obs.lonlat, jnp.float32)
    bits = jax.lax.bitcast_convert_type(place, jnp.uint32)

    def order(bits: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), bits[0]), bits[1])
        return jax.random.permutation(key, date.shape[1])

    return dataclasses.replace(obs, date=jnp.take_along_axis(date, jax.vmap(order)(bits), axis=1))


def undated(valid: Bool[Array, "B S"], group: int) -> Known:
    """Of tokens that stand for no date, platform or year of their own."""
    return Known(
        valid=valid,
        date=jnp.full(valid.shape, jnp.nan, jnp.float32),
        platform=jnp.zeros(valid.shape, jnp.int32),
        group=jnp.full(valid.shape, group, jnp.int32),
        year_known=jnp.zeros(valid.shape, bool),
    )


def token_valid(config: VLMConfig, valid: Bool[Array, "B T G cells"]) -> Bool[Array, "B T G P"]:
    """Validity of a frame's tokens from that of the cells of the tower's grid, row by row.

    A class token stands for its whole frame, and so does a learned query; a token of several
    patches is valid where one of them is.
    """
    valid = _of_tower(config.vision, valid)
    if config.resampler is None:
        return valid
    if isinstance(config.resampler, PixelShuffleConfig):
        (rows, columns), k = config.vision.grid, config.resampler.factor
        blocks = valid.reshape(*valid.shape[:3], rows // k, k, columns // k, k)
        return blocks.any(axis=(4, 6)).reshape(*valid.shape[:3], -1)
    frame = valid.any(axis=3, keepdims=True)
    return jnp.broadcast_to(frame, (*valid.shape[:3], config.frame_tokens))


def _of_tower(vision: VisionConfig, valid: Array) -> Array:
    cells = vision.first if isinstance(vision, MixedConfig) else vision
    if getattr(cells, "keep_cls", False):
        valid = jnp.concatenate([valid.any(axis=3, keepdims=True), valid], axis=3)
    return jnp.tile(valid, (1, 1, 1, vision.tokens // valid.shape[3]))  # one set a feature layer
