"""Normalisation over the last axis. Moments are float32 whatever the compute dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rsvlm_jax.core.shapes import Array, Float

from .linear import expand_last


class LayerNorm(nnx.Module):
    """Mean 0, variance 1, then `scale` and `bias` (Ba et al. 2016)."""

    def __init__(self, d: int, *, eps: float = 1e-5, rngs: nnx.Rngs) -> None:
        del rngs  # nothing random: the argument keeps all layers alike
        self.scale = nnx.Param(jnp.ones((d,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        y = y * expand_last(self.scale[...], y) + expand_last(self.bias[...], y)
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Mean square 1, then `scale` (Zhang & Sennrich 2019)."""

    def __init__(self, d: int, *, eps: float = 1e-5, rngs: nnx.Rngs) -> None:
        del rngs
        self.scale = nnx.Param(jnp.ones((d,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * expand_last(self.scale[...], y)).astype(x.dtype)
