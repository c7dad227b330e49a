"""The four-layer MLP-mixer regression head of REO-VLM (arXiv 2412.16583).

tokens [B,N+Q,Dv] -> mixer blocks -> norm -> mean over valid tokens -> features [B,Dv]
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.nn import MixerBlock, scan, stack

from .head import Head, mean_of_valid


class MixerHead(Head):
    """Mixes over tokens and over channels before it averages; a weight for each of the tokens."""

    def _make_blocks(self, tokens: int, width: int, rngs: nnx.Rngs) -> nnx.Module:
        c = self.config
        return stack(
            lambda r: MixerBlock(tokens, width, c.token_dim, c.channel_dim, rngs=r), c.layers, rngs
        )

    def _features(
        self, x: Float[Array, "B S Dv"], valid: Bool[Array, "B S"]
    ) -> Float[Array, "B Dv"]:
        x, _ = scan(self.blocks, lambda block, x: (block(x, valid), None), x, remat=self.remat)
        return mean_of_valid(self.norm(x.astype(jnp.float32)), valid)
