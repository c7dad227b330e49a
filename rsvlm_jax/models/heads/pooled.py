"""Heads that average their tokens first: linear, MLP, xVal. What the mixer is measured against.

    tokens [B,N+Q,Dv] -> mean over valid tokens -> residual blocks, none if linear -> norm -> [B,Dv]

All read knowledge through the same reverse projection as the mixer; xVal reads nothing else.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.nn import LayerNorm, Mlp, scan, stack

from .head import Head, mean_of_valid


class ChannelBlock(nnx.Module):
    """The second half of a mixer block: `x + mlp(norm(x))`."""

    def __init__(self, d: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.norm2 = LayerNorm(d, rngs=rngs)
        self.channel_mlp = Mlp(d, hidden, "gelu", length=None, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return x + self.channel_mlp(self.norm2(x))


class LinearHead(Head):
    """The mean token, normalised, and one linear layer."""

    def _make_blocks(self, tokens: int, width: int, rngs: nnx.Rngs) -> None:
        return None

    def _features(
        self, x: Float[Array, "B S Dv"], valid: Bool[Array, "B S"]
    ) -> Float[Array, "B Dv"]:
        return self.norm(mean_of_valid(x, valid))


class MlpHead(Head):
    """The mean token through `layers` residual MLP blocks."""

    def _make_blocks(self, tokens: int, width: int, rngs: nnx.Rngs) -> nnx.Module:
        c = self.config
        return stack(lambda r: ChannelBlock(width, c.channel_dim, rngs=r), c.layers, rngs)

    def _features(
        self, x: Float[Array, "B S Dv"], valid: Bool[Array, "B S"]
    ) -> Float[Array, "B Dv"]:
        one = mean_of_valid(x, valid)[:, None]
        one, _ = scan(self.blocks, lambda block, x: (block(x), None), one, remat=self.remat)
        return self.norm(one[:, 0].astype(jnp.float32))


class XvalHead(LinearHead):
    """The number head of xVal (Golkar et al. 2023, arXiv 2310.02989): two layers on the hidden
    state of the number's token, here the mean of the `<reg>` tokens, and no visual token.

    What xVal does to numbers that are *read*, scaling the embedding of their token, has no place
    here: prompts hold no numbers, and nothing of an answer is read before its number.
    """

    reads_visual = False
