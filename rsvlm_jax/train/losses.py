"""Losses as (sum, weight), divided once: one device or eight, one batch or its halves agree.

    text    next-token cross-entropy            sum and weight over supervised positions
    huber   of loc - z, z the standardised target          over valid targets
    scale   log(scale) + (z - loc)^2 / (2 scale^2), loc detached: the spread learns how far the
            mean is off and does not pull at the mean

Weights follow from the batch alone (`weights`), so that parts of a batch can be divided by the
weight of the whole.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rsvlm_jax.config import LossConfig
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import Gaussian

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
        predictive = model.head(encoded, rng=rng)
        if config.huber:
            parts["huber"] = _over_targets(predictive, batch, _huber(config.huber_delta))
        if config.scale:
            parts["scale"] = _over_targets(predictive, batch, _spread)
    return parts


def weights(batch: Batch, config: LossConfig) -> dict[str, Float[Array, ""]]:
    """The weight of every loss of `losses`, which no model has a part in."""
    found = {}
    if config.text:
        found["text"] = _text_weight(batch)[:, 1:].sum()
    targets = jnp.sum(_valid_targets(batch), dtype=jnp.float32)
    return found | {name: targets for name in ("huber", "scale") if getattr(config, name)}


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


def _valid_targets(batch: Batch) -> Bool[Array, "B K"]:
    return jnp.asarray(batch.target_valid & (batch.sample >= 0)[:, None])


def _over_targets(
    predictive: Gaussian, batch: Batch, error: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    valid = _valid_targets(batch)
    z = predictive.standardise(jnp.where(valid, batch.target, 0.0))
    values = error(predictive.loc, predictive.scale, z)
    return jnp.sum(jnp.where(valid, values, 0.0)), jnp.sum(valid, dtype=jnp.float32)


def _huber(delta: float) -> Any:
    def error(loc: Array, scale: Array, z: Array) -> Array:
        del scale
        off = jnp.abs(loc - z)
        return jnp.where(off <= delta, 0.5 * jnp.square(off), delta * (off - 0.5 * delta))

    return error


def _spread(loc: Array, scale: Array, z: Array) -> Array:
    off = z - jax.lax.stop_gradient(loc)
    return jnp.log(scale) + 0.5 * jnp.square(off / scale)
