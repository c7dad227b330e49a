"""The shape of a cube on disk: names, dimensions, attributes, and the records read from them.

    cube.zarr/
      zarr.json                root group: format, title, licence, provenance, CRS and transform
      manifest.json            every file with its size and SHA-256; absent while incomplete
      <bandset>/               one group a band set, a plain CF dataset for xarray
        pixels  [T, C, H, W]   stored numbers (time, band, y, x); T = 1 when static
        valid   [T, H, W]      or [T, C, H, W]: True where a value may be used
        time [T] platform [T] band [C] y [H] x [W] spatial_ref
      targets/
        <target> [H, W]        float32, NaN where unknown
        y x spatial_ref

A band set of `factor` f has pixels f times as large: `ceil(H/f) x ceil(W/f)`, same origin. In a
point cube `site` stands where `y, x` do, there is no CRS beside degrees, and labels come along:

      <bandset>/
        pixels [T, C, S]  valid [T, S] or [T, C, S]
        time [T] or [T, S] (NaT, last, where a site has fewer)  platform likewise
        band [C] site [S] lon [S] lat [S]
      targets/<target> [S]    labels/<label> [S]: text, whole numbers or flags

In Python a point cube is a raster of S rows and one column.

Physical value = stored * scale + offset, a pair for each band. Nothing here opens a file.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.sensors import PLATFORMS, Kind, Number, canonical_band, platform_id

FORMAT = "rsvlm-cube"
FORMAT_VERSION = 2
READABLE = (1, 2)
"""Version 2 added point cubes, `factor` and a manifest that carries its own digest."""
MANIFEST = "manifest.json"
JOURNAL = ".writing"
"""Folder of a cube that is being written; gone when it is finished."""
TARGETS, LABELS = "targets", "labels"
PIXELS, VALID = "pixels", "valid"
TIME_UNITS = "seconds since 1970-01-01T00:00:00"
TargetKind = Literal["continuous", "category"]


@dataclasses.dataclass(frozen=True)
class BandInfo:
    """One band of a cube. Wavelength and FWHM in micrometres, None where there is none."""

    name: str
    common_name: str | None = None
    wavelength: Number | None = None
    fwhm: Number | None = None
    scale: Number = 1.0
    offset: Number = 0.0
    unit: str = "1"

    def to_attributes(self) -> dict[str, Any]:
        """STAC 1.1 `bands` entry (extensions eo 2.0 and raster 2.0)."""
        optional = {
            "eo:common_name": self.common_name,
            "eo:center_wavelength": self.wavelength,
            "eo:full_width_half_max": self.fwhm,
        }
        return {
            "name": self.name,
            **{k: v for k, v in optional.items() if v is not None},
            "raster:scale": self.scale,
            "raster:offset": self.offset,
            "unit": self.unit,
        }

    @classmethod
    def from_attributes(cls, entry: dict[str, Any]) -> BandInfo:
        return cls(
            name=entry["name"],
            common_name=entry.get("eo:common_name"),
            wavelength=entry.get("eo:center_wavelength"),
            fwhm=entry.get("eo:full_width_half_max"),
            scale=float(entry.get("raster:scale", 1.0)),
            offset=float(entry.get("raster:offset", 0.0)),
            unit=entry.get("unit", "1"),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class BandSetInfo:
    """One band set of a cube.

    Attributes:
      bands: in channel order.
      dates: datetime64[s] [T], ascending; one NaT when static. In a point cube also [T, S]: the
        own dates of each site, NaT after the last.
      platform: int32, as `dates`: rows of `data_zarr.sensors.PLATFORMS`.
      nodata: stored number that is never a value (NaN for floats), or None.
      static: one undated layer.
      shape: (T, C, H, W) in its own pixels, (T, C, S, 1) for points; chunks and shards likewise.
      valid_per_band: the stored mask has a band axis.
      source: document or provenance line.
      factor: its pixels are so many times as large as those of the cube's grid.
      year_known: False where only the day of the year of a date is real.
      points: stored without columns, as `time, band, site`.
    """

    name: str
    kind: Kind
    bands: tuple[BandInfo, ...]
    dates: np.ndarray
    platform: np.ndarray
    dtype: np.dtype
    nodata: Number | None
    static: bool
    shape: tuple[int, int, int, int]
    chunks: tuple[int, int, int, int]
    shards: tuple[int, int, int, int]
    valid_per_band: bool = False
    source: str = ""
    factor: int = 1
    year_known: bool = True
    points: bool = False

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the stored axes of `pixels`."""
        return ("time", "band", "site") if self.points else ("time", "band", "y", "x")

    def stored(self, sizes: tuple[int, int, int, int], *, mask: bool = False) -> tuple[int, ...]:
        """`shape`, `chunks` or `shards` as the array `pixels` (or `valid`) has them."""
        kept = sizes[:3] if self.points else sizes
        return kept if not mask or self.valid_per_band else (kept[0], *kept[2:])

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)

    def index(self, name: str, where: object = None) -> int:
        """Channel of a band by native name, common name or alias; CubeError with near misses."""
        for spelling in (name, canonical_band(name)):
            for i, band in enumerate(self.bands):
                if spelling == band.name:
                    return i
            hits = [i for i, b in enumerate(self.bands) if spelling == b.common_name]
            if len(hits) == 1:
                return hits[0]
        known = [b.name for b in self.bands] + [b.common_name for b in self.bands if b.common_name]
        raise CubeError(
            "no such band",
            where=where or self.name,
            expected="one of " + ", ".join(self.band_names),
            found=repr(name),
            remedy=near_miss(name, known),
        )


@dataclasses.dataclass(frozen=True)
class TargetInfo:
    """What a cube can be asked to predict: one float32 layer [H, W].

    Attributes:
      bounds: (lowest, highest) possible value, None where unbounded.
      kind: "continuous", or "category" with the meaning of its codes in `categories`.
      description: where it comes from and what is not known about it.
    """

    name: str
    long_name: str = ""
    unit: str = "1"
    bounds: tuple[Number, Number] | None = None
    kind: TargetKind = "continuous"
    description: str = ""
    categories: tuple[tuple[int, str], ...] = ()

    def to_attributes(self) -> dict[str, Any]:
        attrs: dict[str, Any] = {
            "long_name": self.long_name or self.name,
            "units": self.unit,
            "kind": self.kind,
            "comment": self.description,
        }
        if self.bounds is not None:
            attrs["valid_min"], attrs["valid_max"] = map(float, self.bounds)
        if self.categories:
            attrs["flag_values"] = [code for code, _ in self.categories]
            attrs["flag_meanings"] = " ".join(m.replace(" ", "_") for _, m in self.categories)
        return attrs

    @classmethod
    def from_attributes(cls, name: str, attrs: dict[str, Any]) -> TargetInfo:
        bounds = None
        if "valid_min" in attrs:
            bounds = (float(attrs["valid_min"]), float(attrs["valid_max"]))
        meanings = [m.replace("_", " ") for m in attrs.get("flag_meanings", "").split()]
        return cls(
            name=name,
            long_name=attrs.get("long_name", name),
            unit=attrs.get("units", "1"),
            bounds=bounds,
            kind=attrs.get("kind", "continuous"),
            description=attrs.get("comment", ""),
            categories=tuple(zip(attrs.get("flag_values", []), meanings, strict=True)),
        )


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """ "did you mean ...?", or None."""
    by_lower = {k.lower(): k for k in known}
    hits = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f"did you mean {by_lower[hits[0]]!r}?" if hits else None


def check_dates(
    dates: np.ndarray,
    platform: Sequence[int] | np.ndarray,
    where: object,
    sites: Sequence[str] | np.ndarray = (),
) -> None:
    """Refuses missing, unsorted and repeated instants of a dated band set, and unknown platforms.

    Two platforms may share an instant; one platform may not repeat it. Dates of sites, [T, S],
    end with NaT where a site has fewer than T; `sites` names the columns.
    """
    known = np.asarray(platform)
    for p in np.unique(known):
        platform_id(p.item(), where)
    ticks, missing = dates.astype("int64"), np.isnat(dates)
    if dates.ndim == 1 and missing.any():
        raise CubeError(
            "date missing",
            where=where,
            expected="a date for every acquisition",
            found=f"{int(missing.sum())} of {dates.size} are NaT",
            remedy="declare an undated layer static",
        )

    def at(bad: np.ndarray) -> tuple[Any, Any, Any, int, str]:
        """The first pair of dates that is bad, their platform, row and site."""
        column = int(np.argmax(bad.any(axis=0))) if bad.ndim == 2 else None
        pick = (lambda a: a) if column is None else (lambda a: a[:, column])
        i = int(np.argmax(pick(bad)))
        name = "" if column is None else f" of site {sites[column] if len(sites) else column!r}"
        return pick(dates)[i], pick(dates)[i + 1], pick(known)[i + 1], i, name

    if (bad := missing[:-1] & ~missing[1:]).any():
        *_, i, site = at(bad)
        raise CubeError(
            "a missing date before a real one",
            where=where,
            expected="the dates of a site first, NaT after the last",
            found=f"NaT at {i}{site}, a date at {i + 1}",
            remedy="move the acquisitions of each site to the front",
        )
    both = ~missing[1:]
    if (bad := both & (ticks[1:] < ticks[:-1])).any():
        one, other, _, i, site = at(bad)
        raise CubeError(
            "dates are not sorted",
            where=where,
            expected="ascending dates",
            found=f"{one} before {other} at {i}{site}",
            remedy="sort the acquisitions by date",
        )
    order = np.lexsort((known, ticks), axis=0)
    ticks, missing = np.take_along_axis(ticks, order, 0), np.take_along_axis(missing, order, 0)
    known, dates = np.take_along_axis(known, order, 0), np.take_along_axis(dates, order, 0)
    bad = ~missing[1:] & (ticks[1:] == ticks[:-1]) & (known[1:] == known[:-1])
    if bad.any():
        date, _, p, _, site = at(bad)
        raise CubeError(
            "a platform repeats an instant",
            where=where,
            expected="one acquisition for a platform and instant",
            found=f"{PLATFORMS[int(p)]} twice at {date}{site}",
            remedy="mosaic the two, or name their platforms",
        )


def band_set_attributes(info: BandSetInfo) -> dict[str, Any]:
    """Attributes of a band set's group."""
    return {
        "kind": info.kind,
        "static": info.static,
        "bands": [b.to_attributes() for b in info.bands],
        "nodata": encode_number(info.nodata),
        "source": info.source,
        "factor": info.factor,
        **({} if info.static else {"year_known": info.year_known}),
    }


def encode_number(value: Number | None) -> Number | str | None:
    """A number for strict JSON: NaN becomes "NaN", as Zarr writes it."""
    return "NaN" if value is not None and np.isnan(value) else value


def decode_number(value: Number | str | None) -> float | None:
    """Inverse of `encode_number`."""
    return None if value is None else float(value)
