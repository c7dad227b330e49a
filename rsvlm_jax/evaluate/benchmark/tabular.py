"""Baselines on numbers per window: means, ridge, forests, boosting.

    Task --Table--> x [m, f], [n, f]     made once, on first use
    x, y, site of the training rows --fit--> Guess of the held-out rows

Settings are chosen by inner grouped cross-validation of the training rows alone, tiles or sites
kept whole. Sources: quantile forest, Meinshausen 2006, JMLR 7, eq. 4-6; gradient boosting is
scikit-learn's histogram kind, with the pinball loss for quantiles.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rsvlm_jax.evaluate import baselines
from rsvlm_jax.evaluate.baselines import Tuned, tuned

from .cells import LEVELS, Cell, Guess, Model
from .features import Table

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], Guess]
"""(x_train [m, f], y_train [m], site [m], x_test [n, f], seed) -> Guess [n]"""

BOOSTING_GRID: tuple[dict[str, Any], ...] = (
    {"learning_rate": 0.1, "max_leaf_nodes": 31, "min_samples_leaf": 20},
    {"learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 10},
    {"learning_rate": 0.05, "max_leaf_nodes": 7, "min_samples_leaf": 5},
)
BOOSTING_TREES = 200
QUANTILE_TREES = 100
"""Of the ten quantile losses, each with so many."""
REVISION = 1
"""Raised when a change here changes predictions: cells made before are then made anew."""


def mean(x: np.ndarray, y: np.ndarray, site: np.ndarray, x_test: np.ndarray, seed: int) -> Guess:
    """The mean of the training targets."""
    return Guess(baselines.mean(x, y, site, x_test), parameters=1)


def ridge(x: np.ndarray, y: np.ndarray, site: np.ndarray, x_test: np.ndarray, seed: int) -> Guess:
    """Ridge on standardised features."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    grid = [{"ridge__alpha": a} for a in baselines.RIDGE_ALPHAS]
    made = tuned([StandardScaler(), Ridge()], grid, x, y, site)
    return _point(made, x_test, int(made.columns.sum()) + 1)


def random_forest(
    x: np.ndarray, y: np.ndarray, site: np.ndarray, x_test: np.ndarray, seed: int
) -> Guess:
    """Random forest."""
    made = baselines.forest(x, y, site, seed)
    return _point(made, x_test, _nodes(made))


def quantile_forest(
    x: np.ndarray, y: np.ndarray, site: np.ndarray, x_test: np.ndarray, seed: int
) -> Guess:
    """The same forest, whose leaves weigh the training targets."""
    made = baselines.forest(x, y, site, seed)
    start = time.perf_counter()
    *before, trees = made.pipeline
    leaves = []
    for part in (x[:, made.columns], x_test[:, made.columns]):
        for step in before:
            part = step.transform(part)
        leaves.append(trees.apply(part))
    weights = leaf_weights(*leaves)
    quantiles = weighted_quantiles(y, weights)
    seconds = time.perf_counter() - start
    return dataclasses.replace(
        _with_quantiles(Guess(weights @ y), quantiles),
        predict_seconds=seconds,
        parameters=_nodes(made),
    )


def leaf_weights(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """How much each training row says about each test row (Meinshausen's w_i(x)).

    Args:
      train, test: leaf of every row in every tree, [m, trees] and [n, trees].

    Returns:
      [n, m], rows that sum to 1: the mean over trees of the share of a row in its leaf.
    """
    out = np.zeros((len(test), len(train)))
    for t in range(train.shape[1]):
        same = test[:, t, None] == train[None, :, t]
        out += same / np.maximum(same.sum(axis=1, keepdims=True), 1)
    return out / train.shape[1]


def weighted_quantiles(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The smallest y at which the weights [n, m] reach each of `LEVELS`: [n, 10]."""
    order = np.argsort(y, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)
    at = [(reached < level - 1e-12).sum(axis=1) for level in LEVELS]
    return y[order][np.minimum(np.stack(at, axis=1), len(y) - 1)]


def boosting(
    x: np.ndarray, y: np.ndarray, site: np.ndarray, x_test: np.ndarray, seed: int
) -> Guess:
    """Gradient boosting; NaN goes its own way in every tree."""
    made = _boosted(x, y, site, seed)
    return _point(made, x_test, _predictor_nodes(made.pipeline[-1]))


def quantile_boosting(
    x: np.ndarray, y: np.ndarray, site: np.ndarray, x_test: np.ndarray, seed: int
) -> Guess:
    """Boosting for the mean, and with the pinball loss for each of `LEVELS`, sorted per row."""
    from sklearn.base import clone

    made = _boosted(x, y, site, seed)
    found, count, seconds = [], _predictor_nodes(made.pipeline[-1]), 0.0
    for level in LEVELS:
        one: Any = clone(made.pipeline[-1])
        one.set_params(loss="quantile", quantile=float(level), max_iter=QUANTILE_TREES)
        one.fit(x[:, made.columns], y)
        start = time.perf_counter()
        found.append(one.predict(x_test[:, made.columns]))
        seconds += time.perf_counter() - start
        count += _predictor_nodes(one)
    start = time.perf_counter()
    quantiles = np.sort(np.stack(found, axis=1), axis=1)
    guess = _with_quantiles(Guess(made.predict(x_test)), quantiles)
    seconds += time.perf_counter() - start
    return dataclasses.replace(guess, predict_seconds=seconds, parameters=count)


def _boosted(x: np.ndarray, y: np.ndarray, site: np.ndarray, seed: int) -> Tuned:
    from sklearn.ensemble import HistGradientBoostingRegressor

    name = "histgradientboostingregressor"
    grid = [{f"{name}__{k}": v for k, v in row.items()} for row in BOOSTING_GRID]
    # No early stopping: scikit-learn would part the rows at random, neighbours on both sides.
    never: Any = False
    model = HistGradientBoostingRegressor(
        max_iter=BOOSTING_TREES, early_stopping=never, max_features=0.5, random_state=seed
    )
    return tuned([model], grid, x, y, site, impute=False)


def _point(made: Tuned, x_test: np.ndarray, parameters: int) -> Guess:
    start = time.perf_counter()
    found = made.predict(x_test)
    return Guess(found, predict_seconds=time.perf_counter() - start, parameters=parameters)


def _with_quantiles(guess: Guess, quantiles: np.ndarray) -> Guess:
    """Own interval and spread from quantiles: half the distance of the 15 % and the 85 % one.

    Half the mean of it is added: a leaf of equal targets claims no spread at all, and one error
    there would widen the calibrated intervals of all.
    """
    half = (quantiles[:, 8] - quantiles[:, 1]) / 2
    floor = max(float(np.mean(half)) / 2, 1e-9)
    return dataclasses.replace(
        guess,
        scale=half + floor,
        quantiles=quantiles,
        lo=quantiles[:, 0],
        hi=quantiles[:, -1],
    )


def _nodes(made: Tuned) -> int:
    return int(sum(tree.tree_.node_count for tree in made.pipeline[-1].estimators_))


def _predictor_nodes(model: Any) -> int:
    """At most so many: a tree may stop earlier."""
    return int(model.n_iter_ * (2 * model.max_leaf_nodes - 1))


ROWS: dict[str, tuple[Fit, str, str, bool]] = {
    "mean": (mean, "windows", "the mean of the training targets", False),
    "ridge": (ridge, "windows", "ridge on means and deviations of bands and dates", False),
    "ridge_indices": (ridge, "indices", "ridge on spectral indices of all dates", False),
    "random_forest": (random_forest, "windows", "random forest on the features of ridge", True),
    "quantile_forest": (quantile_forest, "windows", "the forest's leaves as a distribution", True),
    "boosting": (boosting, "windows", "gradient boosting on the features of ridge", True),
    "quantile_boosting": (quantile_boosting, "windows", "boosting with pinball losses", True),
    "temporal_boosting": (boosting, "temporal", "boosting on percentiles and harmonics", True),
    "galileo_ridge": (ridge, "galileo", "frozen Galileo-nano embeddings, ridge", False),
    "presto_ridge": (ridge, "presto", "frozen Presto embeddings, ridge", False),
}
"""Name -> fit, features, in words, whether a seed matters."""


def tabular_model(name: str, table: Table) -> Model:
    """A row of `ROWS` that reads a table of features."""
    fit, kind, about, seeded = ROWS[name]

    def predict(cell: Cell) -> Guess:
        x, x_test = table.training(kind), table.evaluation(kind)
        start = time.perf_counter()
        train = cell.train
        guess = fit(
            x[train],
            cell.task.y_training[train],
            cell.deal.site_training[train],
            x_test[cell.test],
            cell.seed,
        )
        seconds = time.perf_counter() - start - guess.predict_seconds
        return dataclasses.replace(guess, train_seconds=seconds)

    depends = {"features": kind, "inputs": table.identity, "revision": REVISION}
    return Model(name, about, depends, predict, seeded)
