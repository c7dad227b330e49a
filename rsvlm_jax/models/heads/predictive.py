"""Predictive distributions in target units.

A head works in a standardised space z = (f(y) - mean) / std, f the identity ("zscore") or log1p,
with `mean` and `std` those of f(y) over the training split. A `Predictive` undoes this, so that
nothing outside a head knows about it:

    z ~ N(loc, scale)  --z * std + mean-->  u  --identity | expm1-->  y  --clip to [low, high]

Mean, median, quantiles and samples are clipped to the bounds of the target; `nll` is that of the
unclipped distribution, whose density exists.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Float

Transform = Literal["zscore", "log1p"]


class Predictive(Protocol):
    """What every head returns: a distribution of K targets for each of B samples."""

    @property
    def mean(self) -> Float[Array, "B K"]: ...

    @property
    def median(self) -> Float[Array, "B K"]: ...

    def quantile(self, q: float) -> Float[Array, "B K"]: ...

    def sample(self, rng: Array, n: int) -> Float[Array, "n B K"]: ...

    def nll(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]: ...


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A normal distribution of the transformed target.

    Attributes:
      loc, scale: in standardised space.
      target_mean, target_std: of the transformed target.
      low, high: bounds in target units; infinite where there are none.
      transform: "log1p" makes y + 1 log-normal.
    """

    loc: Float[Array, "B K"]
    scale: Float[Array, "B K"]
    target_mean: Float[Array, " K"]
    target_std: Float[Array, " K"]
    low: Float[Array, " K"]
    high: Float[Array, " K"]
    transform: Transform = dataclasses.field(default="zscore", metadata={"static": True})

    @property
    def mean(self) -> Float[Array, "B K"]:
        """The true mean before clipping: of the log-normal under "log1p", above its median."""
        u = self._unstandardise(self.loc)
        if self.transform == "log1p":
            u = u + 0.5 * jnp.square(self.scale * self.target_std[None])
        return self._target(u)

    @property
    def median(self) -> Float[Array, "B K"]:
        return self._target(self._unstandardise(self.loc))

    def quantile(self, q: float) -> Float[Array, "B K"]:
        """Exact: all steps to target units are monotone. `q` in (0, 1)."""
        z = ndtri(jnp.asarray(q, jnp.float32))
        return self._target(self._unstandardise(self.loc + self.scale * z))

    def sample(self, rng: Array, n: int) -> Float[Array, "n B K"]:
        noise = jax.random.normal(rng, (n, *self.loc.shape), jnp.float32)
        draw = jax.vmap(lambda e: self._target(self._unstandardise(self.loc + self.scale * e)))
        return draw(noise)

    def standardise(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Target units to the space of `loc` and `scale`. Under "log1p", y > -1."""
        u = jnp.log1p(y) if self.transform == "log1p" else y
        return (u - self.target_mean[None]) / self.target_std[None]

    def nll(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Negative log density at `y`, in target units: change of variables included."""
        z = (self.standardise(y) - self.loc) / self.scale
        nll = 0.5 * jnp.square(z) + jnp.log(self.scale) + jnp.log(self.target_std)[None]
        nll = nll + jnp.float32(0.9189385332046727)  # log sqrt(2 pi)
        return nll + jnp.log1p(y) if self.transform == "log1p" else nll

    def _unstandardise(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        return z * self.target_std[None] + self.target_mean[None]

    def _target(self, u: Float[Array, "B K"]) -> Float[Array, "B K"]:
        y = jnp.expm1(u) if self.transform == "log1p" else u
        return jnp.clip(y, self.low[None], self.high[None])
