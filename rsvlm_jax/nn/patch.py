"""Images to patch tokens: a strided convolution written as a reshape and a matrix product."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.core.shapes import Array, Float

from .linear import Linear, expand_last, matmul
from .position import resize_weights


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


class FlexPatch(nnx.Module):
    """A `PatchEmbed` that maps patches of any edge up to that of its kernel.

    The kernel of a smaller patch is the pseudo-inverse resize of the stored one (Beyer et al. 2023,
    FlexiViT, arXiv:2212.08013): what it gives for a resized patch is nearest to what the stored
    kernel gives for the patch itself. Its layout is that of `PatchEmbed`.
    """

    def __init__(self, size: int, width: int, *, channels: int, rngs: nnx.Rngs) -> None:
        self.size, self.channels = size, channels
        linear = Linear(size * size * channels, width, rngs=rngs)
        self.kernel, self.bias = linear.kernel, linear.bias

    def __call__(self, images: Float[Array, "F H W C"], size: int) -> Float[Array, "F P Dv"]:
        """Tokens of patches of `size` pixels an edge."""
        kernel = self.kernel[...]
        if size != self.size:
            inverse = jnp.asarray(resize_inverse(self.size, size))
            kernel = kernel.reshape(self.size, self.size, self.channels, -1)
            kernel = jnp.einsum("ir,ijcd->rjcd", inverse, kernel, precision="highest")
            kernel = jnp.einsum("js,rjcd->rscd", inverse, kernel, precision="highest")
            kernel = kernel.reshape(size * size * self.channels, -1)
        x = matmul(patches(images, size), kernel)
        return x if self.bias is None else x + expand_last(self.bias[...], x)


@functools.lru_cache(maxsize=16)
def resize_inverse(old: int, new: int) -> np.ndarray:
    """[old, new]: the pseudo-inverse of the bicubic, antialiased resize of an edge."""
    weights = resize_weights(old, new, "bicubic_antialias").astype(np.float64)
    made = np.linalg.pinv(weights).astype(np.float32)
    made.flags.writeable = False  # the cache hands out one array
    return made
