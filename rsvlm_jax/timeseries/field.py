"""Significance over a field: which of a million tests to believe.

Not a test of trends: it takes their p. At alpha 0.05 one pixel of twenty without a trend is
"significant"; the procedure of Benjamini and Hochberg (1995) bounds the share of false ones among
those that it keeps, also where neighbours are positively dependent (Benjamini and Yekutieli, 2001;
Wilks, 2016, for fields). NaN is no test and counts as none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsvlm_jax.config.errors import ConfigError
from rsvlm_jax.core.shapes import Array, Bool, Float

from .blocks import Numbers


class Discoveries(NamedTuple):
    """q: p adjusted, NaN where p is;  kept: q <= alpha. Both of the shape of p."""

    q: Float[Numbers, "..."]
    kept: Bool[Numbers, "..."]


def false_discovery(p: Float[Numbers, "..."], alpha: float = 0.05) -> Discoveries:
    """Benjamini-Hochberg over all of a field.

    Args:
      p: any shape; NaN = no test.
      alpha: the share of false ones among the kept that is allowed.

    Raises:
      ConfigError: alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ConfigError("no share of false discoveries", where="alpha", expected="0 < alpha < 1",
                          found=alpha)  # fmt: skip
    q = _adjusted(jnp.asarray(p).reshape(-1)).reshape(p.shape)
    return Discoveries(q, q <= alpha)


@jax.jit
def _adjusted(p: Float[Array, " N"]) -> Float[Array, " N"]:
    order = jnp.argsort(p)  # NaN last
    ordered = p[order]
    tests = (p == p).sum().astype(p.dtype)
    rank = jnp.arange(1, p.shape[0] + 1).astype(p.dtype)
    scaled = jnp.where(ordered == ordered, ordered * tests / rank, jnp.inf)
    q = jnp.minimum(jax.lax.cummin(scaled, reverse=True), 1)
    q = jnp.where(ordered == ordered, q, jnp.nan)
    return jnp.zeros_like(p).at[order].set(q)
