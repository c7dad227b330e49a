"""The places of a point cube: `Sites`, which stand where a raster cube has a `Grid`.

Stations, plots, field samples: S named places, each with its own longitude and latitude. To
readers and writers they look like a raster of S rows and one column, so that one window of size 1
is one site; there is nothing between two rows, and nothing is interpolated. In the store they
are `site, lon, lat` of every group (CF discrete sampling geometry) and `labels/<name>`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_zarr.errors import CubeError

WGS84 = "EPSG:4326"
RESERVED = frozenset({"site", "lon", "lat", "y", "x", "time", "band"})


@dataclasses.dataclass(frozen=True, eq=False)
class Sites:
    """Named places in degrees (WGS 84).

    Attributes:
      ids: str [S], each once.
      lon, lat: float64 [S], degrees; both NaN where a place is not known.
      labels: name -> [S] of str, int or bool: groups to split by, years, official test flags.
      gsd: metres on the ground that one value stands for; None where that has no meaning.
    """

    ids: Any
    lon: Any
    lat: Any
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gsd: Any = None

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        put("ids", np.asarray([str(i) for i in np.asarray(self.ids).ravel().tolist()], object))
        put("lon", np.asarray(self.lon, np.float64).ravel())
        put("lat", np.asarray(self.lat, np.float64).ravel())
        put("labels", {k: _label(v) for k, v in self.labels.items()})
        put("gsd", float("nan") if self.gsd is None else float(self.gsd))

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        # As text, in which NaN equals NaN.
        return isinstance(other, Sites) and _text(self) == _text(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def height(self) -> int:
        """S: sites are rows."""
        return len(self.ids)

    @property
    def width(self) -> int:
        return 1

    @property
    def geographic(self) -> bool:
        return True

    @property
    def crs_wkt(self) -> str:
        from data_zarr.grid import wkt_of

        return wkt_of(WGS84)

    @property
    def epsg(self) -> int:
        return 4326

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in degrees; NaN where no place is known."""
        lon, lat = self.lon, self.lat
        if np.isnan(lon).all():
            return (math.nan, math.nan, math.nan, math.nan)
        west, south, east, north = (f(v) for f in (np.nanmin, np.nanmax) for v in (lon, lat))
        return (float(west), float(south), float(east), float(north))

    @property
    def lonlat_bounds(self) -> tuple[float, float, float, float]:
        return self.bounds

    def lonlat(self, row: Any, col: Any) -> tuple[Any, Any]:
        """Degrees (lon, lat) of the sites that hold continuous rows; `col` is not looked at."""
        at = np.clip(np.floor(np.asarray(row, np.float64)).astype(np.int64), 0, len(self) - 1)
        return self.lon[at], self.lat[at]

    def check(self, where: object) -> None:
        """Refuses no sites, repeated ids, columns of other lengths, and impossible degrees."""
        n = len(self)
        if not n:
            raise CubeError("no sites", where=where, expected="at least one", found=0)
        names, counts = np.unique(self.ids.astype(str), return_counts=True)
        if len(names) != n or "" in names:
            twice = ", ".join(names[counts > 1][:5]) or "an empty id"
            raise CubeError(
                "sites repeated or without a name",
                where=where,
                expected="each id once",
                found=twice,
                remedy="one row a site: several dates of a site belong on its time axis",
            )
        columns = {"lon": self.lon, "lat": self.lat, **self.labels}
        for name, values in columns.items():
            if len(values) != n:
                raise CubeError(
                    f"{name} is of another length than the sites",
                    where=where,
                    expected=n,
                    found=len(values),
                )
        bad = [k for k in self.labels if not k.isidentifier() or k in RESERVED]
        if bad:
            raise CubeError(
                "a label cannot be named so", where=where, expected="an identifier", found=bad[0]
            )
        nowhere = np.isnan(self.lon) & np.isnan(self.lat)
        lon_ok = nowhere | (self.lon >= -180) & (self.lon <= 360)
        lat_ok = nowhere | (self.lat >= -90) & (self.lat <= 90)
        if not (lon_ok & lat_ok).all():
            i = int(np.argmin(lon_ok & lat_ok))
            swapped = lon_ok[i] and np.isfinite(self.lat[i]) and abs(self.lon[i]) <= 90
            raise CubeError(
                "degrees outside the earth",
                where=where,
                expected="lon in [-180, 360], lat in [-90, 90]",
                found=f"lon {self.lon[i]:.6g}, lat {self.lat[i]:.6g} at site {self.ids[i]!r}",
                remedy="latitude and longitude may be swapped" if swapped else None,
            )

    def attributes(self) -> dict[str, Any]:
        """Group attributes: CF discrete sampling geometry, ACDD bounds in degrees."""
        names = ("lon_min", "lat_min", "lon_max", "lat_max")
        box = {f"geospatial_{n}": v for n, v in zip(names, self.bounds, strict=True)}
        return {
            "featureType": "timeSeries",
            "sites": len(self),
            **({} if np.isnan(self.gsd) else {"site_gsd": self.gsd}),
            **({} if np.isnan(self.bounds[0]) else box),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "ids": self.ids.tolist(),
            "lon": self.lon.tolist(),
            "lat": self.lat.tolist(),
            "labels": {k: v.tolist() for k, v in self.labels.items()},
            "gsd": None if np.isnan(self.gsd) else self.gsd,
        }


def _text(sites: Sites) -> str:
    return json.dumps(sites.to_json(), sort_keys=True)


def _label(values: Any) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind == "b":
        return found
    if found.dtype.kind in "iu":
        return found.astype(np.int64)
    if found.dtype.kind in "UT" or all(isinstance(v, str) for v in found.ravel().tolist()):
        return found.astype(object)
    raise CubeError(
        "a label is neither text, a whole number nor a flag",
        expected="str, int or bool",
        found=str(found.dtype),
        remedy="numbers to predict are targets",
    )
