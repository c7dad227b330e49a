"""How many 3-sigma breaks are found, when and how falsely, beside pyxccd, by what is missing.

    found   share of the series with a confirmed break within a year of the true one
    days    from the true break to the first observation that is called changed, the median
    false   confirmed breaks anywhere else, a series

Five bands of which each moves by three standard deviations of its noise once, 20 years of a look
every 8 days; the same series for both. What is ours may fall short of pyxccd's by 5 points.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from .figure import Figure
from .trend import landsat, ours_by_bands, theirs_by_bands

PIXELS, LENGTH, SIGMAS = 256, 913, 3.0
MISSING = (0.2, 0.5, 0.8)
WITHIN = 365


def figures() -> Iterator[Figure]:
    for missing in MISSING:
        x, days, there, truth = landsat(PIXELS, LENGTH, 1 - missing, SIGMAS, 7)
        true = truth.astype("M8[D]").astype(int)
        found = ours_by_bands(x, days, there, len(os.sched_getaffinity(0)))
        dates = np.where(found.probability == 1, found.date, np.nan)
        ours = [_days(row[np.isfinite(row)]) for row in dates]
        theirs = [
            segments["t_break"][segments["change_prob"] == 100] - 719_163
            for segments in theirs_by_bands(x, days, there)
        ]
        least = None
        for name, some in (("pyxccd", theirs), ("ours", ours)):
            off = [np.asarray(one, float) - day for one, day in zip(some, true, strict=True)]
            hits = [one[np.abs(one) <= WITHIN] for one in off]
            rate = float(np.mean([len(one) > 0 for one in hits]))
            first = [one[np.argmin(np.abs(one))] for one in hits if len(one)]
            false = float(np.mean([np.sum(np.abs(one) > WITHIN) for one in off]))
            stem = f"trend_power.missing{int(100 * missing)}.{name}"
            yield Figure(f"{stem}.found", rate, "share", at_least=least)
            yield Figure(f"{stem}.days", float(np.median(first)) if first else np.nan, "days")
            yield Figure(f"{stem}.false", false, "breaks/series")
            least = rate - 0.05


def _days(years: np.ndarray) -> np.ndarray:
    """Days since 1970 of decimal years."""
    whole = np.floor(years).astype(int)
    start = (whole - 1970).astype("M8[Y]").astype("M8[D]").astype(int)
    length = (whole - 1969).astype("M8[Y]").astype("M8[D]").astype(int) - start
    return start + (years - whole) * length
