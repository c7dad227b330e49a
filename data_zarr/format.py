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
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
JOURNAL = ".writing"
"""Folder of a cube that is being written; gone when it is finished."""
TARGETS = "targets"
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
      dates: datetime64[s] [T], ascending; one NaT when static.
      platform: int32 [T], rows of `data_zarr.sensors.PLATFORMS`.
      nodata: stored number that is never a value (NaN for floats), or None.
      static: one undated layer.
      shape: (T, C, H, W) as stored; chunks and shards likewise.
      valid_per_band: the stored mask has a band axis.
      source: document or provenance line.
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


def check_dates(dates: np.ndarray, platform: Sequence[int] | np.ndarray, where: object) -> None:
    """Refuses missing, unsorted and repeated instants of a dated band set, and unknown platforms.

    Two platforms may share an instant; one platform may not repeat it.
    """
    if np.isnat(dates).any():
        raise CubeError(
            "date missing",
            where=where,
            expected="a date for every acquisition",
            found=f"{int(np.isnat(dates).sum())} of {dates.size} are NaT",
            remedy="declare an undated layer static",
        )
    steps = np.diff(dates.astype("int64"))
    if (steps < 0).any():
        i = int(np.argmax(steps < 0))
        raise CubeError(
            "dates are not sorted",
            where=where,
            expected="ascending dates",
            found=f"{dates[i]} before {dates[i + 1]} at {i}",
            remedy="sort the acquisitions by date",
        )
    seen: set[tuple[int, int]] = set()
    rows = [platform_id(p, where) for p in np.asarray(platform).tolist()]
    for date, p in zip(dates.astype("int64").tolist(), rows, strict=True):
        if (date, p) in seen:
            raise CubeError(
                "a platform repeats an instant",
                where=where,
                expected="one acquisition for a platform and instant",
                found=f"{PLATFORMS[p]} twice at {np.datetime64(date, 's')}",
                remedy="mosaic the two, or name their platforms",
            )
        seen.add((date, p))


def band_set_attributes(info: BandSetInfo) -> dict[str, Any]:
    """Attributes of a band set's group."""
    return {
        "kind": info.kind,
        "static": info.static,
        "bands": [b.to_attributes() for b in info.bands],
        "nodata": encode_number(info.nodata),
        "source": info.source,
    }


def encode_number(value: Number | None) -> Number | str | None:
    """A number for strict JSON: NaN becomes "NaN", as Zarr writes it."""
    return "NaN" if value is not None and np.isnan(value) else value


def decode_number(value: Number | str | None) -> float | None:
    """Inverse of `encode_number`."""
    return None if value is None else float(value)
