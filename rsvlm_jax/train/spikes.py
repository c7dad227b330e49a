"""Loss spikes: what the last steps were like, and whether this one leaps out of them.

    loss, gradient norm ->  > mean + spike * std of the last 128?  -> the step is skipped
                        ->  into the ring, spike or not, if both are finite

The ring is part of the state, so a resumed run decides as the unbroken one; the decision is made
on the device. Values of skipped steps enter it as well: a run whose losses have risen for good is
not skipped for ever.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

WINDOW = 128
"""Steps that are remembered."""

LEAST = 64
"""Steps before which none is called a spike: at first losses fall fast, and few say little."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Recent:
    """The last finite steps; step i stands at i % WINDOW.

    Attributes:
      values: loss and gradient norm.
      count: finite steps so far.
    """

    values: Float[Array, "two window"]
    count: Int[Array, ""]


def nothing_yet() -> Recent:
    """Before the first step."""
    return Recent(jnp.zeros((2, WINDOW), jnp.float32), jnp.int32(0))


def judge(
    recent: Recent, loss: Float[Array, ""], norm: Float[Array, ""], deviations: float
) -> tuple[Bool[Array, ""], Recent]:
    """Whether a step is a spike, and the ring with it in. One that is not finite is neither."""
    found = jnp.stack([loss, norm])
    finite = jnp.isfinite(found).all()
    held = jnp.arange(WINDOW, dtype=jnp.int32) < recent.count
    number = jnp.clip(recent.count, 1, WINDOW).astype(jnp.float32)
    values = jnp.where(held[None], recent.values, 0.0)
    mean = values.sum(axis=1) / number
    off = jnp.where(held[None], values - mean[:, None], 0.0)
    deviation = jnp.sqrt(jnp.square(off).sum(axis=1) / number)
    spike = (found > mean + deviations * deviation).any() & finite & (recent.count >= LEAST)

    here = jnp.arange(WINDOW, dtype=jnp.int32) == recent.count % WINDOW
    pushed = jnp.where((here & finite)[None], found[:, None], recent.values)
    return spike, Recent(pushed, recent.count + finite.astype(jnp.int32))
