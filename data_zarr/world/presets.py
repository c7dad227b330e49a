"""Sizes of worlds, and when their satellites pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.world.fields import stream


@dataclass(frozen=True)
class Preset:
    """A world's extent.

    Attributes:
      size: edge in pixels.
      gsd: metres a pixel.
      start: first day.
      years: length of the series; the target is the biomass on its last day.
      dates: acquisitions by band set.
      overcast: (band set, number) of dates that show nothing but cloud.
    """

    size: int
    dates: dict[str, int]
    overcast: tuple[tuple[str, int], ...] = ()
    years: float = 2.0
    start: str = "2019-01-01"
    gsd: float = 10.0

    @property
    def end(self) -> np.datetime64:
        return np.datetime64(self.start, "s") + np.timedelta64(round(self.years * 365.25), "D")


PRESETS = {
    "small": Preset(size=128, dates={"s2_l2a": 5, "landsat_sr6": 2, "s1_db": 6}),
    "full": Preset(
        size=512, dates={"s2_l2a": 8, "landsat_sr6": 4, "s1_db": 8}, overcast=(("s2_l2a", 5),)
    ),
}

PLATFORMS_OF = {
    "s2_l2a": ("sentinel-2a", "sentinel-2b"),
    "landsat_sr6": ("landsat-8", "landsat-7"),
    "s1_db": ("sentinel-1a",),
}
"""Satellites that take turns."""

_PASS_SECONDS = {"s2_l2a": 37_200, "landsat_sr6": 36_000, "s1_db": 20_400}
"""Local solar time of the pass; also keeps two sensors of one day apart."""


def find_preset(name: str) -> Preset:
    """A preset by name; CubeError lists what exists."""
    if name not in PRESETS:
        raise CubeError("no such preset", expected=f"one of {', '.join(PRESETS)}", found=name)
    return PRESETS[name]


def timeline(seed: int, world: Preset, bandset: str) -> np.ndarray:
    """Acquisition times of a band set, datetime64[s] [T], rising.

    The period is cut into T equal parts with one pass in each, at a random day of it: dates are
    irregular, yet every season is seen.
    """
    count = world.dates[bandset]
    days = world.years * 365.25
    offset = stream(seed, "timeline", bandset).uniform(0.1, 0.9, count)
    day = np.floor((np.arange(count) + offset) * days / count).astype(np.int64)
    seconds = day * 86_400 + _PASS_SECONDS[bandset]
    return np.datetime64(world.start, "s") + seconds.astype("timedelta64[s]")
