"""Space to depth: squares of neighbouring tokens become one token, nothing is lost.

A grid of 4 x 4 tokens and factor 2::

     0  1 |  2  3
     4  5 |  6  7        [ 0  1  4  5]  [ 2  3  6  7]
    ------+------   ->   [ 8  9 12 13]  [10 11 14 15]      [F,16,Dv] -> [F,4,4 Dv]
     8  9 | 10 11
    12 13 | 14 15

Squares stand in raster order, and so do the tokens inside a square, their features one after the
other. InternVL and others order the features otherwise: that is a permutation of the rows of the
connector's first kernel, nothing more.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.config import ConfigError, PixelShuffleConfig
from rsvlm_jax.core.shapes import Array, Float


class PixelShuffle(nnx.Module):
    """No parameters.

    Args:
      grid: rows and columns of the tokens that come in, multiples of `config.factor`.

    Raises:
      ConfigError: a grid of other sizes.
    """

    def __init__(self, config: PixelShuffleConfig, grid: tuple[int, int]) -> None:
        if grid[0] % config.factor or grid[1] % config.factor:
            raise ConfigError(
                "pixel shuffle needs a grid of whole squares",
                where="PixelShuffle",
                expected=f"rows and columns multiples of {config.factor}",
                found=f"{grid[0]} x {grid[1]}",
            )
        self.config, self.grid = config, grid

    def __call__(self, tokens: Float[Array, "F P Dv"]) -> Float[Array, "F N E"]:
        (rows, columns), k = self.grid, self.config.factor
        f, _, d = tokens.shape
        x = tokens.reshape(f, rows // k, k, columns // k, k, d)
        return jnp.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(f, -1, k * k * d)
