"""Features of every pixel of a window, in the place of the window's own: what makes a head dense.

    planes  [B,H,W,F]  --and where in the window, 3x3 neighbours, linear-->  [B,HW,Dv]
    `BLOCKS` times:    neighbours (3x3, an MLP)  ->  tokens [B,S,Dv] (cross-attention, an MLP)
    + features of the window [B,Dv], normalised  ->  [B HW,Dv]: to the last layer of any head

Pixels ask, tokens answer: so a map is as sharp as its pixels however coarse the tokens are, and
tokens need no grid (a budget of latents, several dates and groups). A new block adds nothing: the
first map is what the trunk says of the window and a linear map of the pixels.

What the tokens are says `HeadConfig.dense`; the distribution is that of any head
(`outputs`), with a row for each pixel.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config.training import Remat
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.models.temporal import FusionBlock
from rsvlm_jax.nn import LayerNorm, Linear, Mask, Mlp, scan, stack

BLOCKS, HEADS, HARMONICS = 2, 4, 3


class PixelBlock(nnx.Module):
    """Each pixel reads its neighbours, then the tokens; both residual, at first the identity."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.norm = LayerNorm(width, rngs=rngs)
        self.near = Mlp(9 * width, width, d_out=width, length=None, rngs=rngs)
        self.near.fc2.kernel[...] = jnp.zeros_like(self.near.fc2.kernel[...])
        self.far = FusionBlock(width, math.gcd(width, HEADS), rngs=rngs)

    def __call__(
        self, x: Float[Array, "B H W Dv"], tokens: Float[Array, "B S Dv"], mask: Mask
    ) -> Float[Array, "B H W Dv"]:
        b, h, w, width = x.shape
        rows = x.reshape(b, h * w, width)
        rows = rows + self.near(around(self.norm(x)).reshape(b, h * w, 9 * width))
        return self.far(rows, tokens, mask).reshape(x.shape)


class PixelTrunk(nnx.Module):
    """See the module.

    Args:
      planes: F.
      width: Dv.
    """

    def __init__(self, planes: int, width: int, *, remat: Remat = "none", rngs: nnx.Rngs) -> None:
        self.remat: Remat = remat
        self.enter = Linear(9 * planes + 4 * HARMONICS, width, rngs=rngs)
        self.blocks = stack(lambda r: PixelBlock(width, rngs=r), BLOCKS, rngs)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(
        self,
        planes: Float[Array, "B H W F"],
        tokens: Float[Array, "B S Dv"],
        valid: Bool[Array, "B S"],
        features: Float[Array, "B Dv"],
    ) -> Float[Array, "R Dv"]:
        """Float32, R = B * H * W: windows first, then rows and columns.

        Args:
          tokens: those that are not `valid` are read by no pixel.
          features: of the window.
        """
        b, h, w, _ = planes.shape
        seen = around(planes).astype(tokens.dtype)
        place = jnp.broadcast_to(places(h, w)[None], (b, h, w, 4 * HARMONICS))
        x = self.enter(jnp.concatenate([seen, place.astype(tokens.dtype)], axis=-1))
        mask = Mask.keys(valid)

        def read(block: PixelBlock, x: Array) -> tuple[Array, None]:
            return block(x, tokens, mask), None

        x, _ = scan(self.blocks, read, x, remat=self.remat)
        x = self.norm(x.astype(jnp.float32)) + features[:, None, None]
        return x.reshape(b * h * w, -1)


def around(x: Float[Array, "B H W C"]) -> Float[Array, "B H W nineC"]:
    """Each pixel and its eight neighbours side by side; 0 beyond the edge."""
    h, w = x.shape[1:3]
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate(
        [wide[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1
    )


def places(height: int, width: int) -> Float[Array, "H W _"]:
    """Where a pixel lies in its window: sine and cosine of row and column."""
    multiple = jnp.pi * 2.0 ** jnp.arange(HARMONICS, dtype=jnp.float32)

    def waves(n: int) -> Float[Array, "n _"]:
        at = (jnp.arange(n, dtype=jnp.float32) + 0.5) / n
        angle = at[:, None] * multiple[None]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

    shape = (height, width, 2 * HARMONICS)
    rows = jnp.broadcast_to(waves(height)[:, None], shape)
    return jnp.concatenate([rows, jnp.broadcast_to(waves(width)[None], shape)], axis=-1)
