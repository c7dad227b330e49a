"""Distributions of many numbers: non-crossing quantiles, HL-Gauss histogram, ordinal bins.

Each is a chain of masses between ascending knots. The knots are mapped to target units, where the
density between two of them is constant: so masses, mean, quantiles and density are exact and agree
with each other, whatever the transform::

    z   e0 ------ e1 -- e2 ---------- e3        knots, ascending, n
    m       0.2     0.5       0.3               masses, n - 1, and those of the tails if it has any
    Q(q)    piecewise linear in q; in a tail exponential, going on with the slope of the last piece

The numbers that a head gives are unbounded; what keeps masses positive and knots ascending is here.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Float
from rsvlm_jax.metrics import Tail, crps_chain

from .predictive import Standardised, inverse

ROOM = 0.02
"""Of a bin's width, at least so much lies on each side of its offset."""


class Piecewise(Standardised):
    """A chain of masses. Subclasses say `knots`, `log_masses` and `tails`."""

    @property
    def knots(self) -> Float[Array, "B K n"]:
        """In standardised space, ascending."""
        raise NotImplementedError

    @property
    def log_masses(self) -> Float[Array, "B K m"]:
        """Between the knots, m = n - 1; with the tails they sum to 1."""
        raise NotImplementedError

    @property
    def tails(self) -> tuple[float, float]:
        """Masses below the first knot and above the last."""
        return 0.0, 0.0

    def free_mean(self) -> Float[Array, "B K"]:
        y, c = self._chain()
        inner = (jnp.diff(c) * 0.5 * (y[..., 1:] + y[..., :-1])).sum(axis=-1)
        (low, high), (below, above) = self.tails, self._slopes()
        if low:  # without a tail the first mass may be 0, and the slope infinite
            inner = inner + low * (y[..., 0] - low * below)
        if high:
            inner = inner + high * (y[..., -1] + high * above)
        return inner

    def free_quantile(self, q: Float[Array, "*levels"]) -> Float[Array, "B K"]:
        y, c = self._chain()
        q = jnp.broadcast_to(q, y.shape[:2])
        found = jax.vmap(jax.vmap(jnp.interp))(q, c, y)
        (low, high), (below, above) = self.tails, self._slopes()
        if low:
            under = y[..., 0] + low * below * jnp.log(jnp.minimum(q / low, 1.0))
            found = jnp.where(q < low, under, found)
        if high:
            over = y[..., -1] - high * above * jnp.log(jnp.minimum((1 - q) / high, 1.0))
            found = jnp.where(1 - q < high, over, found)
        return found

    def nll(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """In target units. Without tails, a value outside counts as one at the edge."""
        knots, _ = self._chain()
        lengths = jnp.log(jnp.diff(knots)) - self.log_masses
        inside = jnp.clip((y[..., None] >= knots).sum(axis=-1) - 1, 0, lengths.shape[-1] - 1)
        found = jnp.take_along_axis(lengths, inside[..., None], axis=-1)[..., 0]
        (low, high), (below, above) = self.tails, self._slopes()
        if low:
            found = found + jnp.maximum(knots[..., 0] - y, 0.0) / (low * below)
        if high:
            found = found + jnp.maximum(y - knots[..., -1], 0.0) / (high * above)
        return found

    def crps(self, y: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Exact."""
        knots, c = self._chain()
        tails = tuple(
            Tail(mass, mass * slope) for mass, slope in zip(self.tails, self._slopes(), strict=True)
        )
        return crps_chain(y, knots, c, (tails[0], tails[1]), self.low[None], self.high[None])

    def _chain(self) -> tuple[Float[Array, "B K n"], Float[Array, "B K n"]]:
        """Knots in target units, and the mass below each."""
        std, mean = (x[None, :, None] for x in (self.target_std, self.target_mean))
        low, high = self.tails
        c = jnp.cumsum(jnp.exp(self.log_masses), axis=-1)
        c = jnp.concatenate([jnp.zeros_like(c[..., :1]), c], axis=-1)
        c = low + c * ((1 - low - high) / c[..., -1:])
        return inverse(self.knots * std + mean, self.transform), c

    def _slopes(self) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
        """dQ / dq of the first piece and of the last."""
        y, c = self._chain()
        slope = jnp.diff(y) / jnp.diff(c)
        return slope[..., 0], slope[..., -1]


@pytree_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantiles(Piecewise):
    """Quantiles at fixed levels; `score` is twice their mean pinball loss, an estimate of the CRPS.

    Attributes:
      values: in standardised space, ascending.
      levels: of `values`; 0.5 among them.
    """

    values: Float[Array, "B K n"]
    levels: tuple[float, ...] = dataclasses.field(metadata={"static": True})

    @property
    def knots(self) -> Float[Array, "B K n"]:
        return self.values

    @property
    def log_masses(self) -> Float[Array, "B K m"]:
        masses = jnp.diff(jnp.asarray(self.levels, jnp.float32))
        return jnp.broadcast_to(jnp.log(masses)[None, None], (*self.values.shape[:2], len(masses)))

    @property
    def tails(self) -> tuple[float, float]:
        return self.levels[0], 1 - self.levels[-1]

    @property
    def point(self) -> Float[Array, "B K"]:
        """The median."""
        return self.values[..., self.levels.index(0.5)]

    def score(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        level = jnp.asarray(self.levels, jnp.float32)[None, None]
        off = z[..., None] - self.values
        return 2 * jnp.maximum(level * off, (level - 1) * off).mean(axis=-1)


@pytree_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram(Piecewise):
    """HL-Gauss (Imani and White 2018; Farebrother et al. 2024): a softmax over bins.

    It learns by the cross-entropy to a normal distribution around the target, its mass in each bin
    truncated to the support and normalised. A target outside counts as one at the edge.

    Attributes:
      logits: of the masses.
      edges: of the bins, which are of one width, in standardised space.
      sigma: spread around the target, in widths of a bin.
    """

    logits: Float[Array, "B K m"]
    edges: Float[Array, "K n"]
    sigma: float = dataclasses.field(metadata={"static": True})

    @property
    def knots(self) -> Float[Array, "B K n"]:
        return jnp.broadcast_to(self.edges[None], (self.logits.shape[0], *self.edges.shape))

    @property
    def log_masses(self) -> Float[Array, "B K m"]:
        return jax.nn.log_softmax(self.logits, axis=-1)

    @property
    def point(self) -> Float[Array, "B K"]:
        """The mean of the centres."""
        centre = 0.5 * (self.edges[:, 1:] + self.edges[:, :-1])
        return (jax.nn.softmax(self.logits, axis=-1) * centre[None]).sum(axis=-1)

    def wanted(self, z: Float[Array, "B K"]) -> Float[Array, "B K m"]:
        """The masses of a target; they sum to 1 wherever it lies."""
        first, last = self.edges[:, 0], self.edges[:, -1]
        sigma = self.sigma * (last - first) / self.logits.shape[-1]
        z = jnp.clip(z, first[None], last[None])
        below = ndtr((self.edges[None] - z[..., None]) / sigma[None, :, None])
        return jnp.diff(below) / (below[..., -1:] - below[..., :1])

    def score(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        return -(self.wanted(z) * self.log_masses).sum(axis=-1)


@pytree_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ordinal(Piecewise):
    """Ordered bins by the odds of lying above each edge between them, and an offset in each bin.

    The offset halves the mass of its bin: half lies below it. It learns by the binary cross-entropy
    of every edge, and in the bin of the target by the offset's distance to it (in bin widths).

    Attributes:
      above: log odds of lying above each inner edge, descending.
      offsets: of 0 to 1, where in a bin; `ROOM` is kept.
      edges: in standardised space, the outer ones included.
    """

    above: Float[Array, "B K inner"]
    offsets: Float[Array, "B K m"]
    edges: Float[Array, "K n"]

    @property
    def knots(self) -> Float[Array, "B K two_m_and_1"]:
        first = jnp.broadcast_to(self.edges[None, :, :-1], self.offsets.shape)
        middle = first + self.offsets * jnp.diff(self.edges)[None]
        pairs = jnp.stack([first, middle], axis=-1).reshape(*first.shape[:2], -1)
        last = jnp.broadcast_to(self.edges[None, :, -1:], (*first.shape[:2], 1))
        return jnp.concatenate([pairs, last], axis=-1)

    @property
    def log_masses(self) -> Float[Array, "B K two_m"]:
        return jnp.repeat(self.log_bins - jnp.log(2.0), 2, axis=-1)

    @property
    def log_bins(self) -> Float[Array, "B K m"]:
        """Masses of the bins."""
        return log_between(self.above)

    @property
    def point(self) -> Float[Array, "B K"]:
        """The mean of a chain that is straight in standardised space."""
        knots = self.knots
        return (jnp.exp(self.log_masses) * 0.5 * (knots[..., 1:] + knots[..., :-1])).sum(axis=-1)

    def score(self, z: Float[Array, "B K"]) -> Float[Array, "B K"]:
        over = z[..., None] > self.edges[None, :, 1:-1]
        odds = jnp.where(over, self.above, -self.above)
        there = over.sum(axis=-1)[..., None]
        first, width = self.edges[None, :, :-1], jnp.diff(self.edges)[None]
        place = jnp.clip((z[..., None] - first) / width, 0.0, 1.0)
        off = jnp.take_along_axis(jnp.abs(place - self.offsets), there, axis=-1)[..., 0]
        return off - jax.nn.log_sigmoid(odds).mean(axis=-1)


def log_between(above: Float[Array, "*shape inner"]) -> Float[Array, "*shape m"]:
    """Log masses between edges of which the log odds of lying above are known, descending.

    sigmoid(a) - sigmoid(b) is sigmoid(a) sigmoid(-b) (1 - exp(b - a)), without a cancellation.
    """
    over, under = jax.nn.log_sigmoid(above), jax.nn.log_sigmoid(-above)
    gap = above[..., :-1] - above[..., 1:]
    middle = over[..., :-1] + under[..., 1:] + jnp.log(-jnp.expm1(-gap))
    return jnp.concatenate([under[..., :1], middle, over[..., -1:]], axis=-1)
