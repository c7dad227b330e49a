"""Distributions of a location and a scale in standardised space: Gaussian and Laplace.

`score` is the negative log-likelihood of the scale around the detached location: the spread learns
how far the point is off and does not pull at it. Quantiles are exact, means closed forms.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.metrics import crps_laplace, crps_normal

from .predictive import CENTRAL, Standardised, inverse, log_slope

MOST = 0.9
"""The mean of exp(u) is infinite for a Laplace u of scale 1 or more: taken as if it were this."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(Standardised):
    """A normal distribution of the transformed target.

    Attributes:
      loc, scale: in standardised space.
    """

    loc: Float[Array, "B K"]
    scale: Float[Array, "B K"]

    @property
    def point(self) -> Float[Array, "B K"]:
        return self.loc

    @property
    def spread(self) -> Float[Array, "B K"]:
        """One standard deviation under "zscore"."""
        if self.transform == "zscore":
            return self.scale * self.target_std[None]
        return super().spread

    def score(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        off = z - jax.lax.stop_gradient(self.loc)
        return jnp.log(self.scale) + 0.5 * jnp.square(off / self.scale)

    def free_mean(self) -> Float[Array, "B K"]:
        u, s = self._unstandardise(self.loc), self.scale * self.target_std[None]
        if self.transform == "log1p":
            return inverse(u + 0.5 * jnp.square(s), "log1p")
        if self.transform == "asinh":
            return jnp.sinh(u) * jnp.exp(0.5 * jnp.square(s))
        if self.transform == "sqrt":  # of u |u|
            density = jnp.exp(-0.5 * jnp.square(u / s)) * jnp.float32(0.3989422804014327)
            return (jnp.square(u) + jnp.square(s)) * (2 * ndtr(u / s) - 1) + 2 * u * s * density
        return u

    def free_quantile(self, q: Float[Array, "*levels"]) -> Float[Array, "B K"]:
        """Exact."""
        return inverse(self._unstandardise(self.loc + self.scale * ndtri(q)), self.transform)

    def crps(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """In closed form under "zscore"."""
        if self.transform != "zscore":
            return super().crps(y)
        loc, scale = self._unstandardise(self.loc), self.scale * self.target_std[None]
        return crps_normal(y, loc, scale, self.low[None], self.high[None])

    def nll(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Change of variables included."""
        z = (self.standardise(y) - self.loc) / self.scale
        nll = 0.5 * jnp.square(z) + jnp.log(self.scale) + jnp.log(self.target_std)[None]
        nll = nll + jnp.float32(0.9189385332046727)  # log sqrt(2 pi)
        return nll - log_slope(y, self.transform)


@pytree_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Laplace(Standardised):
    """A double exponential of the transformed target: far misses cost less than to a Gaussian.

    Attributes:
      loc, scale: in standardised space; the standard deviation is sqrt(2) scale.
    """

    loc: Float[Array, "B K"]
    scale: Float[Array, "B K"]

    @property
    def point(self) -> Float[Array, "B K"]:
        return self.loc

    @property
    def spread(self) -> Float[Array, "B K"]:
        if self.transform == "zscore":
            unit = _deviate(jnp.asarray(CENTRAL[1], jnp.float32))
            return unit * self.scale * self.target_std[None]
        return super().spread

    def score(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        off = z - jax.lax.stop_gradient(self.loc)
        return jnp.log(self.scale) + jnp.abs(off) / self.scale

    def free_mean(self) -> Float[Array, "B K"]:
        """Under "log1p" and "asinh" of a scale of u that is at most `MOST`."""
        u, b = self._unstandardise(self.loc), self.scale * self.target_std[None]
        more = 1 / (1 - jnp.square(jnp.minimum(b, jnp.float32(MOST))))
        if self.transform == "log1p":
            return jnp.exp(u) * more - 1
        if self.transform == "asinh":
            return jnp.sinh(u) * more
        if self.transform == "sqrt":  # of u |u|, which is odd in u
            far = 2 * jnp.square(b) * (1 - jnp.exp(-jnp.abs(u) / b))
            return jnp.sign(u) * (jnp.square(u) + far)
        return u

    def free_quantile(self, q: Float[Array, "*levels"]) -> Float[Array, "B K"]:
        """Exact."""
        return inverse(self._unstandardise(self.loc + self.scale * _deviate(q)), self.transform)

    def crps(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """In closed form under "zscore"."""
        if self.transform != "zscore":
            return super().crps(y)
        loc, scale = self._unstandardise(self.loc), self.scale * self.target_std[None]
        return crps_laplace(y, loc, scale, self.low[None], self.high[None])

    def nll(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Change of variables included."""
        z = jnp.abs(self.standardise(y) - self.loc) / self.scale
        nll = z + jnp.log(2 * self.scale) + jnp.log(self.target_std)[None]
        return nll - log_slope(y, self.transform)


def _deviate(q: Float[Array, "*levels"]) -> Float[Array, "*levels"]:
    """Quantiles of the standard Laplace distribution."""
    off = q - 0.5
    return -jnp.sign(off) * jnp.log1p(-2 * jnp.abs(off))
