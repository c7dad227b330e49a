"""Images to patch tokens: a strided convolution written as a reshape and a matrix product."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.core.shapes import Array, Float

from .linear import Linear, expand_last, matmul


def patches(images: Float[Array, "F H W C"], size: int) -> Float[Array, "F P E"]:
    """Non-overlapping squares in raster order, each flattened as (row, column, channel).

    A 4x5 image and size 2; what does not fill a patch at the right and bottom edges is not read,
    as in a convolution without padding::

        a a b b .
        a a b b .   ->  [a..., b..., c..., d...]    P = (H // size) * (W // size), E = size^2 * C
        c c d d .
        c c d d .
    """
    f, h, w, c = images.shape
    rows, columns = h // size, w // size
    x = images[:, : rows * size, : columns * size]
    x = x.reshape(f, rows, size, columns, size, c)
    return jnp.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(f, -1, size * size * c)


class PatchEmbed(nnx.Module):
    """A linear map of every patch, tokens in the order of Hugging Face's towers.

    A torch convolution kernel [D, C, row, column] becomes `kernel` by
    `w.transpose(2, 3, 1, 0).reshape(-1, D)`.
    """

    def __init__(
        self,
        patch_size: int,
        width: int,
        *,
        channels: int = 3,
        bias: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.patch_size = patch_size
        linear = Linear(patch_size * patch_size * channels, width, bias=bias, rngs=rngs)
        self.kernel, self.bias = linear.kernel, linear.bias

    def __call__(self, images: Float[Array, "F H W C"]) -> Float[Array, "F P Dv"]:
        x = matmul(patches(images, self.patch_size), self.kernel[...])
        return x if self.bias is None else x + expand_last(self.bias[...], x)
