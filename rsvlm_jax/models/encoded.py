"""What the model hands to heads and losses."""

from __future__ import annotations

import dataclasses

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """The forward pass of `VisionLanguageModel`; never logits (losses apply the language head).

    Attributes:
      hidden: after the decoder's final norm; D = 0 without a decoder.
      visual: fused visual tokens in encoder width, 0 where not valid.
      knowledge: of `hidden`, as `rsvlm_jax.models.knowledge` reads it, 0 where `has_knowledge` is
        False; Q = 0 without a decoder or a head.
      has_knowledge: whether the text of a sample holds all Q `<reg>` tokens.
      planes: with a dense head, what each pixel of a window shows (`rsvlm_jax.models.planes`).
      placed: of `hidden` at the place of each visual token, where a dense head reads it.
    """

    hidden: Float[Array, "B L D"]
    visual: Float[Array, "B N Dv"]
    visual_valid: Bool[Array, "B N"]
    knowledge: Float[Array, "B Q D"]
    has_knowledge: Bool[Array, " B"]
    planes: Float[Array, "B H W F"] | None = None
    placed: Float[Array, "B N D"] | None = None
