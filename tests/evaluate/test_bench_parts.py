"""Parts of the benchmark by hand: leaf weights, series statistics, resampling."""

from __future__ import annotations

import numpy as np
import pytest

from rsvlm_jax.evaluate.benchmark.cells import LEVELS
from rsvlm_jax.evaluate.benchmark.features import series_statistics
from rsvlm_jax.evaluate.benchmark.resample import holm, metric_intervals, paired
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


def test_the_interval_covers_the_metric_and_widens_with_fewer_sites():
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    mean = y + rng.normal(0, 0.5, 400) + np.repeat(rng.normal(0, 2, 8), 50)
    inside = np.abs(y - mean) < 2
    many = metric_intervals(y, mean, inside, np.arange(400))
    few = metric_intervals(y, mean, inside, np.repeat(np.arange(8), 50))
    rmse = np.sqrt(np.mean((y - mean) ** 2))
    for found in (many, few):
        assert found["rmse_lo"] < rmse < found["rmse_hi"]
        assert found["picp90_site_lo"] < inside.mean() < found["picp90_site_hi"]
    assert few["rmse_hi"] - few["rmse_lo"] > 1.5 * (many["rmse_hi"] - many["rmse_lo"])
    assert np.isnan(metric_intervals(y, mean, inside, np.zeros(400))["rmse_lo"])


def test_a_pair_differs_where_one_is_better_everywhere():
    rng = np.random.default_rng(0)
    loss = rng.uniform(1, 2, 200)
    site = np.repeat(np.arange(20), 10)
    noise = rng.normal(0, 0.3, 200)
    rows = paired({"a": loss, "b": loss + 0.5, "c": loss + noise}, site, root=False)
    by_pair = {(r["model"], r["reference"]): r for r in rows}
    better, even = by_pair["a", "b"], by_pair["a", "c"]
    assert better["difference"] == pytest.approx(-0.5)
    assert better["hi"] < 0
    assert better["p_holm"] < 0.01
    assert even["p"] > 0.05
    assert even["lo"] < 0 < even["hi"]


def test_few_sites_cannot_be_significant():
    loss = np.ones(30)
    (row,) = paired({"a": loss, "b": loss + 1}, np.repeat(np.arange(3), 10), root=True)
    assert row["p"] == pytest.approx(2 * 0.5**3, abs=0.02)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
