"""What a researcher would otherwise use: training mean, ridge, random forest on window statistics.

The bar for the model, so no straw men: the baselines see the same bands, dates and masks, their
settings are chosen by inner grouped cross-validation on the training windows, and nothing of a
held-out window takes part (medians, scalers and choices are fitted on training windows).

    cube, inputs, table [n] -> features [n, f] -> fit_predict per fold -> mean [n_test]

Features of one window: mean and standard deviation over the valid pixels of every band and date,
of NDVI where red and near infrared are there, and of VV - VH (or HH - HV) in dB for radar.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_zarr.grid import aligned
from data_zarr.indices import compute
from rsvlm_jax.config import BandSetSpec, DataError, InputConfig

if TYPE_CHECKING:
    from data_zarr.cube import Cube
    from data_zarr.sampling import WindowTable

FitPredict = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(x_train [m, f], y_train [m], groups [m], x_test [n, f]) -> mean [n]"""

RIDGE_ALPHAS = (1.0, 10.0, 100.0, 1000.0)
FOREST_GRID: tuple[dict[str, Any], ...] = (
    {"max_features": "sqrt", "min_samples_leaf": 1},
    {"max_features": 1 / 3, "min_samples_leaf": 1},
    {"max_features": 1 / 3, "min_samples_leaf": 3},
)
TREES = 100
TUNING_TREES = 30
INNER_FOLDS = 3


def features(cube: Cube, inputs: Sequence[InputConfig], table: WindowTable) -> np.ndarray:
    """Statistics of every window.

    Args:
      cube: an open cube.
      inputs: band sets (and bands) that the model reads.
      table: windows, n rows.

    Returns:
      float64 [n, f], physical units; NaN where a window has no valid pixel of a band and date.
    """
    from rsvlm_jax.data import bandset_specs

    specs = bandset_specs(cube, tuple(inputs))
    return np.concatenate([_bandset_features(cube, spec, table) for spec in specs], axis=1)


def _bandset_features(cube: Cube, spec: BandSetSpec, table: WindowTable) -> np.ndarray:
    """[n, f] of one band set."""
    rows: list[np.ndarray | None] = [None] * len(table)
    for i, values, valid in each_window(cube, spec, table):
        rows[i] = mean_and_std(*derived(values, valid, spec))
    return np.stack([r for r in rows if r is not None])


def each_window(
    cube: Cube, spec: BandSetSpec, table: WindowTable
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Every window of a table once, read a strip of the cube at a time.

    Yields:
      (row of the table, values [T,C,h,w] in physical units, valid [T,1|C,h,w]), in the band set's
      own pixels.
    """
    reader = cube.reader(spec.name, bands=spec.band_names)
    y, x, size = aligned(table.y, table.x, table.size, cube.bandsets[spec.name].factor, spec.name)
    scale = np.array([b.scale for b in spec.bands])[:, None, None]
    offset = np.array([b.offset for b in spec.bands])[:, None, None]
    # Places lie one below the other: all of them are one strip.
    strips = [np.arange(len(y))] if cube.points else [np.flatnonzero(y == v) for v in np.unique(y)]
    for here in strips:
        top, left = int(y[here].min()), int(x[here].min())
        height = int(y[here].max()) + size - top
        pixels, valid = reader.read(top, left, height, int(x[here].max()) + size - left)
        values = pixels * scale + offset
        for i in here:
            rows = slice(int(y[i]) - top, int(y[i]) - top + size)
            columns = slice(int(x[i]) - left, int(x[i]) - left + size)
            yield int(i), values[..., rows, columns], valid[..., rows, columns]


def derived(
    values: np.ndarray, valid: np.ndarray, spec: BandSetSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Bands and what experts make of them: NDVI, or the difference of two polarisations.

    Args:
      values: [T, C, H, W], physical units; valid: bool [T, 1 or C, H, W].

    Returns:
      (values, valid), both [T, C + 0 or 1, H, W].
    """
    valid = np.broadcast_to(valid, values.shape)
    channel = {b.common_name: i for i, b in enumerate(spec.bands)}
    red, nir = channel.get("red"), channel.get("nir", channel.get("nir08"))
    if spec.kind == "optical" and red is not None and nir is not None:
        extra = compute("ndvi", {"red": values[:, red], "nir": values[:, nir]})
        known = valid[:, red] & valid[:, nir] & np.isfinite(extra)
        # Reflectances below zero (atmospheric correction over shade) leave the range of an NDVI.
        extra = np.clip(extra, -1, 1)
    elif spec.kind == "sar" and len(spec.bands) == 2:
        extra = values[:, 0] - values[:, 1]
        known = valid[:, 0] & valid[:, 1]
    else:
        return values, valid
    return np.concatenate([values, extra[:, None]], 1), np.concatenate([valid, known[:, None]], 1)


def mean_and_std(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """[2 T C]: means, then standard deviations, over the valid pixels of [T, C, H, W]."""
    n = valid.sum(axis=(2, 3))
    safe = np.maximum(n, 1)
    mean = np.where(valid, values, 0).sum(axis=(2, 3)) / safe
    centred = np.where(valid, values - mean[..., None, None], 0)
    std = np.sqrt((centred**2).sum(axis=(2, 3)) / safe)
    return np.where(n > 0, np.stack([mean, std]), np.nan).ravel()


def mean(
    x_train: np.ndarray, y_train: np.ndarray, groups: np.ndarray, x_test: np.ndarray
) -> np.ndarray:
    """The mean of the training targets: R2 = 0 but for the folds' differences."""
    return np.full(len(x_test), np.mean(y_train))


def ridge(
    x_train: np.ndarray, y_train: np.ndarray, groups: np.ndarray, x_test: np.ndarray
) -> np.ndarray:
    """Ridge regression on standardised features, its penalty chosen among `RIDGE_ALPHAS`."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    grid = [{"ridge__alpha": a} for a in RIDGE_ALPHAS]
    return tuned([StandardScaler(), Ridge()], grid, x_train, y_train, groups).predict(x_test)


def random_forest(
    x_train: np.ndarray,
    y_train: np.ndarray,
    groups: np.ndarray,
    x_test: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Random forest of `TREES` trees, its setting chosen among `FOREST_GRID`.

    `TUNING_TREES` rank the settings, which takes a fraction of the time and no more trees.
    """
    return forest(x_train, y_train, groups, seed).predict(x_test)


def forest(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int = 0) -> Tuned:
    """The fitted forest of `random_forest`."""
    from sklearn.ensemble import RandomForestRegressor

    grid = [{f"randomforestregressor__{k}": v for k, v in row.items()} for row in FOREST_GRID]
    trees = RandomForestRegressor(TUNING_TREES, random_state=seed)
    full = {"randomforestregressor__n_estimators": TREES}
    return tuned([trees], grid, x, y, groups, final=full)


BASELINES: dict[str, FitPredict] = {"mean": mean, "ridge": ridge, "random_forest": random_forest}
"""By their names in the table, in the order of its rows."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A fitted pipeline of scikit-learn.

    Attributes:
      columns: bool [f], features that have a value in some training window; others are not read.
    """

    pipeline: Any
    columns: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, f] -> [n]."""
        return np.asarray(self.pipeline.predict(x[:, self.columns]), np.float64)


def tuned(
    steps: list[Any],
    grid: list[dict[str, Any]],
    x_train: np.ndarray,
    y_train: np.ndarray,
    groups: np.ndarray,
    *,
    final: dict[str, Any] | None = None,
    impute: bool = True,
) -> Tuned:
    """`steps` fitted after their setting was chosen from `grid` by inner grouped CV.

    Args:
      final: parameters of the last fit that tuning did without.
      impute: put medians of the training windows where a feature is NaN.

    Raises:
      DataError: no feature has a value, or there are fewer than two groups.
    """
    from joblib import parallel_config
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline

    known = np.asarray(np.isfinite(x_train).any(axis=0))
    if not known.any():
        raise DataError(
            "no feature has a value in any training window",
            where="baselines",
            expected="at least one date with valid pixels",
            found=f"{x_train.shape[0]} windows, {x_train.shape[1]} features, all NaN",
        )
    # keep_empty_features: a column may be all NaN in an inner part and not in the outer one.
    imputer = [SimpleImputer(strategy="median", keep_empty_features=True)] if impute else []
    model = make_pipeline(*imputer, *steps)
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise DataError(
            "no grouped inner cross-validation",
            where="baselines",
            expected="training windows of at least 2 groups",
            found=n_groups,
        )
    search = GridSearchCV(
        model,
        [{k: [v] for k, v in row.items()} for row in grid],
        scoring="neg_mean_squared_error",
        cv=GroupKFold(min(INNER_FOLDS, n_groups)),
        n_jobs=2,
        refit=False,
    )
    # Threads over candidates (trees release the GIL): no worker processes beside JAX, and, unlike
    # threads inside a forest, no order of summation that changes from run to run.
    with parallel_config(backend="threading"):
        search.fit(x_train[:, known], y_train, groups=groups)
    model.set_params(**{**search.best_params_, **(final or {})})
    return Tuned(model.fit(x_train[:, known], y_train), known)


def fold_model(
    fit_predict: FitPredict,
    *,
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    splits: Mapping[int, Any] | Sequence[Any],
    x_eval: np.ndarray | None = None,
) -> Callable[[int], tuple[np.ndarray, None, float]]:
    """A baseline in the form that `regression_benchmark` takes.

    Args:
      fit_predict: one of `BASELINES`.
      x, y, groups: [m, f], [m], [m] of the windows that may be trained on; NaN targets are left
        out. Groups (folds, tiles, sites) are kept together by the inner cross-validation.
      splits: by fold, objects with `.train` (rows of x) and `.test` (rows of x_eval), such as
        `data_zarr.splits.Split`.
      x_eval: [n, f] of the evaluation windows; None when they are the same windows as x.

    Returns:
      fold -> (mean [len(test)] in ascending order of the test rows, None, seconds).
    """
    evaluation = x if x_eval is None else x_eval

    def model(fold: int) -> tuple[np.ndarray, None, float]:
        start = time.perf_counter()
        train = np.asarray(splits[fold].train)
        train = train[np.isfinite(y[train])]
        test = np.sort(np.asarray(splits[fold].test))
        found = fit_predict(x[train], y[train], groups[train], evaluation[test])
        return np.asarray(found, np.float64), None, time.perf_counter() - start

    return model
