"""Dates on the host, before arrays go to a device: checked, as numbers, in buckets of length.

NumPy only. A date without an order to its neighbours (NaT), of an unknown place on the axis (a time
zone) or of one platform twice is an error here, since no program on the device can say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rsvlm_jax.config.errors import DataError

STEPS = ((48, 4), (96, 8), (256, 16), (512, 32))
"""Up to a length, series are filled up to a multiple of this: one program for each."""

STEP = 64
"""The same of longer ones."""


class Ordered(NamedTuple):
    """Series in the order of time."""

    values: np.ndarray
    dates: np.ndarray
    mask: np.ndarray
    order: np.ndarray
    """[T]: where each date stood before."""


def check_dates(dates: Any, platforms: Sequence[str] | None = None) -> np.ndarray:
    """The dates as datetime64[ns], [T], in the order given.

    Args:
      dates: datetime64, or anything NumPy makes it from (ISO strings, `datetime`).
      platforms: [T], who took it; None: one platform.

    Raises:
      DataError: NaT; a time zone; one platform twice at one instant; a year before 1678 or after
        2261; something else than dates.
    """
    raw = np.asarray(dates)
    if raw.size == 0:
        raw = raw.astype("datetime64[ns]")
    if raw.ndim != 1:
        raise DataError("dates of more than one axis", expected="shape [T]", found=raw.shape)
    for i, one in enumerate(raw.tolist() if raw.dtype.kind in "OUS" else ()):
        if getattr(one, "tzinfo", None) is not None or _names_zone(one):
            raise DataError(
                "a date with a time zone", where=f"date {i}", found=one,
                remedy="convert to UTC and drop the zone",
            )  # fmt: skip
    if raw.dtype.kind not in "MOUS":
        raise DataError("no dates", expected="datetime64", found=raw.dtype)
    try:
        found = raw.astype("datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise DataError("no dates", expected="datetime64", found=error) from error
    if np.isnat(found).any():
        raise DataError(
            "a date that is missing (NaT)", where=f"date {int(np.flatnonzero(np.isnat(found))[0])}",
            remedy="drop the observation",
        )  # fmt: skip
    years = raw.astype("datetime64[Y]")
    if (wrapped := found.astype("datetime64[Y]") != years).any():
        raise DataError(
            "a year that nanoseconds do not reach", where=f"date {int(np.argmax(wrapped))}",
            expected="1678 to 2261", found=years[wrapped][0],
        )  # fmt: skip
    names = ["" for _ in found] if platforms is None else [str(p) for p in platforms]
    if len(names) != len(found):
        raise DataError("platforms do not fit the dates", expected=len(found), found=len(names))
    seen: dict[tuple[str, int], int] = {}
    for i, key in enumerate(zip(names, found.astype(np.int64).tolist(), strict=True)):
        if key in seen:
            raise DataError(
                "a date twice", where=f"dates {seen[key]} and {i}",
                expected="one of a platform at an instant",
                found=f"{found[i]} {names[i]}".strip(), remedy="mosaic or drop one of them",
            )  # fmt: skip
        seen[key] = i
    return found


def _names_zone(one: Any) -> bool:
    """Whether an ISO string ends in `Z` or in an offset."""
    text = one.decode() if isinstance(one, bytes) else one
    if not isinstance(text, str):
        return False
    _, _, clock = text.strip().replace(" ", "T").partition("T")
    return clock.endswith(("Z", "z")) or "+" in clock or "-" in clock


def decimal_years(dates: Any) -> np.ndarray:
    """Years with their fraction, float64: 2020-07-02 00:00 is 2020 + 183 / 366.

    A year is as long as it is, so a slope per year is of calendar years; days differ by 1 in 366.

    Raises:
      DataError: see `check_dates` (dates may be twice here).
    """
    found = check_dates(dates, platforms=[str(i) for i in range(len(dates))])
    year = found.astype("datetime64[Y]")
    start, end = (y.astype("datetime64[ns]").astype(np.int64) for y in (year, year + 1))
    share = (found.astype(np.int64) - start) / (end - start)
    return year.astype(np.int64) + 1970 + share


def days(dates: Any, since: Any = None) -> np.ndarray:
    """Days with their fraction, float64, since a date (the first of them).

    Raises:
      DataError: see `check_dates` (dates may be twice here).
    """
    found = check_dates(dates, platforms=[str(i) for i in range(len(dates))])
    if len(found) == 0:
        return np.zeros(0)
    start = found.min() if since is None else check_dates([since])[0]
    return (found - start).astype(np.int64) / np.float64(86_400_000_000_000)


def ordered(
    values: np.ndarray,
    dates: Any,
    mask: np.ndarray | None = None,
    platforms: Sequence[str] | None = None,
) -> Ordered:
    """Series [..., T] by date, those of one instant by platform.

    Raises:
      DataError: see `check_dates`; shapes that do not fit.
    """
    found = check_dates(dates, platforms)
    if values.shape[-1:] != found.shape:
        raise DataError(
            "dates do not fit the values", expected=f"{values.shape[-1:]}", found=found.shape
        )
    mask = np.isfinite(values) if mask is None else mask
    if mask.shape != values.shape or mask.dtype != np.bool_:
        raise DataError(
            "the mask does not fit the values", expected=f"bool of shape {values.shape}",
            found=f"{mask.dtype} of shape {mask.shape}",
        )  # fmt: skip
    names = np.zeros(len(found), int) if platforms is None else np.asarray(platforms)
    order = np.lexsort((names, found))
    return Ordered(values[..., order], found[order], mask[..., order], order)


def bucket(length: int) -> int:
    """The length to fill a series of `length` dates up to."""
    step = next((step for most, step in STEPS if length <= most), STEP)
    return max(-(-length // step), 1) * step


def fill_up(
    values: np.ndarray, times: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Values and mask [pixels, T] and times [T] or [pixels, T], filled up to `bucket(T)`.

    What is added is NaN and masked out; no mask stays none, as what is finite counts. Values (and
    mask) may have bands, [pixels, T, bands].
    """
    more = bucket(values.shape[1]) - values.shape[1]
    if not more:
        return values, times, mask

    def filled(a: np.ndarray, axis: int, value: float | bool) -> np.ndarray:
        wide = [(0, more if i == axis else 0) for i in range(a.ndim)]
        return np.pad(a, wide, constant_values=value)

    kept = None if mask is None else filled(mask, 1, False)
    return filled(values, 1, np.nan), filled(times, times.ndim - 1, np.nan), kept
