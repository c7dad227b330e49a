"""What an output has to know of the training targets before it can begin: bins and shares.

    "histogram"  bins of one width over the training quantiles 0.001 to 0.999 and a margin
    "ordinal"    bins of equal shares (edges are training quantiles) over the same support

In standardised space, once, on the host. Targets outside the support are clamped to it in training
and counted here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rsvlm_jax.config import HeadConfig

QUANTILES = (0.001, 0.999)
MARGIN = 0.05
"""Of the span between the two, added at each end."""


class Support(NamedTuple):
    """Of one target.

    Attributes:
      edges: of the bins, ascending, [bins + 1].
      share: of training targets in each bin, each > 0, with sum 1 (one more is counted in every
        bin), [bins].
      outside: how many training targets lie outside.
    """

    edges: np.ndarray
    share: np.ndarray
    outside: int


def support_of(z: np.ndarray, config: HeadConfig) -> Support:
    """Of the standardised training targets [n] of one target."""
    low, high = np.quantile(z, QUANTILES)
    margin = MARGIN * max(high - low, 1e-3)
    low, high = low - margin, high + margin
    if config.output == "ordinal":
        inner = np.quantile(z, np.linspace(0, 1, config.bins + 1)[1:-1])
        edges = _apart(np.concatenate([[low], inner, [high]]))
    else:
        edges = np.linspace(low, high, config.bins + 1)
    count = np.histogram(np.clip(z, edges[0], edges[-1]), edges)[0] + 1.0
    return Support(edges, count / count.sum(), int(((z < low) | (z > high)).sum()))


def ranges_of(z: np.ndarray, experts: int) -> np.ndarray:
    """Values between equal shares of the training targets, ascending, [experts - 1]."""
    edges = np.quantile(z, np.linspace(0, 1, experts + 1))
    return _apart(edges)[1:-1]


def _apart(edges: np.ndarray) -> np.ndarray:
    """Ascending edges between the same ends; where targets repeat, bins keep a smallest width."""
    low, high = edges[0], edges[-1]
    inside = (np.clip(edges, low, high) - low) / (high - low)
    even = np.linspace(0, 1, len(edges))
    return low + (high - low) * (0.95 * inside + 0.05 * even)
