"""Losses as (sum, weight), divided once: one device or eight, one batch or its halves agree.

    text    next-token cross-entropy            sum and weight over supervised positions
    huber   of point - z, z the standardised target        over valid targets
    scale   the proper score of the head's output at z (`rsvlm_jax.models.heads`)
    balance of a mixture of experts: minus the log share of the expert whose value range z is in

A target that is not finite counts as not valid. With a dense head (`Batch.target_map`) each pixel
counts as a target by itself: rows are pixels, in the order of the head's.
Weights follow from the batch alone (`weights`), so that parts of a batch can be divided by the
weight of the whole.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rsvlm_jax.config import LossConfig
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import Standardised

from .cross_entropy import text_loss

Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


def losses(
    encoded: Encoded,
    batch: Batch,
    model: Any,
    config: LossConfig,
    *,
    rng: Array | None = None,
) -> Sums:
    """Every loss with a weight other than 0, as its sum and its weight over the batch.

    Args:
      encoded: the model's forward pass over `batch`.
      config: `Experiment.losses`, in which no weight is None.
      model: `.decoder.logits(hidden)` for text, `.head(encoded, rng=...)` for numbers.
      rng: for the head's dropout.

    Slots with `sample` -1, targets that are not valid and positions of weight 0 have no part,
    whatever values they hold.
    """
    parts: Sums = {}
    if config.text:
        weight, tokens = _text_weight(batch), jnp.asarray(batch.tokens)
        parts["text"] = text_loss(model.decoder, encoded.hidden, tokens, weight)
    if config.huber or config.scale:
        predictive, valid = model.head(encoded, rng=rng), _valid_targets(batch)
        z = predictive.standardise(jnp.where(valid, _targets(batch), 0.0))
        if config.huber:
            off = jnp.abs(predictive.point - z)
            parts["huber"] = _over_targets(_huber(off, config.huber_delta), valid)
        if config.scale:
            parts["scale"] = _over_targets(predictive.score(z), valid)
        if config.balance:
            parts["balance"] = _over_targets(_unbalance(predictive, z), valid)
    return parts


def weights(batch: Batch, config: LossConfig) -> dict[str, Float[Array, ""]]:
    """The weight of every loss of `losses`, which no model has a part in."""
    found = {}
    if config.text:
        found["text"] = _text_weight(batch)[:, 1:].sum()
    targets = jnp.sum(_valid_targets(batch), dtype=jnp.float32)
    names = [name for name in ("huber", "scale", "balance") if getattr(config, name)]
    return found | dict.fromkeys(names, targets)


def total(parts: Sums, config: LossConfig) -> Float[Array, ""]:
    """The weighted sum of mean losses; a loss without weight in the batch counts 0, not 0 / 0."""
    loss = jnp.float32(0)
    for name, part in parts.items():
        loss = loss + getattr(config, name) * mean(*part)
    return loss


def mean(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    """`total / weight`, and 0 where the weight is 0."""
    return total / jnp.where(weight > 0, weight, 1.0)


def _text_weight(batch: Batch) -> Float[Array, "B L"]:
    return jnp.where((batch.sample >= 0)[:, None], batch.weight, 0.0)


def known_targets(batch: Batch) -> Float[Array, "R K"]:
    """The target of each window, or of each pixel for a dense head, NaN where it is not known."""
    return jnp.where(_valid_targets(batch), _targets(batch), jnp.nan)


def _targets(batch: Batch) -> Float[Array, "R K"]:
    """The target of each window; of a dense head that of each pixel, R = B * H * W."""
    if batch.target_map is None:
        return jnp.asarray(batch.target)
    by_pixel = jnp.moveaxis(jnp.asarray(batch.target_map), 1, -1)
    return by_pixel.reshape(-1, by_pixel.shape[-1])


def _valid_targets(batch: Batch) -> Bool[Array, "R K"]:
    targets, real = _targets(batch), jnp.asarray(batch.sample) >= 0
    finite = jnp.isfinite(targets)
    if batch.target_map is None:
        return finite & jnp.asarray(batch.target_valid) & real[:, None]
    return finite & jnp.repeat(real, len(targets) // len(real))[:, None]


def _over_targets(
    values: Float[Array, "B K"], valid: Bool[Array, "B K"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    return jnp.sum(jnp.where(valid, values, 0.0)), jnp.sum(valid, dtype=jnp.float32)


def _huber(off: Float[Array, "B K"], delta: float) -> Float[Array, "B K"]:
    return jnp.where(off <= delta, 0.5 * jnp.square(off), delta * (off - 0.5 * delta))


def _unbalance(predictive: Standardised, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
    """Minus the log share that the gate gives to the expert of the value range of `z`."""
    assert predictive.gate is not None  # `Experiment` checks
    assert predictive.ranges is not None
    expert = (z[..., None] > predictive.ranges[None]).sum(axis=-1)
    return -jnp.take_along_axis(predictive.gate, expert[..., None], axis=-1)[..., 0]
