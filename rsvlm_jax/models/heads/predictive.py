"""Predictive distributions in target units.

A head works in a standardised space, that of the training split's transformed target; a
`Predictive` undoes this, so that nothing outside a head knows about it::

    z  --z * std + mean-->  u  --identity | expm1 | u |u| | sinh-->  y  --clip to [low, high]
                               "zscore"   "log1p"  "sqrt"   "asinh"

Mean, median, quantiles and samples are clipped to the bounds of the target; `nll` and `spread` are
those of the unclipped distribution, whose density exists. The mean is that before clipping.

What the losses read is in standardised space: `point` and `score(z)`. The outputs themselves are in
`locscale` (two numbers) and `piecewise` (many).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from rsvlm_jax.config.model import Transform
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.metrics import crps_chain

CENTRAL = (0.15865525393145707, 0.8413447460685429)
"""Levels of the central 68 %: one standard deviation to each side of a normal distribution."""


STEPS = np.linspace(-5.0, 5.0, 161, dtype=np.float32)
"""Normal deviates of the levels between which a CRPS without a closed form is integrated."""


class Predictive(Protocol):
    """What every head returns: a distribution of K targets for each of B samples."""

    @property
    def mean(self) -> Float[Array, "B K"]: ...

    @property
    def median(self) -> Float[Array, "B K"]: ...

    @property
    def spread(self) -> Float[Array, "B K"]:
        """Half of the width of the central 68 %, > 0, before clipping."""
        ...

    def quantile(self, q: Any) -> Float[Array, "B K"]:
        """At the level `q` in (0, 1)."""
        ...

    def sample(self, rng: Array, n: int) -> Float[Array, "n B K"]: ...

    def nll(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Negative log density at `y`."""
        ...

    def crps(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Continuous ranked probability score at `y`, in target units."""
        ...


def forward(y: Any, transform: Transform, xp: Any = jnp) -> Any:
    """u of y. Under "log1p" y > -1; under "sqrt" the root keeps the sign of what is below 0."""
    if transform == "log1p":
        return xp.log1p(y)
    if transform == "sqrt":
        return xp.sign(y) * xp.sqrt(xp.abs(y))
    return xp.arcsinh(y) if transform == "asinh" else y


def inverse(u: Array, transform: Transform) -> Array:
    """y of u, monotone everywhere."""
    if transform == "log1p":
        return jnp.expm1(u)
    if transform == "sqrt":
        return u * jnp.abs(u)
    return jnp.sinh(u) if transform == "asinh" else u


def log_slope(y: Array, transform: Transform) -> Array:
    """log du / dy."""
    if transform == "log1p":
        return -jnp.log1p(y)
    if transform == "sqrt":
        return -jnp.log(2.0) - 0.5 * jnp.log(jnp.abs(y))
    # Not log(1 + y^2): of large y the square overflows.
    return -jnp.log(jnp.hypot(y, jnp.ones_like(y))) if transform == "asinh" else jnp.zeros_like(y)


@pytree_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Standardised:
    """A distribution that is known in standardised space: what all outputs share.

    Attributes:
      target_mean, target_std: of the transformed target over the training split.
      low, high: bounds in target units; infinite where there are none.
      gate: of a mixture of experts, log of the share of each expert; otherwise None.
      ranges: with a gate, the values (z) between the equal shares of the training targets.
      transform: see the module; "log1p" makes y + 1 of a Gaussian log-normal.
    """

    target_mean: Float[Array, " K"]
    target_std: Float[Array, " K"]
    low: Float[Array, " K"]
    high: Float[Array, " K"]
    gate: Float[Array, "B K E"] | None = None
    ranges: Float[Array, "K F"] | None = None
    transform: Transform = dataclasses.field(default="zscore", metadata={"static": True})

    # ---- of an output --------------------------------------------------------------------------

    @property
    def point(self) -> Float[Array, "B K"]:
        """The point that `LossConfig.huber` pulls at the standardised target."""
        raise NotImplementedError

    def score(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """The proper score of `LossConfig.scale` at the standardised target."""
        raise NotImplementedError

    def free_mean(self) -> Float[Array, "B K"]:
        """In target units, before clipping."""
        raise NotImplementedError

    def free_quantile(self, q: Float[Array, "*levels"]) -> Float[Array, "B K"]:
        """In target units, before clipping; `q` of one level, or of one for each target [B,K]."""
        raise NotImplementedError

    def nll(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Negative log density at `y`, of the unclipped distribution, in target units."""
        raise NotImplementedError

    # ---- in target units -----------------------------------------------------------------------

    @property
    def mean(self) -> Float[Array, "B K"]:
        """The true mean before clipping: of the log-normal under "log1p", above its median."""
        return self._clip(self.free_mean())

    @property
    def median(self) -> Float[Array, "B K"]:
        return self.quantile(0.5)

    @property
    def spread(self) -> Float[Array, "B K"]:
        """Half of the width of the central 68 %, > 0; of a normal distribution its std."""
        lo, hi = (self.free_quantile(jnp.asarray(q, jnp.float32)) for q in CENTRAL)
        return jnp.maximum(0.5 * (hi - lo), jnp.finfo(jnp.float32).tiny)

    def quantile(self, q: Any) -> Float[Array, "B K"]:
        """All steps to target units are monotone. `q` in (0, 1)."""
        return self._clip(self.free_quantile(jnp.asarray(q, jnp.float32)))

    def sample(self, rng: Array, n: int) -> Float[Array, "n B K"]:
        """Quantiles of random levels, uniform in (0, 1)."""
        shape = (n, *self.point.shape)
        levels = jax.random.uniform(rng, shape, jnp.float32, minval=1e-7, maxval=1.0)
        return jax.vmap(lambda q: self._clip(self.free_quantile(q)))(levels)

    def crps(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Of the clipped distribution, as the interval is: exact where an output has a closed form,
        here by 161 quantiles with a distribution function that is linear between them."""
        levels = ndtr(jnp.asarray(STEPS))
        knots = jnp.moveaxis(jax.vmap(self.quantile)(levels), 0, -1)
        below = jnp.broadcast_to(levels[None, None], knots.shape)
        return crps_chain(y, knots, below, low=self.low[None], high=self.high[None])

    def standardise(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Target units to standardised space. Under "log1p" what is not over -1 counts as -1."""
        if self.transform == "log1p":
            y = jnp.maximum(y, jnp.float32(-1 + 1e-6))
        return (forward(y, self.transform) - self.target_mean[None]) / self.target_std[None]

    def _unstandardise(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        return z * self.target_std[None] + self.target_mean[None]

    def _clip(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        return jnp.clip(y, self.low[None], self.high[None])
