"""Numbers of a run: what a head predicts, with 90 % intervals, a row a window.

    Standardised [B or B*H*W, K] --summary--> mean, spread, ends --numbers_of--> Numbers of every
                                 target: [B], of a dense head [B,H,W] --means--> [B]

The interval of the first target is conformal where the run was calibrated (`Processor.conformal`),
of a dense head by the errors of single pixels; otherwise the head's own, which promises nothing.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from rsvlm_jax.data.processor import Processor
from rsvlm_jax.generate.numbers import Drawn
from rsvlm_jax.metrics import conformal
from rsvlm_jax.models.heads import Standardised

ALPHA = 0.1
"""Missed share of the intervals: 90 %."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Predictions [n], or maps [n,H,W], in target units; `scale` is half the width of the central
    68 % of what the head predicts (one standard deviation of a Gaussian), before calibration and
    bounds."""

    mean: Float[np.ndarray, " *shape"]
    scale: Float[np.ndarray, " *shape"]
    lo: Float[np.ndarray, " *shape"]
    hi: Float[np.ndarray, " *shape"]

    @property
    def of_windows(self) -> Numbers:
        """[n]: of maps the means over each window, of its ends and spreads too.

        That is as if all pixels of a window erred together: the interval of a mean is too wide
        where they do not, and its coverage above the level.
        """
        if self.mean.ndim == 1:
            return self
        return Numbers(*(x.mean(axis=(1, 2)) for x in dataclasses.astuple(self)))


def numbers_of(predictive: Standardised | Drawn, processor: Processor) -> list[Numbers]:
    """Of every target, a map a window where the head is dense."""
    read = [np.asarray(x, np.float64) for x in _summary(predictive)]
    found = [Numbers(*(x[:, k] for x in read)) for k in range(read[0].shape[1])]
    if processor.config.is_dense:
        window = processor.data.window
        maps = [[x.reshape(-1, window, window) for x in dataclasses.astuple(f)] for f in found]
        found = [Numbers(*m) for m in maps]
    scores = processor.conformal
    if scores is not None:
        one, bounds = found[0], processor.target.bounds
        lo, hi = conformal.interval(one.mean, one.scale, scores, ALPHA, bounds)
        found[0] = Numbers(one.mean, one.scale, lo, hi)
    return found


@jax.jit
def _summary(predictive: Standardised | Drawn) -> tuple[jax.Array, ...]:
    """Mean, spread and the ends of the interval: [B,K] each."""
    ends = (predictive.quantile(q) for q in (ALPHA / 2, 1 - ALPHA / 2))
    return predictive.mean, predictive.spread, *ends
