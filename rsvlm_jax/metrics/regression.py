"""Point metrics of a regression from sums that add up.

Not a metric object with hidden state: `regression_sums` is a pure function, its result a pytree of
nine scalars, and merging is addition. Averages of batch averages never appear, so uneven batches,
padding (weight 0) and several devices cannot bend a figure.

    y, pred [...] , weight [...] -> RegressionSums (9 scalars) -> {rmse, mae, bias, r2, ...}
                                     |  + of other batches
                                     |  psum over devices

Conventions: bias = predicted - observed. R2 = 1 - SSE / SST, not the squared correlation. rrmse =
rmse / |mean of the observations|. Positions with a NaN target are ignored; a NaN *prediction* of a
valid target is not, and makes the figures NaN. R2 and r of constant observations are undefined:
NaN, where scikit-learn's `r2_score` says 0 or 1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from rsvlm_jax.core import pytree_dataclass

from .sums import namespace, valid_weight


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class RegressionSums:
    """Sufficient statistics of observed y and predicted p, weighted by w.

    In float32 with a mean far from zero, subtract one centre from y and p first (say the training
    mean) and hand it to `metrics`: SST is a difference of the sums of y and of its squares.

    Attributes:
      n: sum of w;  y, p: of w y, w p;  yy, pp, yp: of w y^2, w p^2, w y p.
      sse, sae: of w (p - y)^2 and w |p - y|.
      se: of w (p - y).
    """

    n: Any
    y: Any
    p: Any
    yy: Any
    pp: Any
    yp: Any
    sse: Any
    sae: Any
    se: Any

    def __add__(self, other: RegressionSums) -> RegressionSums:
        names = [f.name for f in dataclasses.fields(self)]
        return RegressionSums(*(getattr(self, k) + getattr(other, k) for k in names))

    def metrics(self, center: Any = 0.0) -> dict[str, Any]:
        """`n rmse mae bias r2 rrmse r` as scalars; NaN where undefined.

        Args:
          center: what was subtracted from y and p before they were summed.
        """
        xp = namespace(self.n)
        nan = xp.nan
        some = self.n > 0
        n = xp.where(some, self.n, 1)
        sst = self.yy - self.y**2 / n
        spp = self.pp - self.p**2 / n
        syp = self.yp - self.y * self.p / n
        mse = self.sse / n
        rmse = xp.sqrt(mse)
        observed = xp.abs(self.y / n + center)
        varies = some & (sst > 0)
        both = varies & (spp > 0)
        norm = xp.sqrt(xp.where(both, sst * spp, 1))
        return {
            "n": self.n,
            "rmse": xp.where(some, rmse, nan),
            "mae": xp.where(some, self.sae / n, nan),
            "bias": xp.where(some, self.se / n, nan),
            "r2": xp.where(varies, 1 - self.sse / xp.where(varies, sst, 1), nan),
            "rrmse": xp.where(
                some & (observed > 0), rmse / xp.where(observed > 0, observed, 1), nan
            ),
            "r": xp.where(both, xp.clip(syp / norm, -1, 1), nan),
        }


def regression_sums(y: Any, pred: Any, weight: Any = None) -> RegressionSums:
    """The sums of one batch.

    Args:
      y: observed, any shape, NaN = ignore.
      pred: predicted, same shape.
      weight: same shape; boolean mask or weights >= 0; None counts every finite y once.
    """
    xp = namespace(y)
    w, y, pred = valid_weight(y, pred, weight)
    e = pred - y
    return RegressionSums(
        n=xp.sum(w),
        y=xp.sum(w * y),
        p=xp.sum(w * pred),
        yy=xp.sum(w * y * y),
        pp=xp.sum(w * pred * pred),
        yp=xp.sum(w * y * pred),
        sse=xp.sum(w * e * e),
        sae=xp.sum(w * xp.abs(e)),
        se=xp.sum(w * e),
    )


def regression_table(y: Any, pred: Any, mask: Any = None) -> dict[str, Any]:
    """All point metrics of arrays that are at hand in full.

    Args:
      y, pred, mask: as in `regression_sums`.

    Returns:
      `n rmse mae bias r2 rrmse r` (see the module for the conventions).
    """
    xp = namespace(y)
    w, y, pred = valid_weight(y, pred, mask)
    # First one observation, then the mean: constant observations become exact zeros, so that
    # their SST is exactly 0, and the rest loses no digits to a large mean.
    first = xp.reshape(y, (-1,))[xp.argmax(xp.reshape(w, (-1,)) > 0)] if y.size else 0.0
    y, pred = y - first, pred - first
    n = xp.sum(w)
    mean = xp.sum(w * y) / xp.where(n > 0, n, 1)
    return regression_sums(y - mean, pred - mean, w).metrics(center=first + mean)


def by_bin(y: Any, pred: Any, edges: Sequence[float], mask: Any = None) -> list[dict[str, Any]]:
    """Metrics by bins of the observed value: shows saturation, which a pooled R2 hides.

    Args:
      y, pred, mask: as in `regression_sums`.
      edges: ascending; bins are [edges[i], edges[i+1]), the last one closed.

    Returns:
      One row a bin: `low high n rmse mae bias`.
    """
    xp = namespace(y)
    w, y, pred = valid_weight(y, pred, mask)
    rows = []
    last = len(edges) - 2
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (y >= low) & ((y <= high) if i == last else (y < high))
        found = regression_sums(y, pred, xp.where(inside, w, 0)).metrics()
        rows.append(
            {"low": low, "high": high, **{k: found[k] for k in ("n", "rmse", "mae", "bias")}}
        )
    return rows
