"""Series of the pixels of a cube: `Source` knows which (`series_choice.py` settles it), and reads.

    source.read((y0, x0, y1, x1))            -> Series     values f32 [K P T], NaN; dates, inside

Physical values by the scale and offset of the cube, band for band; a value counts where the cube
says that every band in it is valid. Not a filter: clouds are what the mask of the cube says.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from data_zarr.cube import Cube
from data_zarr.format import BandSetInfo
from data_zarr.grid import Grid
from data_zarr.harmonize import coefficients
from data_zarr.indices import INDICES, compute
from data_zarr.radiometry import to_physical
from data_zarr.read import Reader
from data_zarr.regions import Region
from data_zarr.sensors import PLATFORMS, Number
from data_zarr.sites import Sites
from rsvlm_jax.timeseries import decimal_years

from .blocks import Box

Harmonize = Literal["none", "ols", "rma"]

EPOCH = 2000
"""Intercepts are values at the beginning of this year, and dates are days since."""

LEAST_DATES = 4
"""Fewer dates than this are no trend of any pixel."""
NUMBERS = 2**22
"""Stored numbers that become physical ones together: their float64 take 32 MB."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Series of P pixels.

    Attributes:
      values: float32 [K, P, T], physical, NaN where not valid; K = 1 but of several bands.
      dates: datetime64[s] [T], or [P, T] of sites, NaT after the last.
      inside: bool [P]: asked for; the others have no values.
      bands: common names (or names) of the K, none of an index.
    """

    values: np.ndarray
    dates: np.ndarray
    inside: np.ndarray
    bands: tuple[str, ...] = ()

    def years(self, since: Number) -> np.ndarray:
        """Calendar years with their fraction since a year, float64, as `dates`; NaN for NaT."""
        known = ~np.isnat(self.dates)
        found = np.full(self.dates.shape, np.nan)
        found[known] = decimal_years(self.dates[known]) - since
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Where series come from. Pickles as the path of its cube and a few numbers.

    Attributes:
      info: of the band set.
      bands: names of what is read, for each argument of the index, or for each signal.
      index: its name, or None.
      rows: int64 [T]: the dates that are taken; of sites with dates of their own all rows.
      keep: bool [T, S]: of these sites, what of them is taken; else None.
      grid: of the result: a window of the cube's own, or its sites.
      origin: row and column of the first pixel in the band set.
      region: what of the window is asked for; None: all.
      harmonize: the regression by which reflectances become those of OLI: "ols", "rma"; or "none".
    """

    cube: Cube
    info: BandSetInfo
    bands: tuple[str, ...]
    index: str | None
    rows: np.ndarray
    keep: np.ndarray | None
    grid: Grid | Sites
    origin: tuple[int, int]
    region: Region | None
    harmonize: Harmonize = "none"

    @property
    def shape(self) -> tuple[int, int]:
        return self.grid.height, self.grid.width

    @property
    def name(self) -> str:
        """Of the series, for people: of several bands the first, which is reported."""
        return self.index.upper() if self.index else self.bands[0]

    @property
    def unit(self) -> str:
        if self.index:
            return "1"
        return self.info.bands[self.info.index(self.bands[0])].unit

    @functools.cached_property
    def reader(self) -> Reader:
        return self.cube.reader(self.info.name, self.bands)

    @property
    def dates(self) -> np.ndarray:
        """datetime64[s]: all that are taken, [T]; of sites with their own, those of all [n]."""
        if self.keep is None:
            return self.info.dates[self.rows]
        return np.sort(self.info.dates[self.keep])

    @property
    def platforms(self) -> tuple[str, ...]:
        """Names of those that took them."""
        taken = self.rows if self.keep is None else self.keep
        return tuple(PLATFORMS[int(p)] for p in np.unique(self.info.platform[taken]))

    def describe(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        taken = self.rows if self.keep is None else self.keep
        return {
            "cube": self.cube.digest(),
            "bandset": self.info.name,
            "bands": list(self.bands),
            "index": self.index,
            "taken": np.packbits(taken).tobytes().hex() if taken.dtype == bool else taken.tolist(),
            "origin": list(self.origin),
            "shape": list(self.shape),
            "region": None if self.region is None else self.region.polygons,
            "harmonize": self.harmonize,
        }

    def inside(self, box: Box) -> np.ndarray:
        """bool [h, w]: what of a block of the grid is asked for."""
        y0, x0, y1, x1 = box
        if self.region is None:
            return np.ones((y1 - y0, x1 - x0), bool)
        if isinstance(self.grid, Sites):
            return self.region.of_sites(self.grid)[y0:y1, None]
        return self.region.mask(self.grid.window(y0, x0, y1 - y0, x1 - x0))

    def read(self, box: Box) -> Series:
        """The series of a block of the grid.

        Raises:
          CubeError: a chunk that cannot be read.
        """
        y0, x0, y1, x1 = box
        h, w = y1 - y0, x1 - x0
        inside = self.inside(box)
        if not inside.any():  # nobody looks at it
            none = np.empty((1 if self.index else len(self.bands), h * w, 0), np.float32)
            return Series(none, self.info.dates[:0], inside.ravel())
        rows = None if len(self.rows) == self.info.shape[0] else self.rows
        pixels, valid = self.reader.read(self.origin[0] + y0, self.origin[1] + x0, h, w, rows)
        dates = self.info.dates[self.rows]
        if self.keep is not None:
            valid = valid & self.keep[:, None, self.origin[0] + y0 : self.origin[0] + y1, None]
        if dates.ndim == 2:
            dates = dates[:, self.origin[0] + y0 : self.origin[0] + y1].T
        rows_of_box = slice(self.origin[0] + y0, self.origin[0] + y1)
        values = self._physical(pixels, valid & inside, self._adjustment(rows_of_box))
        names = () if self.index else self.common_names
        return Series(values, dates, inside.ravel(), names)

    @property
    def common_names(self) -> tuple[str, ...]:
        """Of the bands, as far as they have one."""
        known = {b.name: b.common_name or b.name for b in self.info.bands}
        return tuple(known[b] for b in self.bands)

    def _adjustment(self, rows: slice) -> tuple[np.ndarray, np.ndarray] | None:
        """Slope and offset, float32 [T C 1 1]; of sites with dates of their own [T C h 1]."""
        if self.harmonize == "none":
            return None
        platform = self.info.platform[self.rows]
        if self.keep is not None:  # what is not taken is of no platform that one need know
            platform = np.where(self.keep, platform, platform[self.keep][0])[:, rows]
        known, place = np.unique(platform, return_inverse=True)
        names = [PLATFORMS[int(p)] for p in known]
        found = coefficients(names, self.common_names, method=self.harmonize)
        slope, offset = (a.astype(np.float32)[place.reshape(platform.shape)] for a in found)
        if platform.ndim == 1:
            return slope[:, :, None, None], offset[:, :, None, None]
        return slope.transpose(0, 2, 1)[..., None], offset.transpose(0, 2, 1)[..., None]

    def _physical(
        self,
        pixels: np.ndarray,
        valid: np.ndarray,
        adjustment: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """[T C h w] and its mask as float32 [K, h w, T], some rows at a time."""
        count, c, h, w = pixels.shape
        infos = [self.info.bands[self.info.index(b)] for b in self.bands]
        scale, offset = [b.scale for b in infos], [b.offset for b in infos]
        out = np.empty((1 if self.index else c, h, w, count), np.float32)
        step = max(NUMBERS // (count * c * w), 1)
        for y in range(0, h, step):
            part = to_physical(pixels[:, :, y : y + step], scale, offset)
            part = np.where(valid[:, :, y : y + step], part, np.float32(np.nan))
            if adjustment is not None:
                times, plus = (a if a.shape[2] == 1 else a[:, :, y : y + step] for a in adjustment)
                part = part * times + plus
            if self.index:
                names = INDICES[self.index].bands
                named = dict(zip(names, part.transpose(1, 0, 2, 3), strict=True))
                part = compute(self.index, named)[:, None]
            out[:, y : y + step] = part.transpose(1, 2, 3, 0)
        out[~np.isfinite(out)] = np.nan
        return out.reshape(len(out), h * w, count)
