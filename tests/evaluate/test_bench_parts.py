"""Parts of the benchmark by hand: leaf weights, series statistics, tables of the page."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm_jax.evaluate.benchmark.cells import LEVELS
from rsvlm_jax.evaluate.benchmark.features import series_statistics
from rsvlm_jax.evaluate.benchmark.page import VALUES, _by_label
from rsvlm_jax.evaluate.benchmark.tabular import (
    boosting,
    leaf_weights,
    quantile_boosting,
    quantile_forest,
    weighted_quantiles,
)


def test_leaf_weights_by_hand():
    train = np.array([[0, 5], [0, 6], [1, 5]])
    test = np.array([[0, 5], [1, 6]])
    found = leaf_weights(train, test)
    np.testing.assert_allclose(found, [[0.5, 0.25, 0.25], [0, 0.5, 0.5]])


def test_weighted_quantiles_of_equal_weights_are_order_statistics():
    y = np.random.default_rng(0).normal(size=100)
    found = weighted_quantiles(y, np.full((1, 100), 0.01))
    np.testing.assert_array_equal(found[0], np.sort(y)[[4, 14, 24, 34, 44, 54, 64, 74, 84, 94]])


@pytest.mark.parametrize("fit", [quantile_forest, quantile_boosting])
def test_quantile_models_know_where_noise_is(fit, monkeypatch: pytest.MonkeyPatch):
    from rsvlm_jax.evaluate import baselines
    from rsvlm_jax.evaluate.benchmark import tabular

    monkeypatch.setattr(baselines, "TREES", 30)
    monkeypatch.setattr(tabular, "QUANTILE_TREES", 20)
    monkeypatch.setattr(tabular, "BOOSTING_TREES", 20)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2))
    y = x[:, 0] + np.where(x[:, 1] > 0, 1.0, 0.05) * rng.normal(size=400)
    found = fit(x[:300], y[:300], np.arange(300) % 5, x[300:], 0)
    noisy = x[300:, 1] > 0
    assert found.quantiles.shape == (100, len(LEVELS))
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    wide = found.hi - found.lo
    assert wide[noisy].mean() > 1.5 * wide[~noisy].mean()
    assert found.scale[noisy].mean() > 1.3 * found.scale[~noisy].mean()
    assert 0.75 < np.mean((found.lo <= y[300:]) & (y[300:] <= found.hi)) <= 1


def test_boosting_takes_gaps_and_its_seed_matters():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4))
    y = x[:, 0] - x[:, 1]
    x[rng.random(x.shape) < 0.1] = np.nan
    one, same, other = (boosting(x[:80], y[:80], np.arange(80) % 4, x[80:], s).mean
                        for s in (0, 0, 1))  # fmt: skip
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_series_statistics_by_hand():
    days = np.array([0.0, 91.310625, 182.62125, 273.931875, 365.2425])
    level, c, s = 0.4, 0.2, -0.1
    angle = 2 * np.pi * days / 365.2425
    series = (level + c * np.cos(angle) + s * np.sin(angle))[:, None]
    found = series_statistics(np.concatenate([series, np.full((5, 1), np.nan)], 1), days)
    first, second = found.reshape(2, 13)
    np.testing.assert_allclose(first[-3:], [level, c, s], atol=1e-9)
    assert first[9] == 5
    np.testing.assert_allclose(first[5:8], [series.min(), series.max(), series.mean()])
    assert second[9] == 0
    assert np.isnan(np.delete(second, 9)).all()
    few = np.where(np.arange(5)[:, None] < 3, series, np.nan)
    assert np.isnan(series_statistics(few, days)[-3:]).all()


def test_labels_of_few_values_have_a_table_each():
    def row(model: str, label: str, value: int, rmse: float) -> dict:
        return {"model": model, "label": label, "value": str(value), "n": 3, "rmse": rmse,
                "observed": 1.5}  # fmt: skip

    groups = [row(m, "year", v, 0.25 * v) for v in (2019, 2020) for m in ("ridge", "rsvlm")]
    groups += [row("ridge", "site", v, 1.0) for v in range(VALUES + 1)]
    groups += [row("ridge", "product", 7, 1.0)]
    (table,) = _by_label(groups)
    assert "RMSE by year" in table
    assert table.count("<tr>") == 3
    assert "<td>2020</td><td>3</td><td>1.5</td><td>505</td><td>505</td>" in table
