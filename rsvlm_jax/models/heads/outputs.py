"""From the numbers that a head's last layer gives to a distribution.

    raw [B,K,R] --by HeadConfig.output--> Predictive

At 0 each is the distribution of the training split, or the normal one of its mean and spread: an
untrained head predicts that.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from rsvlm_jax.config import HeadConfig
from rsvlm_jax.core.shapes import Array, Float

from .locscale import Gaussian, Laplace
from .piecewise import ROOM, Histogram, Ordinal, Quantiles
from .predictive import Standardised

MIN_SCALE = 1e-3
"""Floor of the standardised scale, and of the step from quantile to quantile: a perfectly fitted
sample keeps a finite likelihood."""

UNIT_SCALE = 0.5413248546129181
"""softplus of this is 1: an untrained head predicts N(mean, std) of the target."""

MIN_ODDS = 1e-3
"""Floor of the step in log odds from edge to edge of ordinal bins."""


def numbers(config: HeadConfig) -> int:
    """R: how many an output needs for each target."""
    if config.output == "quantiles":
        return len(config.quantiles)
    if config.output == "histogram":
        return config.bins
    return 2 * config.bins - 1 if config.output == "ordinal" else 2


def has_bins(config: HeadConfig) -> bool:
    return config.output in ("histogram", "ordinal")


def distribution(
    raw: Float[Array, "B K R"],
    config: HeadConfig,
    units: dict[str, Any],
    bins: tuple[Float[Array, "K n"], Float[Array, "K m"]] | None = None,
) -> Standardised:
    """The distribution of `config.output`.

    Args:
      units: what `Standardised` holds.
      bins: edges and shares of "histogram" and "ordinal" (`support.Support`).
    """
    match config.output:
        case "gaussian" | "laplace":
            made = Gaussian if config.output == "gaussian" else Laplace
            scale = jax.nn.softplus(raw[..., 1] + UNIT_SCALE) + MIN_SCALE
            return made(loc=raw[..., 0], scale=scale, **units)
        case "quantiles":
            values = _ascending(raw, config.quantiles)
            return Quantiles(values=values, levels=config.quantiles, **units)
        case "histogram":
            assert bins is not None
            edges, share = bins
            logits = raw + jnp.log(share)[None]
            return Histogram(logits=logits, edges=edges, sigma=config.bin_sigma, **units)
        case "ordinal":
            assert bins is not None
            edges, share = bins
            above = _descending(raw[..., : config.bins - 1], share)
            free = jax.nn.sigmoid(raw[..., config.bins - 1 :])
            return Ordinal(above=above, offsets=ROOM + (1 - 2 * ROOM) * free, edges=edges, **units)


def _ascending(raw: Float[Array, "B K n"], levels: tuple[float, ...]) -> Float[Array, "B K n"]:
    """The median as it is, the others by steps away from it, each more than 0."""
    normal = ndtri(jnp.asarray(levels, jnp.float32))
    m = levels.index(0.5)
    start = _unsoftplus(jnp.diff(normal))[None, None]
    up = jax.nn.softplus(raw[..., m + 1 :] + start[..., m:]) + MIN_SCALE
    down = jax.nn.softplus(raw[..., :m] + start[..., :m]) + MIN_SCALE
    median = raw[..., m : m + 1]
    above = median + jnp.cumsum(up, axis=-1)
    below = median - jnp.flip(jnp.cumsum(jnp.flip(down, -1), axis=-1), -1)
    return jnp.concatenate([below, median, above], axis=-1)


def _descending(raw: Float[Array, "B K inner"], share: Float[Array, "K m"]) -> Float[Array, "..."]:
    """Log odds of lying above each inner edge: those of the shares, shifted, with other steps."""
    over = jnp.flip(jnp.cumsum(jnp.flip(share, -1), axis=-1), -1)[:, 1:]
    under = jnp.cumsum(share, axis=-1)[:, :-1]
    odds = jnp.log(over) - jnp.log(under)
    start = _unsoftplus(jnp.maximum(-jnp.diff(odds), MIN_ODDS))
    steps = jax.nn.softplus(raw[..., 1:] + start[None]) + MIN_ODDS
    first = raw[..., :1] + odds[None, :, :1]
    return jnp.concatenate([first, first - jnp.cumsum(steps, axis=-1)], axis=-1)


def _unsoftplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What softplus makes `x` of."""
    return x + jnp.log(-jnp.expm1(-x))
