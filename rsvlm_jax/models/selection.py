"""Selection: of all visual tokens of a sample, those of the highest learned score.

    tokens [B,S,Dv] -> norm -> linear -> score [B,S], -inf where not valid
      top k of the scores, put back in order -> tokens [B,k,Dv], valid [B,k]      k = min(K, S)

REO-VLM (arXiv 2412.16583) names a selection of visual tokens that "focus on high-value spatial
features" and says no more of it; the score, how it learns and where it stands are ours: after dates
and sensors are known, before compression. A choice has no gradient, so what is chosen carries it:
its score is pulled as a factor sigmoid(score) would be (`SelectionConfig.gate`).

A token that is not valid is chosen only where fewer than k are, and stays not valid, and 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal

from rsvlm_jax.config import SelectionConfig
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.nn import LayerNorm, Linear


class TokenSelection(nnx.Module):
    """Top-k by a learned score. `width` is Dv."""

    def __init__(self, config: SelectionConfig, width: int, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.norm = LayerNorm(width, rngs=rngs)
        self.score = Linear(width, 1, init=normal(0.02), rngs=rngs)

    def scores(self, tokens: Float[Array, "B S Dv"]) -> Float[Array, "B S"]:
        """In float32, of valid tokens and others."""
        return self.score(self.norm(tokens.astype(jnp.float32)))[:, :, 0]

    def __call__(
        self, tokens: Float[Array, "B S Dv"], valid: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B k Dv"], Bool[Array, "B k"]]:
        """The chosen tokens in their order, 0 where not valid; `tokens` are 0 there too."""
        scores = self.scores(tokens)
        at = chosen(scores, valid, self.config.keep)
        kept = jnp.take_along_axis(tokens, at[:, :, None], axis=1)
        there = jnp.take_along_axis(valid, at, axis=1)
        gate = jax.nn.sigmoid(jnp.take_along_axis(scores, at, axis=1))
        if self.config.gate == "straight":
            gate = 1 + (gate - jax.lax.stop_gradient(gate))  # exactly 1, with the gradient
        kept = kept * gate[:, :, None].astype(kept.dtype)
        return jnp.where(there[:, :, None], kept, jnp.zeros_like(kept)), there


def chosen(scores: Float[Array, "B S"], valid: Bool[Array, "B S"], keep: int) -> Int[Array, "B k"]:
    """Positions of the `keep` highest scores among the valid, ascending; of equals the first.

    Worked example, keep 2::

        score   .9  .1  .5  .4        valid   0  1  1  1        chosen   2 3
                .9  .1  .5  .4                0  1  0  0                 0 1    (0 is not valid)
    """
    masked = jnp.where(valid, jax.lax.stop_gradient(scores), -jnp.inf)
    _, at = jax.lax.top_k(masked, min(keep, scores.shape[1]))
    return jnp.sort(at.astype(jnp.int32), axis=1)
