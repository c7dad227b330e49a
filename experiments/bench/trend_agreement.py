"""Breaks on the shipped Landsat pixels beside pyxccd's COLD: how many are the same within 30 days.

    trend_agreement.segments   of pyxccd, on the four pixels
    trend_agreement.theirs     share of them that end within 30 days of one of ours, one to one
    trend_agreement.ours       share of ours that end within 30 days of one of theirs

A segment ends with its break, or, where it is the last, with its last observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .figure import Figure

SAMPLES = {
    "landsat_ard_pixels": ("landsat_c1_sr6", "landsat_c1_bt"),
    "landsat_wa_pixel": ("landsat_cfmask_sr6", "landsat_cfmask_bt"),
}
DAYS = 30
"""That a break or an end may differ."""

SEGMENTS = 12


def landsat() -> list[tuple[np.ndarray, ...]]:
    """Of every shipped pixel: days, reflectances x 10000 and temperature, clear, all that pyxccd
    takes: within its ranges."""
    from data_zarr import open_cube
    from data_zarr.samples import sample_path

    pixels = []
    for name, (optical, thermal) in SAMPLES.items():
        cube = open_cube(sample_path(name))
        dates = cube.bandsets[optical].dates
        values, valid = cube.reader(optical).read(0, 0, dates.shape[1], 1)
        heat, warm = cube.reader(thermal).read(0, 0, dates.shape[1], 1)
        for i in range(dates.shape[1]):
            known = ~np.isnat(dates[:, i])
            x = np.concatenate([values[known, :, i, 0], heat[known, :, i, 0]], 1).astype(np.int64)
            clear = valid[known, :, i, 0].all(1) & warm[known, :, i, 0].all(1)
            clear &= ((x[:, :6] > 0) & (x[:, :6] < 10_000)).all(1)
            pixels.append((dates[known, i].astype("M8[D]"), x, clear))
    return pixels


def ours(pixels: list[tuple[np.ndarray, ...]]) -> Any:
    """`Breaks` of them, by COLD's five bands and its screening."""
    from rsvlm_jax.timeseries import decimal_years, detect_breaks

    shape = len(pixels), max(len(days) for days, _, _ in pixels)
    values = np.full((*shape, 6), np.nan, np.float32)
    years, mask = np.full(shape, np.nan), np.zeros(shape, bool)
    for i, (days, x, clear) in enumerate(pixels):
        values[i, : len(days)], mask[i, : len(days)] = x[:, :6], clear
        years[i, : len(days)] = decimal_years(days)
    return detect_breaks(
        values, years, mask, bands=(1, 2, 3, 4, 5), screen=(1, 4), segments=SEGMENTS
    )


def theirs(pixels: list[tuple[np.ndarray, ...]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """pyxccd's breaks, and ends of segments without one, of every pixel: decimal years."""
    from pyxccd import cold_detect

    from rsvlm_jax.timeseries import decimal_years

    found = []
    for days, x, clear in pixels:
        order = np.argsort(days, kind="stable")
        ordinal = days[order].astype(int) + 719_163
        segments = cold_detect(ordinal, *x[order].T, np.where(clear[order], 0, 4))
        broke = segments["change_prob"] == 100
        breaks, ends = (
            decimal_years((segments[name][some] - 719_163).astype("M8[D]"))
            for name, some in (("t_break", broke), ("t_end", ~broke))
        )
        found.append((breaks, ends))
    return found


def pairs(a: np.ndarray, b: np.ndarray, within: float = DAYS / 365.25) -> int:
    """How many of two sets of times lie so near each other, one to one."""
    a, b = np.sort(a), np.sort(b)
    i = j = count = 0
    while i < len(a) and j < len(b):
        if abs(a[i] - b[j]) <= within:
            count, i, j = count + 1, i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return count


def figures() -> Iterator[Figure]:
    pixels = landsat()
    found = ours(pixels)
    near, mine, others = 0, 0, 0
    for i, both in enumerate(theirs(pixels)):
        sure = np.asarray(found.confirmed[i])
        last = (np.arange(SEGMENTS) < int(found.count[i])) & ~sure
        for a, b in zip((found.date[i][sure], found.end[i][last]), both, strict=True):
            near += pairs(np.asarray(a, np.float64), b)
            mine, others = mine + len(a), others + len(b)
    yield Figure("trend_agreement.segments", others, "segments")
    yield Figure("trend_agreement.theirs", near / others, "share", at_least=0.9)
    yield Figure("trend_agreement.ours", near / mine, "share")
