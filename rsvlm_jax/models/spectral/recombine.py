"""From bands to three-channel frames, with gradients and exact masks.

    Observation [B,T,C,H,W] --physical--> values, valid --plan--> Frames [B,T,G,H,W,3]

A frame pixel is valid when everything that enters its three slots is: each single band, both
polarisations, both terms of an index (and its denominator is safely positive); of a slot that
averages many narrow bands, at least one band. Values that are not valid are zeroed before any
arithmetic and again after it, so they change no output bit and receive no gradient.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.data.batch import Observation

from .plan import RecombinePlan, Slot

MIN_DENOMINATOR = 1e-3
"""Below this sum of reflectances a normalised difference is noise: the pixel is not valid."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Frames:
    """Three-channel frames in physical units, slots in R, G, B order.

    Attributes:
      pixels: 0 where not valid.
      valid: shared by the three slots of a frame.
      group: number of each group within its plan.
    """

    pixels: Float[Array, "B T G H W 3"]
    valid: Bool[Array, "B T G H W"]
    group: Int[Array, " G"]


def recombine(obs: Observation, plan: RecombinePlan) -> Frames:
    """The frames of one band set, after `RecombinePlan`; differentiable in `obs.pixels`."""
    values = obs.physical(plan.spec)
    valid = jnp.broadcast_to(obs.valid, values.shape)
    pixels, masks = [], []
    for group in plan.groups:
        made = [slot_values(values, valid, slot) for slot in group.slots]
        mask = made[0][1] & made[1][1] & made[2][1]
        frame = jnp.stack([value for value, _ in made], axis=-1)
        pixels.append(jnp.where(mask[..., None], frame, 0.0))
        masks.append(mask)
    return Frames(
        pixels=jnp.stack(pixels, axis=2),
        valid=jnp.stack(masks, axis=2),
        group=jnp.arange(len(plan.groups), dtype=jnp.int32),
    )


def slot_values(
    values: Float[Array, "B T C H W"], valid: Bool[Array, "B T C H W"], slot: Slot
) -> tuple[Float[Array, "B T H W"], Bool[Array, "B T H W"]]:
    """One slot of a frame, 0 or anything where it is not valid, and where it is."""
    x = [values[:, :, c] for c in slot.channels]
    ok = [valid[:, :, c] for c in slot.channels]
    match slot.op:
        case "band":
            return x[0], ok[0]
        case "average":
            return _average(x, ok, slot.weights)
        case "ratio_db":
            return x[0] - x[1], ok[0] & ok[1]
        case "mean_db":
            return 0.5 * (x[0] + x[1]), ok[0] & ok[1]
        case "diff_linear":
            return _from_db(x[0]) - _from_db(x[1]), ok[0] & ok[1]
        case "index":
            return _index(x, ok, slot.weights)


def _average(
    x: list[Array], ok: list[Array], weights: tuple[float, ...]
) -> tuple[Float[Array, "B T H W"], Bool[Array, "B T H W"]]:
    """Weighted mean over the valid bands; `x` is 0 where not valid."""
    total = jnp.zeros_like(x[0])
    mean = jnp.zeros_like(x[0])
    for w, value, valid in zip(weights, x, ok, strict=True):
        total = total + w * valid.astype(jnp.float32)
        mean = mean + w * value
    some = total > 0
    return mean / jnp.where(some, total, 1.0), some


def _index(
    x: list[Array], ok: list[Array], weights: tuple[float, ...]
) -> tuple[Float[Array, "B T H W"], Bool[Array, "B T H W"]]:
    """(a - b) / (a + b), clipped to [-1, 1]: a negative reflectance would send it anywhere."""
    a, a_ok = _average(x, ok, tuple(max(w, 0.0) for w in weights))
    b, b_ok = _average(x, ok, tuple(max(-w, 0.0) for w in weights))
    safe = a_ok & b_ok & (a + b > MIN_DENOMINATOR)
    index = jnp.where(safe, a - b, 0.0) / jnp.where(safe, a + b, 1.0)
    return jnp.clip(index, -1.0, 1.0), safe


def _from_db(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.exp(x * jnp.float32(0.1 * 2.302585092994046))
