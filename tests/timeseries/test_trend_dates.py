"""Dates on the host: years of 365 and 366 days, order, and what is refused."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvlm_jax.config.errors import DataError
from rsvlm_jax.timeseries import check_dates, days, decimal_years, ordered


@settings(max_examples=50)
@given(st.datetimes(datetime.datetime(1972, 1, 1), datetime.datetime(2100, 1, 1)))
def test_decimal_years_as_the_calendar_has_them(moment):
    start = datetime.datetime(moment.year, 1, 1)
    length = datetime.datetime(moment.year + 1, 1, 1) - start
    expected = moment.year + (moment - start) / length
    assert decimal_years([np.datetime64(moment)])[0] == pytest.approx(expected, abs=1e-9)


def test_the_last_day_of_a_leap_year_is_its_366th():
    dates = np.array(["2020-02-29", "2020-12-31", "2021-12-31", "2021-01-01"], "M8[D]")
    expected = [2020 + 59 / 366, 2020 + 365 / 366, 2021 + 364 / 365, 2021.0]
    assert decimal_years(dates).tolist() == expected


def test_days_count_the_29th_of_february():
    dates = np.array(["2020-03-01", "2020-02-28T12", "2021-03-01"], "M8[h]")
    assert days(dates).tolist() == [1.5, 0.0, 366.5]
    assert days(dates, "2020-02-28").tolist() == [2.0, 0.5, 367.0]
    assert days([]).shape == (0,)


def test_series_are_put_in_order_with_all_that_belongs_to_them():
    dates = ["2021-01-01", "2019-01-01", "2020-01-01", "2020-01-01"]
    x = np.array([[3.0, 1.0, np.nan, 2.0]])
    found = ordered(x, dates, platforms=["a", "a", "b", "a"])
    assert found.order.tolist() == [1, 3, 2, 0]
    assert found.mask.tolist() == [[True, True, False, True]]
    np.testing.assert_array_equal(found.values, [[1, 2, np.nan, 3]])
    assert (np.diff(found.dates) >= np.timedelta64(0)).all()


UTC = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("dates", "words"),
    [
        (np.array(["2020-01-01", "NaT"], "M8[D]"), "NaT.*date 1"),
        ([UTC], "time zone"),
        (["2020-01-01T00:00:00Z"], "time zone"),
        (["2020-01-01 00:00:00+02:00"], "time zone"),
        (["2020-01-01", "2020-01-02", "2020-01-01"], "twice in dates 0 and 2"),
        (["yesterday"], "no dates"),
        ([2020.5], "expected datetime64"),
        (np.zeros((2, 2), "M8[D]"), "more than one axis"),
    ],
)
def test_what_is_no_date_is_refused(dates, words):
    with pytest.raises(DataError, match=words) as caught:
        check_dates(dates)
    assert "\n" not in str(caught.value)


def test_two_platforms_share_an_instant_and_one_may_not_repeat_it():
    check_dates(["2020-01-01"] * 2, ["landsat-8", "landsat-9"])
    with pytest.raises(DataError, match=r"2020-01-01.*landsat-8"):
        check_dates(["2020-01-01"] * 2, ["landsat-8", "landsat-8"])


def test_what_does_not_fit_the_dates_is_refused():
    with pytest.raises(DataError, match="platforms"):
        check_dates(["2020-01-01"], ["a", "b"])
    with pytest.raises(DataError, match="values"):
        ordered(np.zeros((1, 3)), ["2020-01-01"])
    with pytest.raises(DataError, match="mask"):
        ordered(np.zeros((1, 1)), ["2020-01-01"], np.zeros((1, 1)))


@pytest.mark.parametrize("year", ["1500", "3000"])
def test_a_year_that_nanoseconds_do_not_reach(year: str):
    for dates in (["2000-01-01", f"{year}-01-01"], np.array([f"{year}-01-01"], "datetime64[s]")):
        with pytest.raises(DataError, match=f"a year that nanoseconds do not reach.*found {year}"):
            decimal_years(dates)
