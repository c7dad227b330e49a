"""The MLP-mixer block (Tolstikhin et al. 2021), with missing tokens.

x [B,S,D] -> norm1 -> transpose -> token MLP over S -> transpose -> + x
          -> norm2 -> channel MLP over D -> + x
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.core.shapes import Array, Bool, Float

from .mlp import Mlp
from .norm import LayerNorm


class MixerBlock(nnx.Module):
    """Mixes over tokens, then over channels.

    Args:
      tokens: S, fixed (the token MLP has a weight for each).
      d: width of a token.
      token_dim, channel_dim: hidden widths of the two MLPs.
    """

    def __init__(
        self, tokens: int, d: int, token_dim: int, channel_dim: int, *, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = LayerNorm(d, rngs=rngs)
        self.token_mlp = Mlp(tokens, token_dim, "gelu", length=None, rngs=rngs)
        self.norm2 = LayerNorm(d, rngs=rngs)
        self.channel_mlp = Mlp(d, channel_dim, "gelu", length=None, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S D"], valid: Bool[Array, "B S"] | None = None
    ) -> Float[Array, "B S D"]:
        """Tokens that are not valid enter as zeros and leave as zeros, whatever they hold."""

        def masked(y: Array) -> Array:
            return y if valid is None else jnp.where(valid[:, :, None], y, jnp.zeros_like(y))

        # After the norm as well: its bias would let a missing token speak.
        y = masked(self.norm1(masked(x)))
        x = masked(x) + jnp.swapaxes(self.token_mlp(jnp.swapaxes(y, 1, 2)), 1, 2)
        return masked(x + self.channel_mlp(self.norm2(x)))
