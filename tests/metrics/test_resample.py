"""Blocks drawn again: intervals widen with fewer blocks and cover, pairs are told apart fairly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rsvlm_jax.config import DataError
from rsvlm_jax.metrics import (
    bootstrap,
    coverage_interval,
    holm,
    metric_intervals,
    paired,
    paired_bootstrap,
)


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


def test_a_pair_is_the_first_row_of_its_table_and_leaves_out_what_is_unknown():
    rng = np.random.default_rng(0)
    a, b, site = rng.uniform(size=60), rng.uniform(size=60), np.repeat(np.arange(6), 10)
    gaps = np.append(a, np.nan), np.append(b, 1.0), np.append(site, 99)
    found = paired_bootstrap(*gaps)
    (row,) = paired({"a": a, "b": b}, site, root=False)
    assert found == {k: row[k] for k in ("difference", "lo", "hi", "p")}
    rooted = paired_bootstrap(a, b, site, root=True)["difference"]
    assert rooted == pytest.approx(np.sqrt(a.mean()) - np.sqrt(b.mean()))


def test_any_figure_of_sums_has_an_interval():
    rng = np.random.default_rng(1)
    e, site = rng.normal(size=200), np.arange(200) % 40
    rmse = metric_intervals(np.zeros(200), e, e < 1, site)
    found = bootstrap(lambda s: np.sqrt(s[0] / s[1]), [e**2, np.ones(200)], site)
    assert found == pytest.approx((rmse["rmse_lo"], rmse["rmse_hi"]), rel=1e-12)
    hit = np.where(np.arange(200) < 3, np.nan, e < 1)
    narrow, wide = (coverage_interval(hit, site, level=p) for p in (0.5, 0.95))
    assert wide[0] < narrow[0] < np.nanmean(hit) < narrow[1] < wide[1]


def test_the_interval_of_a_coverage_holds_the_true_one_as_often_as_it_says():
    """Sites with a common part: intervals of rows would be far too short."""
    rng = np.random.default_rng(7)
    site, trials, held = np.repeat(np.arange(60), 10), 300, 0
    for _ in range(trials):
        share = rng.beta(9 / 2, 1 / 2, 60)  # of hits of a site: 0.9 in the mean
        hit = rng.random(600) < share[site]
        low, high = coverage_interval(hit, site, draws=200, seed=int(rng.integers(1 << 30)))
        held += low <= 0.9 <= high
    # Percentile intervals of 60 blocks are a little short: 0.95 less three hundredths.
    assert binomtest(held, trials, 0.92, alternative="less").pvalue > 0.01


def test_a_fair_pair_is_called_different_as_often_as_the_level_says():
    rng = np.random.default_rng(3)
    site, found = np.repeat(np.arange(20), 5), 0
    for trial in range(200):
        shared, own = rng.normal(size=20)[site], rng.normal(size=(2, 100))
        sites = rng.normal(size=(2, 20))[:, site]
        a, b = (shared + own + sites) ** 2
        found += paired_bootstrap(a, b, site, seed=trial)["p"] < 0.1
    low, high = binomtest(found, 200).proportion_ci(0.999)
    assert low <= 0.1 <= high


@pytest.mark.parametrize(
    ("columns", "block", "words"),
    [
        ([np.ones(3), np.ones(4)], np.arange(3), r"do not fit together .*\(3,\), \(4,\)"),
        ([np.ones(3)], np.zeros((3, 1)), r"block \(3, 1\)"),
        ([np.full(3, np.nan)], np.arange(3), "no row to draw .* 3 rows with NaN"),
    ],
)
def test_rows_that_cannot_be_drawn_are_refused(columns, block, words):
    with pytest.raises(DataError, match=words):
        bootstrap(lambda s: s[0], columns, block)


def test_one_block_has_no_interval():
    assert np.isnan(coverage_interval(np.ones(9), np.zeros(9))).all()


def test_one_block_has_no_interval_of_a_pair():
    a, b = np.random.default_rng(0).normal(size=(2, 30)) ** 2
    found = paired_bootstrap(a, b, np.zeros(30), root=True)
    assert np.isnan([found["lo"], found["hi"]]).all()
    assert found["p"] == 1.0
