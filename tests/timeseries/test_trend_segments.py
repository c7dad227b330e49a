"""LandTrendr-like segments: planted ones are found; and annual composites."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.stats import f as fisher
from segments_in_loops import segments_in_loops

from rsvlm_jax.config.errors import ConfigError, DataError
from rsvlm_jax.timeseries import Code, annual_composites, landtrendr

YEARS = np.arange(1990.0, 2020.0)
T = len(YEARS)


def planted(kind: str) -> np.ndarray:
    """NBR of a stand: what happened to it."""
    knots = {
        "cut": ([1990, 2003, 2004, 2019], [0.7, 0.7, 0.1, 0.65]),
        "slow": ([1990, 2000, 2010, 2019], [0.6, 0.6, 0.2, 0.2]),
        "twice": ([1990, 1996, 1997, 2008, 2009, 2019], [0.7, 0.7, 0.3, 0.65, 0.05, 0.6]),
        "greening": ([1990, 2019], [0.2, 0.6]),
    }
    return np.interp(YEARS, *knots[kind])


def series(noise: float = 0.01, seed: int = 0) -> np.ndarray:
    x = np.stack([planted(kind) for kind in ("cut", "slow", "twice", "greening")])
    return x + noise * np.random.default_rng(seed).normal(size=x.shape)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def gaps():
    """Series with gaps, and their segments."""
    x = series()
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    with jax.enable_x64(True):
        return x, landtrendr(x, YEARS)


def fours(x: np.ndarray, **options):
    """Four series at a time: one program for most tests here."""
    found = [landtrendr(x[i : i + 4], YEARS, **options) for i in range(0, len(x), 4)]
    return jax.tree.map(lambda *a: np.concatenate(a), *found)


def same(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def test_planted_segments_are_found_exactly_without_noise():
    found = landtrendr(series(0.0), YEARS)
    np.testing.assert_allclose(found.fitted, series(0.0), atol=1e-9)
    assert np.asarray(found.segments).tolist() == [3, 3, 5, 1]
    assert np.asarray(found.vertex_time)[0, :4].tolist() == [1990, 2003, 2004, 2019]
    assert np.asarray(found.change_time)[:3].tolist() == [2003, 2000, 2008]
    np.testing.assert_allclose(found.change_magnitude[:3], [0.6, 0.4, 0.6], atol=1e-9)
    assert np.asarray(found.change_duration)[:3].tolist() == [1, 10, 1]
    assert np.isnan(found.change_time[3])
    np.testing.assert_allclose(found.slope[3, 0], 0.4 / 29)
    assert (np.asarray(found.p) < 1e-100).all()


def test_a_thousand_at_once_are_as_one_after_the_other():
    """The same steps in plain loops, on one series at a time."""
    rng = np.random.default_rng(7)
    x = np.concatenate([series(0.05, seed) for seed in range(250)])
    x[rng.random(x.shape) < 0.15] = np.nan
    found = fours(x)
    for i, row in enumerate(x):
        there = np.isfinite(row)
        at, value, p = segments_in_loops(YEARS[there], row[there])
        m = int(found.segments[i])
        np.testing.assert_array_equal(found.vertex_time[i][: m + 1], at)
        np.testing.assert_allclose(found.vertex_value[i][: m + 1], value, atol=1e-9)
        assert found.p[i] == pytest.approx(p, rel=1e-6)


def test_planted_segments_are_found_in_noise():
    x = np.concatenate([series(0.02, seed) for seed in range(5)])
    found = fours(x)
    kinds = np.arange(len(x)) % 4
    off = np.abs(np.asarray(found.change_time) - np.array([2003, 2000, 2008, np.nan])[kinds])
    assert (off[kinds == 0] <= 1).all()
    assert (off[kinds == 2] <= 1).all()
    assert np.median(off[kinds == 1]) <= 2
    assert np.median(np.abs(np.asarray(found.fitted) - np.tile(series(0.0), (5, 1)))) < 0.02


def test_the_fit_is_continuous_and_p_is_that_of_the_f_statistic(gaps):
    x, _ = gaps
    found = landtrendr(x, YEARS, spike=1.0)
    for i, row in enumerate(x):
        m = int(found.segments[i])
        at, value = np.asarray(found.vertex_time[i]), np.asarray(found.vertex_value[i])
        assert np.isfinite(at[: m + 1]).all()
        assert np.isnan(at[m + 1 :]).all()
        np.testing.assert_allclose(found.fitted[i], np.interp(YEARS, at[: m + 1], value[: m + 1]))
        np.testing.assert_allclose(
            np.asarray(found.slope[i])[:m], np.diff(value[: m + 1]) / np.diff(at[: m + 1])
        )
        there = np.isfinite(row)
        rest = ((row - np.asarray(found.fitted[i]))[there] ** 2).sum()
        total = ((row[there] - row[there].mean()) ** 2).sum()
        free = there.sum() - 2 * m - 1
        expected = fisher.sf((total - rest) / (2 * m) / (rest / free), 2 * m, free)
        assert float(found.p[i]) == pytest.approx(expected, rel=1e-6)
        assert float(found.rmse[i]) == pytest.approx((rest / there.sum()) ** 0.5)


def test_noise_is_flat_but_for_a_share_and_a_lonely_spike_is_no_change():
    rng = np.random.default_rng(0)
    x = 0.5 + 0.02 * rng.normal(size=(200, T))
    found = fours(x, p=0.01)
    flat = np.asarray(found.segments) == 1
    assert flat.mean() > 0.6
    spiky = planted("greening")
    spiky[12] -= 0.5
    found = fours(np.tile(spiky, (4, 1)))
    np.testing.assert_allclose(found.fitted[0], planted("greening"), atol=0.03)
    assert not found.change_magnitude[0] > 0.05


def test_a_recovery_within_a_year_is_not_believed():
    x = np.interp(YEARS, [1990, 2002, 2003, 2005, 2006, 2019], [0.7, 0.7, 0.1, 0.1, 0.7, 0.7])
    x = np.tile(x, (4, 1))
    found = fours(x)
    assert not (np.asarray(found.slope[0]) > 0.25 * np.ptp(np.asarray(found.fitted[0]))).any()
    free = fours(x, recovery=2.0)
    np.testing.assert_allclose(free.fitted, x, atol=1e-9)
    long = fours(x, recovery=2.0, one_year_recovery=False)
    rises = np.asarray(long.slope[0]) > 0
    assert (np.diff(np.asarray(long.vertex_time[0]))[rises] > 1).all()


def test_what_rises_is_what_falls_upside_down(gaps):
    x, found = gaps
    turned = landtrendr(-x, YEARS, disturbance="rise")
    same(
        found._replace(**{n: -getattr(found, n) for n in ("vertex_value", "slope", "fitted")}),
        turned,
    )


def test_the_order_of_years_does_not_matter(gaps):
    x, found = gaps
    order = np.random.default_rng(2).permutation(T)
    turned = landtrendr(x[:, order], YEARS[order])
    same(turned, found._replace(fitted=found.fitted[:, order]))


def test_dropping_equals_masking_masked_values_are_not_read_and_padding_does_not_matter(gaps):
    x, _ = gaps
    keep = np.isin(np.arange(T), (0, 5, 6, 29), invert=True)
    mask = np.isfinite(x) & keep
    masked = landtrendr(np.where(mask, x, 1e9), YEARS, mask)
    assert np.isfinite(masked.fitted).all()
    fewer = np.pad(x[:, keep], ((0, 0), (0, 4)), constant_values=np.nan)
    dropped = landtrendr(fewer, np.pad(YEARS[keep], (0, 4), constant_values=np.nan))
    same(masked._replace(fitted=masked.fitted[:, keep]),
         dropped._replace(fitted=dropped.fitted[:, :-4]))  # fmt: skip
    assert np.isnan(np.asarray(dropped.fitted)[:, -4:]).all()


def test_times_of_every_pixel_do_not_matter(gaps):
    x, found = gaps
    same(landtrendr(x, np.tile(YEARS, (4, 1))), found)


def test_twice_the_values_have_twice_the_fit(gaps):
    x, found = gaps
    two = landtrendr(2 * x, YEARS)
    double = ("vertex_value", "slope", "fitted", "rmse", "change_magnitude")
    same(found._replace(**{n: 2 * getattr(found, n) for n in double}), two)


def test_float32_is_float64_to_1e_5():
    x = series(0.02).astype(np.float32)
    single = landtrendr(x, YEARS - 2005)
    double = landtrendr(x.astype(float), YEARS - 2005)
    for name in ("fitted", "slope", "rmse", "change_magnitude"):
        np.testing.assert_allclose(getattr(single, name), getattr(double, name), atol=1e-5)
    np.testing.assert_array_equal(single.vertex_time, double.vertex_time)


def test_every_pixel_without_an_answer_has_a_code():
    x = series()
    x[1, 5:] = np.nan
    x[2] = 0.3
    x[3] = np.nan
    found = landtrendr(x, YEARS)
    codes = [Code.OK, Code.TOO_FEW, Code.CONSTANT, Code.ALL_MASKED]
    assert np.asarray(found.code).tolist() == codes
    assert np.asarray(found.segments)[1:].tolist() == [0, 0, 0]
    for name in ("vertex_time", "slope", "fitted", "p", "rmse", "change_time"):
        assert np.isnan(np.asarray(getattr(found, name))[1:]).all(), name
    assert landtrendr(x[:0], YEARS).code.shape == (0,)


DATES = np.array(
    ["2019-12-20", "2020-02-29", "2020-07-01", "2020-08-01", "2020-09-30", "2021-07-05",
     "2021-02-28", "2023-07-01", "2023-12-31"], "M8[D]",
)  # fmt: skip
OBSERVED = np.array([[1, 2, 3, 9, 4, 5, 6, np.nan, 8.0]])


def test_a_composite_is_the_median_of_its_season_and_years_without_one_are_gaps():
    found = annual_composites(OBSERVED, DATES, season=((6, 1), (9, 30)))
    assert found.years.tolist() == [2020, 2021, 2022, 2023]
    np.testing.assert_array_equal(found.values, [[4, 5, np.nan, np.nan]])
    assert np.asarray(found.n).tolist() == [[3, 1, 0, 0]]
    order = np.random.default_rng(0).permutation(len(DATES))
    turned = annual_composites(OBSERVED[:, order], DATES[order], season=((6, 1), (9, 30)))
    np.testing.assert_array_equal(turned.values, found.values)
    even = annual_composites(OBSERVED, DATES, np.isfinite(OBSERVED) & (OBSERVED != 4))
    np.testing.assert_array_equal(even.values, [[1, 3, 5.5, np.nan, 8]])


def test_a_season_over_new_year_and_the_29th_of_february():
    found = annual_composites(OBSERVED, DATES, season=((12, 1), (2, 29)))
    assert found.years.tolist() == [2020, 2021, 2022, 2023, 2024]
    np.testing.assert_array_equal(found.values, [[1.5, 6, np.nan, np.nan, 8]])
    leap = annual_composites(OBSERVED, DATES, season=((2, 28), (2, 29)))
    np.testing.assert_array_equal(leap.values, [[2, 6]])


def test_the_medoid_is_an_observation_with_all_its_bands():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 12, 3))
    x[0, 2, 1] = np.nan
    dates = np.datetime64("2020-05-01") + 7 * np.arange(12)
    mask = rng.random((5, 12)) < 0.8
    found = annual_composites(x, dates, mask, rule="medoid")
    middle = annual_composites(x, dates, mask)
    for i in range(5):
        rows = x[i][mask[i] & np.isfinite(x[i]).all(1)]
        assert int(found.n[i, 0]) == len(rows)
        np.testing.assert_allclose(middle.values[i, 0], np.median(rows, 0))
        best = ((rows - np.median(rows, 0)) ** 2).sum(1).argmin()
        np.testing.assert_array_equal(found.values[i, 0], rows[best])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: landtrendr(OBSERVED, np.arange(9.0), segments=0), ConfigError, "segments"),
        (lambda: landtrendr(OBSERVED, np.arange(9.0), spike=1.5), ConfigError, "spike"),
        (lambda: landtrendr(OBSERVED, np.arange(9.0), least=2), ConfigError, "least"),
        (lambda: landtrendr(OBSERVED, np.arange(9.0), disturbance="x"), ConfigError, "fall"),
        (lambda: landtrendr(OBSERVED, np.arange(8.0)), DataError, "times do not fit"),
        (lambda: annual_composites(OBSERVED, DATES, rule="mean"), ConfigError, "medoid"),
        (lambda: annual_composites(OBSERVED, DATES[1:]), DataError, "dates do not fit"),
        (lambda: annual_composites(OBSERVED, DATES, OBSERVED[0] > 0), DataError, "mask"),
        (lambda: annual_composites(OBSERVED, DATES, season=((2, 30), (3, 1))), ConfigError, "day"),
        (lambda: annual_composites(OBSERVED, DATES, season=((4, 1), (4, 2))), DataError, "season"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(untyped, call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
