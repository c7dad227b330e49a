"""How far a target resembles itself: the empirical semivariogram and the range of a fitted model.

    gamma(h) = mean of (z(a) - z(b))^2 / 2 over pairs a, b that are h metres apart
    spherical    gamma(h) = nugget + sill (1.5 h/r - 0.5 (h/r)^3)  up to h = r, then nugget + sill
    exponential  gamma(h) = nugget + sill (1 - exp(-3 h/r))         95 % of the sill at h = r

(Matheron 1963.) Places nearer than the range are not
independent, so a buffer as wide as the range makes a held-out place a new one. Distances are on
the ground, also for degrees (`data_zarr.ground`). No kriging, no anisotropy, no trend removed: a
target that drifts over the whole cube has no range, and `Variogram.found` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from data_zarr.errors import CubeError
from data_zarr.ground import arc, points
from data_zarr.sensors import Number

Model = Literal["spherical", "exponential"]

EXACT = 2000
"""Up to so many values every pair is used; of more, pairs are drawn."""
PAIRS = 400_000
"""Pairs drawn, spread evenly over the bins of distance."""
NEIGHBOURS = 32
ENOUGH = 300


@dataclass(frozen=True, eq=False)
class Variogram:
    """An empirical semivariogram and its fitted model.

    Attributes:
      distance: metres [b], mean of the pairs in each bin that has any.
      gamma: semivariance [b], in squared units of the target.
      pairs: int64 [b].
      model: "spherical" or "exponential".
      nugget, sill: of the model; the semivariance far away is nugget + sill.
      range_metres: where the model levels off (95 % of the sill, if exponential): 0 for a nugget
        alone, inf where it does not level off within the distances looked at.
      found: which of the three it is.
    """

    distance: Float[np.ndarray, " b"]
    gamma: Float[np.ndarray, " b"]
    pairs: Int[np.ndarray, " b"]
    model: Model
    nugget: float
    sill: float
    range_metres: float
    found: Literal["range", "nugget only", "no sill"]

    def __call__(self, metres: Any) -> Any:
        """The model's semivariance at a distance."""
        shape = _shape(self.model, np.asarray(metres, np.float64), max(self.range_metres, 1e-12))
        return self.nugget + self.sill * shape


def variogram(
    values: Shaped[np.ndarray, "*n"],
    grid: Any,
    row: Shaped[np.ndarray, " n"] | None = None,
    col: Shaped[np.ndarray, " n"] | None = None,
    *,
    model: Model = "spherical",
    bins: int = 24,
    max_metres: Number | None = None,
    categorical: bool = False,
    seed: int = 0,
) -> Variogram:
    """The semivariogram of a layer, of windows, or of places.

    Args:
      values: [H, W] on `grid`; or [n] at pixel coordinates `row`, `col`; NaN where unknown.
      grid: a `Grid`, or the places of a point cube.
      row, col: continuous pixel coordinates (+0.5 is a centre); None takes `values` as a layer.
      model: fitted to the bins.
      bins: of distance, in geometric steps from the nearest pair to `max_metres`.
      max_metres: half the largest distance between two values by default: beyond, pairs are few
        and all from the edges.
      categorical: values are classes: half the share of pairs that differ.
      seed: of the pairs that are drawn where there are more than 2000 values. They are drawn
        evenly over distance, so that short ones are not missed in a large layer.

    Raises:
      CubeError: fewer than three known values, or all of them at one place.
    """
    z = np.asarray(values, np.float64)
    raster = row is None or col is None
    if row is None or col is None:
        z = z.reshape(grid.height, grid.width)
        known = np.argwhere(np.isfinite(z))
        known_z = z[known[:, 0], known[:, 1]]
        known = known + 0.5
    else:
        keep = np.isfinite(z)
        known, known_z = np.stack([row, col], axis=1)[keep].astype(np.float64), z[keep]
    if len(known) < 3:
        raise CubeError("no variogram", expected="at least three known values", found=len(known))
    rng = np.random.default_rng(seed)
    near, far = _span(known, grid)
    far = far / 2 if max_metres is None else float(max_metres)
    if len(known) <= EXACT:
        h, d2 = _all_pairs(known, known_z, grid, categorical)
    elif raster and grid.width > 1:
        h, d2 = _drawn_pairs(z, known, grid, near, far, categorical, rng)
    else:
        h, d2 = _neighbour_pairs(known, known_z, grid, categorical, rng)
    inside = (h > 0) & (h <= far)
    if not inside.any():
        raise CubeError("no variogram", expected=f"pairs at most {far:.6g} m apart", found="none")
    h, d2 = h[inside], d2[inside]
    edges = np.geomspace(h.min(), far, bins + 1)
    place = np.clip(np.searchsorted(edges, h, side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    full = count > 0
    n = np.maximum(count, 1)
    distance = np.bincount(place, h, minlength=bins) / n
    gamma = np.bincount(place, d2, minlength=bins) / (2 * n)
    return fit(distance[full], gamma[full], count[full], model)


def fit(
    distance: Float[np.ndarray, " b"],
    gamma: Float[np.ndarray, " b"],
    pairs: Int[np.ndarray, " b"],
    model: Model = "spherical",
) -> Variogram:
    """Fits a model to a binned semivariogram, nugget and sill >= 0, by least squares.

    Bins weigh by their pairs, up to `ENOUGH`: beyond, what differs is the model, not chance.
    """
    low, high = np.log(distance[0]), np.log(distance[-1])
    if gamma.max() <= 0 or low >= high:
        return Variogram(distance, gamma, pairs, model, 0.0, 0.0, 0.0, "nugget only")
    weight = np.sqrt(np.minimum(pairs, ENOUGH))
    log_range, nugget, sill = _weighted(distance, gamma, weight, model)
    if sill <= 1e-3 * (nugget + sill):
        return Variogram(distance, gamma, pairs, model, nugget, sill, 0.0, "nugget only")
    if log_range > high:
        return Variogram(distance, gamma, pairs, model, nugget, sill, float("inf"), "no sill")
    return Variogram(distance, gamma, pairs, model, nugget, sill, float(np.exp(log_range)), "range")


def _weighted(
    distance: np.ndarray, gamma: np.ndarray, weight: np.ndarray, model: Model
) -> tuple[float, float, float]:
    """(log range, nugget, sill) of least weighted squares. The range may be twice the last bin.

    Nugget and sill are a linear problem for each range, so only the range is searched.
    """
    from scipy.optimize import minimize_scalar, nnls

    def at(log_range: float) -> tuple[float, np.ndarray]:
        shape = _shape(model, distance, float(np.exp(log_range)))
        design = np.stack([np.ones_like(shape), shape], axis=1)
        parts, residual = nnls(design * weight[:, None], gamma * weight)
        return float(residual), parts

    tried = np.linspace(np.log(distance[0]), np.log(2 * distance[-1]), 80)
    best = int(np.argmin([at(r)[0] for r in tried]))
    ends = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    best_fit: Any = minimize_scalar(lambda r: at(r)[0], bounds=ends, method="bounded")
    log_range = float(best_fit.x)
    nugget, sill = map(float, at(log_range)[1])
    return log_range, nugget, sill


def _shape(model: Model, h: np.ndarray, reach: float) -> np.ndarray:
    """0 at no distance, 1 (or 0.95) at the range."""
    ratio = h / reach
    if model == "exponential":
        return 1 - np.exp(-3 * ratio)
    return np.where(ratio < 1, 1.5 * ratio - 0.5 * ratio**3, 1.0)


def _difference(a: np.ndarray, b: np.ndarray, categorical: bool) -> np.ndarray:
    return (a != b).astype(np.float64) if categorical else (a - b) ** 2


def _span(known: np.ndarray, grid: Any) -> tuple[float, float]:
    """(size of a pixel, largest distance between the corners of what is known), metres."""
    if getattr(grid, "transform", None) is None:
        at = points(grid, known[:, 0], known[:, 1])
        box = at.max(axis=0) - at.min(axis=0)
        return 0.0, float(arc(np.sqrt((box**2).sum()), grid))
    (top, left), (bottom, right) = known.min(axis=0), known.max(axis=0)
    ends = points(grid, [top, bottom, top, bottom], [left, right, right, left])
    longest = max(np.linalg.norm(ends[0] - ends[1]), np.linalg.norm(ends[2] - ends[3]))
    return grid.gsd, float(arc(longest, grid))


def _all_pairs(
    known: np.ndarray, z: np.ndarray, grid: Any, categorical: bool
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial.distance import pdist

    i, j = np.triu_indices(len(z), k=1)
    straight = pdist(points(grid, known[:, 0], known[:, 1]))
    return np.asarray(arc(straight, grid)), _difference(z[i], z[j], categorical)


def _drawn_pairs(
    z: np.ndarray,
    known: np.ndarray,
    grid: Any,
    near: float,
    far: float,
    categorical: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pixels whose distances are even in their logarithm, in all directions."""
    start = known[rng.integers(0, len(known), PAIRS)] - 0.5
    length = np.exp(rng.uniform(np.log(near), np.log(max(far, near)), PAIRS))
    angle = rng.uniform(0, np.pi, PAIRS)
    # Steps of a pixel in metres at the middle of the layer; distances below are exact.
    y, x = grid.height / 2, grid.width / 2
    ends = points(grid, [y, y, y + 1], [x, x + 1, x])
    across, down = np.linalg.norm(ends[1] - ends[0]), np.linalg.norm(ends[2] - ends[0])
    step = np.stack([length * np.sin(angle) / down, length * np.cos(angle) / across], axis=1)
    end = start + np.round(step)
    inside = ((end >= 0) & (end < z.shape)).all(axis=1)
    start, end = start[inside].astype(np.int64), end[inside].astype(np.int64)
    first, second = z[start[:, 0], start[:, 1]], z[end[:, 0], end[:, 1]]
    both = np.isfinite(second)
    a = points(grid, start[both, 0] + 0.5, start[both, 1] + 0.5)
    b = points(grid, end[both, 0] + 0.5, end[both, 1] + 0.5)
    h = np.asarray(arc(np.linalg.norm(a - b, axis=1), grid))
    return h, _difference(first[both], second[both], categorical)


def _neighbour_pairs(
    known: np.ndarray,
    z: np.ndarray,
    grid: Any,
    categorical: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs among some of the places, and those of each with its neighbours among all."""
    from scipy.spatial import KDTree

    some = rng.choice(len(z), EXACT, replace=False)
    h, d2 = _all_pairs(known[some], z[some], grid, categorical)
    at = points(grid, known[:, 0], known[:, 1])
    found: Any = KDTree(at).query(at[some], k=NEIGHBOURS + 1)
    near, other = found
    more = np.asarray(arc(near[:, 1:].ravel(), grid))
    pairs = _difference(np.repeat(z[some], NEIGHBOURS), z[other[:, 1:].ravel()], categorical)
    return np.concatenate([h, more]), np.concatenate([d2, pairs])
