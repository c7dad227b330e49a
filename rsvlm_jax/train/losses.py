"""Losses as (sum, weight), divided once: one device or eight, one batch or its halves agree.

    text    next-token cross-entropy            sum and weight over supervised positions
    huber   of loc - z, z the standardised target          over valid targets
    scale   log(scale) + (z - loc)^2 / (2 scale^2), loc detached: the spread learns how far the
            mean is off and does not pull at the mean

Logits never exist for all positions at once: the language head is applied to chunks of positions
and recomputed in the backward pass, so memory is bounded by `CHUNK` whatever L and V are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rsvlm_jax.config import LossConfig
from rsvlm_jax.core.shapes import Array, Float, Int
from rsvlm_jax.data.batch import Batch
from rsvlm_jax.models.encoded import Encoded
from rsvlm_jax.models.heads import Gaussian

CHUNK = 2**26
"""Logits that exist at once, over all devices (256 MiB of float32)."""

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
    used = batch.sample >= 0
    if config.text:
        weight = jnp.where(used[:, None], batch.weight, 0.0)
        parts["text"] = text_loss(model.decoder, encoded.hidden, jnp.asarray(batch.tokens), weight)
    if config.huber or config.scale:
        predictive = model.head(encoded, rng=rng)
        if config.huber:
            parts["huber"] = _over_targets(predictive, batch, _huber(config.huber_delta))
        if config.scale:
            parts["scale"] = _over_targets(predictive, batch, _spread)
    return parts


def total(parts: Sums, config: LossConfig) -> Float[Array, ""]:
    """The weighted sum of mean losses; a loss without weight in the batch counts 0, not 0 / 0."""
    loss = jnp.float32(0)
    for name, part in parts.items():
        loss = loss + getattr(config, name) * mean(*part)
    return loss


def mean(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    """`total / weight`, and 0 where the weight is 0."""
    return total / jnp.where(weight > 0, weight, 1.0)


def text_loss(
    decoder: Any,
    hidden: Float[Array, "B L D"],
    tokens: Int[Array, "B L"],
    weight: Float[Array, "B L"],
    *,
    chunk: int = CHUNK,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of `tokens[:, l]` given `hidden[:, l - 1]`, weighted by `weight[:, l]`.

    Args:
      decoder: has `.logits(hidden) -> [B, l, V]` and `config.vocab_size`.
      chunk: logits that may exist at once.
    """
    # Labels move, not states: each state is scored where it was computed.
    labels, weight = (jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (tokens, weight))
    b, length, _ = hidden.shape
    # Before the loss: a label that is never used must not make it NaN.
    labels = jnp.where(weight > 0, labels, 0)

    def part(hidden: Array, labels: Array, weight: Array) -> Array:
        logits = decoder.logits(hidden).astype(jnp.float32)
        right = jnp.take_along_axis(logits, labels[:, :, None], axis=-1)[:, :, 0]
        error = jax.nn.logsumexp(logits, axis=-1) - right
        return jnp.sum(jnp.where(weight > 0, error * weight, 0.0))

    positions = max(1, chunk // (b * decoder.config.vocab_size))
    if positions >= length:
        return part(hidden, labels, weight), weight.sum()

    chunks = -(-length // positions)
    room = chunks * positions - length

    def split(x: Array) -> Array:
        # A chunk takes positions from all over the sequence: its parts may be on many devices.
        x = jnp.pad(x, ((0, 0), (0, room), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(b, positions, chunks, *x.shape[2:]), 2, 0)

    def body(sum_: Array, inputs: tuple[Array, ...]) -> tuple[Array, None]:
        return sum_ + jax.checkpoint(part, prevent_cse=False)(*inputs), None

    sums, _ = jax.lax.scan(body, jnp.float32(0), tuple(map(split, (hidden, labels, weight))))
    return sums, weight.sum()


def _over_targets(
    predictive: Gaussian, batch: Batch, error: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    valid = batch.target_valid & (batch.sample >= 0)[:, None]
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
