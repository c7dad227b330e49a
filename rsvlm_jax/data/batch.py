"""What the model reads: `Observation` (one band set), `Images` and `Batch`, all frozen pytrees.

`Observation.pixels` holds the *stored* numbers (int16 or float32); `physical()` applies the static
scale and offset inside the step, so that only half the bytes cross to the device. Changing a value
where `valid` is False changes no output bit: every reader masks before it computes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import BandSetSpec
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Bool, Float, Int, Shaped

EPOCH = "2000-01-01"
"""Dates are days since this instant, UTC."""

Array = jax.Array | np.ndarray
"""The pipeline makes batches of NumPy arrays; on the device they are JAX's."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Observation:
    """One band set of a batch.

    Attributes:
      pixels: stored numbers; dates in time order.
      valid: True where a value may be used; may be broadcast over C (axis of size 1).
      date: days since 2000-01-01 UTC; NaN for an undated (static) layer.
      year_known: False where only the day of year is real.
      platform: row of `data_zarr.sensors.PLATFORMS`.
      lonlat: degrees, centre of the window; NaN where unknown.
      gsd: metres a pixel.
      bandset: name of the band set (static).
    """

    pixels: Shaped[Array, "B T C H W"]
    valid: Bool[Array, "B T #C H W"]
    date: Float[Array, "B T"]
    year_known: Bool[Array, " B"]
    platform: Int[Array, "B T"]
    lonlat: Float[Array, "B 2"]
    gsd: Float[Array, " B"]
    bandset: str = dataclasses.field(metadata={"static": True})

    def physical(self, spec: BandSetSpec) -> Float[jax.Array, "B T C H W"]:
        """Values in physical units, float32; 0 where not valid."""
        scale = jnp.asarray([b.scale for b in spec.bands], jnp.float32)[:, None, None]
        offset = jnp.asarray([b.offset for b in spec.bands], jnp.float32)[:, None, None]
        shape = (1, 1, *scale.shape)
        x = self.pixels.astype(jnp.float32) * scale.reshape(shape) + offset.reshape(shape)
        return jnp.where(self.valid, x, jnp.float32(0))


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Images:
    """The plain images of a batch, in the order in which its prompts name them.

    Two images in the first prompt, none in the second, one in the third (F = 3)::

        of   [[0, 1], [-1, -1], [2, -1]]

    Attributes:
      pixels: as the vision tower reads them: resized and normalised.
      of: the row of `pixels` that is the i-th image of a prompt; -1 where it has fewer.
      features: in place of `pixels`: what the tower makes of them, before any resampler. Computed
        once for a tower that is not trained.
    """

    pixels: Float[Array, "F H W 3"] | None
    of: Int[Array, "B I"]
    features: Float[Array, "F P Dv"] | None = None


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
      obs: by band set name; empty for a model of images and text.
      tokens: text with `<image>` and `<reg>` placeholders; 0 (`<unk>`) as padding.
      segment: 0 at padding, otherwise the number of the packed example (1 when not packed).
      position: position within its segment.
      weight: of predicting the *next* position's token from this one's left context: `weight[l]`
        supervises `tokens[l]`, so `weight[0]` is always 0.
      image_slot: index into the sample's own N visual tokens, -1 at text.
      target: in target units; anything where `target_valid` is False.
      sample: row of the window table, -1 for a slot that is to be ignored.
      images: of a model without inputs; N is then I x P', image by image.
      answer: the position at which the answer of a row's first example begins, -1 where there is
        none; only for heads that read it (`HeadConfig.knowledge`).
      target_map: the target of each pixel of the window, NaN where it is not known; only for dense
        heads (`HeadConfig.dense`).
    """

    obs: dict[str, Observation]
    tokens: Int[Array, "B L"]
    segment: Int[Array, "B L"]
    position: Int[Array, "B L"]
    weight: Float[Array, "B L"]
    image_slot: Int[Array, "B L"]
    target: Float[Array, "B K"]
    target_valid: Bool[Array, "B K"]
    sample: Int[Array, " B"]
    images: Images | None = None
    answer: Int[Array, " B"] | None = None
    target_map: Float[Array, "B K H W"] | None = None


def to_days(dates: np.ndarray) -> np.ndarray:
    """datetime64 of any shape as f32 days since `EPOCH` (to about a minute); NaN for NaT."""
    seconds = (dates.astype("datetime64[s]") - np.datetime64(EPOCH, "s")).astype(np.float64)
    return np.where(np.isnat(dates), np.nan, seconds / 86400.0).astype(np.float32)
