"""Numbers of a run: what a head predicts, with 90 % intervals, a row a window.

    Standardised [B or B*H*W, K] --summary--> mean, spread, ends --numbers_of--> Numbers of every
                                 target: [B], of a dense head [B,H,W] --means--> [B]

The interval of the first target is conformal where the run was calibrated (`Processor.conformal`),
of a dense head by the errors of single pixels; otherwise the head's own, which promises nothing.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.processor import Processor
from rsvlm_jax.generate.numbers import Drawn
from rsvlm_jax.metrics import conformal
from rsvlm_jax.models.heads import Standardised
from rsvlm_jax.train.losses import known_targets

ALPHA = 0.1
"""Missed share of the intervals: 90 %."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Predictions [n], or maps [n,H,W], in target units; `scale` is half the width of the central
    68 % of what the head predicts (one standard deviation of a Gaussian), before calibration and
    bounds; `crps` that of the same distribution within bounds at the target, NaN where it is not
    known."""

    mean: Float[np.ndarray, " *shape"]
    scale: Float[np.ndarray, " *shape"]
    lo: Float[np.ndarray, " *shape"]
    hi: Float[np.ndarray, " *shape"]
    crps: Float[np.ndarray, " *shape"]

    @property
    def of_windows(self) -> Numbers:
        """[n]: of maps the means over each window, of its ends and spreads too.

        That is as if all pixels of a window erred together: the interval of a mean is too wide
        where they do not, and its coverage above the level. What the mean is distributed like
        follows from no single pixel: its CRPS is NaN.
        """
        if self.mean.ndim == 1:
            return self
        found = Numbers(*(x.mean(axis=(1, 2)) for x in dataclasses.astuple(self)))
        return dataclasses.replace(found, crps=np.full(len(found.mean), np.nan))


def numbers_of(
    predictive: Standardised | Drawn, batch: Batch, processor: Processor
) -> list[Numbers]:
    """Of every target, a map a window where the head is dense."""
    y = known_targets(batch)
    if len(y) != len(predictive.mean):  # of a dense head, whose source holds no maps of the target
        y = jnp.full((1, 1), jnp.nan)
    read = [np.asarray(x, np.float64) for x in _summary(predictive, y)]
    found = [Numbers(*(x[:, k] for x in read)) for k in range(read[0].shape[1])]
    if processor.config.is_dense:
        window = processor.data.window
        maps = [[x.reshape(-1, window, window) for x in dataclasses.astuple(f)] for f in found]
        found = [Numbers(*m) for m in maps]
    scores = processor.conformal
    if scores is not None:
        one, bounds = found[0], processor.target.bounds
        lo, hi = conformal.interval(one.mean, one.scale, scores, ALPHA, bounds)
        found[0] = dataclasses.replace(one, lo=lo, hi=hi)
    return found


@jax.jit
def _summary(predictive: Standardised | Drawn, y: jax.Array) -> tuple[jax.Array, ...]:
    """Mean, spread, the ends of the interval and the CRPS at `y`: [B,K] each."""
    ends = (predictive.quantile(q) for q in (ALPHA / 2, 1 - ALPHA / 2))
    # A source without targets has one column, of NaN.
    crps = predictive.crps(jnp.broadcast_to(y, predictive.mean.shape))
    return predictive.mean, predictive.spread, *ends, crps
