"""Where the pixels of a cube lie: `Grid`, north-up, one CRS, one affine transform.

Not a reprojection tool: cubes are warped before they are written. Coordinates are named twice in
a store, for two kinds of readers: CF (`spatial_ref` with `crs_wkt` and the GDAL-ordered
`GeoTransform`), which xarray, rioxarray and GDAL read, and the GeoZarr conventions `proj:` and
`spatial:` (affine order a b c d e f). Both are written from the one transform held here.

    x = a * col + b * row + c          col, row: continuous, (0, 0) the OUTER corner of the
    y = d * col + e * row + f          first pixel, (0.5, 0.5) its centre
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.sensors import Number

CONVENTIONS = [
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/"
        "schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "description": "Spatial coordinate information",
    },
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/"
        "schema.json",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
        "description": "Coordinate reference system information for geospatial data",
    },
]
"""Entries of the `zarr_conventions` attribute, as the two conventions ask for them."""


NOWHERE = (
    'ENGCRS["patches side by side, nowhere on earth",EDATUM["none"],CS[Cartesian,2],'
    'AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
)
"""CRS of `Grid.unplaced`."""


@functools.lru_cache(maxsize=32)
def _crs(wkt: str) -> Any:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(wkt)
    except CRSError as error:
        raise CubeError(
            "unreadable CRS", expected="WKT or an EPSG code", found=str(error)[:120]
        ) from error


def same_crs(a: str, b: str) -> bool:
    """Whether two WKTs mean the same; False where the first cannot be read."""
    try:
        return bool(_crs(a).equals(_crs(b), ignore_axis_order=True))
    except CubeError:
        return False


@functools.lru_cache(maxsize=32)
def _to_lonlat(wkt: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(_crs(wkt), "EPSG:4326", always_xy=True)


def wkt_of(crs: str) -> str:
    """WKT of a CRS given in any spelling that PROJ reads."""
    return _crs(crs).to_wkt()


@dataclasses.dataclass(frozen=True)
class Grid:
    """A north-up raster grid.

    Attributes:
      crs_wkt: the coordinate reference system as WKT.
      epsg: its EPSG code, or None where it has none.
      transform: affine coefficients (a, b, c, d, e, f); see the module docstring.
      height, width: pixels.
    """

    crs_wkt: str
    epsg: int | None
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @classmethod
    def from_epsg(
        cls,
        epsg: int,
        transform: Sequence[Number],
        height: int,
        width: int,
    ) -> Grid:
        """The grid of an EPSG code."""
        a, b, c, d, e, f = (float(v) for v in transform)
        return cls(_crs(f"EPSG:{epsg}").to_wkt(), epsg, (a, b, c, d, e, f), height, width)

    @classmethod
    def from_bounds(cls, epsg: int, bounds: Sequence[Number], height: int, width: int) -> Grid:
        """The north-up grid that fills `bounds` = (xmin, ymin, xmax, ymax), outer edges."""
        xmin, ymin, xmax, ymax = bounds
        a, e = (xmax - xmin) / width, (ymin - ymax) / height
        return cls.from_epsg(epsg, (a, 0.0, xmin, 0.0, e, ymax), height, width)

    @classmethod
    def unplaced(cls, height: int, width: int, gsd: Number) -> Grid:
        """Pixels of `gsd` metres that lie nowhere on earth: their positions were removed.

        Distances are right, degrees are NaN, and models are told that the place is not known.
        """
        size = float(gsd)
        transform = (size, 0.0, 0.0, 0.0, -size, height * size)
        return cls(_crs(NOWHERE).to_wkt(), None, transform, height, width)

    @property
    def placed(self) -> bool:
        """False where the CRS is no place on earth (`unplaced`)."""
        return not _crs(self.crs_wkt).is_engineering

    @property
    def geographic(self) -> bool:
        """True when the axes are longitude and latitude in degrees."""
        return bool(_crs(self.crs_wkt).is_geographic)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) of the outer edges, in the units of the CRS."""
        a, _, c, _, e, f = self.transform
        return (c, f + e * self.height, c + a * self.width, f)

    @functools.cached_property
    def lonlat_bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in degrees; NaN where the grid is not `placed`."""
        if not self.placed:
            return math.nan, math.nan, math.nan, math.nan
        w, s, e, n = _to_lonlat(self.crs_wkt).transform_bounds(*self.bounds)
        return (w, s, e, n)

    @functools.cached_property
    def gsd(self) -> float:
        """Ground sampling distance in metres, also for a CRS in degrees.

        Geometric mean over x and y; for degrees, measured on the WGS 84 ellipsoid at the centre.
        """
        a, _, _, _, e, _ = self.transform
        if not self.geographic:
            unit = _crs(self.crs_wkt).axis_info[0].unit_conversion_factor
            return float(np.sqrt(abs(a * e))) * unit
        from pyproj import Geod

        row, col = self.height / 2, self.width / 2
        lon, lat = self.lonlat(row, col)
        geod = Geod(ellps="WGS84")
        dx = geod.inv(lon, lat, *self.lonlat(row, col + 1))[2]
        dy = geod.inv(lon, lat, *self.lonlat(row + 1, col))[2]
        return float(np.sqrt(dx * dy))

    def lonlat(self, row: Any, col: Any) -> tuple[Any, Any]:
        """Degrees (lon, lat) of continuous pixel coordinates; the centre of a pixel is at +0.5.

        The centre of the window `(y, x, h, w)` is `lonlat(y + h / 2, x + w / 2)`. Accepts arrays.
        NaN where the grid is not `placed`.
        """
        a, b, c, d, e, f = self.transform
        row, col = np.asarray(row, np.float64), np.asarray(col, np.float64)
        if not self.placed:
            nowhere = np.full(np.broadcast(row, col).shape, np.nan)
            return nowhere, nowhere.copy()
        lon, lat = _to_lonlat(self.crs_wkt).transform(a * col + b * row + c, d * col + e * row + f)
        return lon, lat

    @property
    def x(self) -> np.ndarray:
        """Centres of the columns, float64 [W], in the units of the CRS."""
        return self.transform[2] + self.transform[0] * (np.arange(self.width) + 0.5)

    @property
    def y(self) -> np.ndarray:
        """Centres of the rows, float64 [H], descending."""
        return self.transform[5] + self.transform[4] * (np.arange(self.height) + 0.5)

    def window(self, y: int, x: int, h: int, w: int) -> Grid:
        """The grid of rows `y : y + h` and columns `x : x + w`."""
        a, b, c, d, e, f = self.transform
        corner = (a, b, a * x + b * y + c, d, e, d * x + e * y + f)
        return Grid(self.crs_wkt, self.epsg, corner, h, w)

    def coarse(self, factor: int) -> Grid:
        """The grid of pixels `factor` times as large, same origin, that covers this one."""
        a, b, c, d, e, f = self.transform
        larger = (a * factor, b, c, d, e * factor, f)
        size = (-(-self.height // factor), -(-self.width // factor))
        return Grid(self.crs_wkt, self.epsg, larger, *size)

    def check(self, where: object) -> None:
        """Refuses what no later step could mend: no CRS, rotation, south-up, impossible degrees."""
        if not self.crs_wkt:
            raise CubeError(
                "no CRS",
                where=where,
                expected="WKT in proj:wkt2",
                found="nothing",
                remedy="write the cube again with a Grid that has a CRS",
            )
        a, b, _, d, e, _ = self.transform
        if b or d or a <= 0 or e >= 0:
            raise CubeError(
                "grid is not north-up",
                where=where,
                expected="a > 0, b = d = 0, e < 0",
                found=self.transform,
                remedy="flip or warp the data before writing the cube",
            )
        if self.geographic:
            xmin, ymin, xmax, ymax = self.bounds
            if xmin < -180.001 or xmax > 360.001 or ymin < -90.001 or ymax > 90.001:
                raise CubeError(
                    "degrees outside the earth",
                    where=where,
                    expected="x = longitude in [-180, 360], y = latitude in [-90, 90]",
                    found=f"x {xmin:.4f}..{xmax:.4f}, y {ymin:.4f}..{ymax:.4f}",
                    remedy="latitude and longitude may be swapped",
                )

    def attributes(self) -> dict[str, Any]:
        """Group attributes: GeoZarr `proj:` and `spatial:`, ACDD bounds in degrees if placed."""
        names = ("lon_min", "lat_min", "lon_max", "lat_max")
        bounds = dict(zip(names, self.lonlat_bounds, strict=True)) if self.placed else {}
        code = {"proj:code": f"EPSG:{self.epsg}"} if self.epsg else {}
        return {
            "zarr_conventions": CONVENTIONS,
            **code,
            "proj:wkt2": self.crs_wkt,
            "spatial:dimensions": ["y", "x"],
            "spatial:transform_type": "affine",
            "spatial:transform": list(self.transform),
            "spatial:shape": [self.height, self.width],
            "spatial:bbox": list(self.bounds),
            "spatial:registration": "pixel",
            **{f"geospatial_{name}": value for name, value in bounds.items()},
        }

    def cf_attributes(self) -> dict[str, Any]:
        """Attributes of the scalar `spatial_ref`: a CF grid mapping with a GDAL `GeoTransform`."""
        a, b, c, d, e, f = self.transform
        return {
            **_crs(self.crs_wkt).to_cf(),
            "crs_wkt": self.crs_wkt,
            "spatial_ref": self.crs_wkt,
            "GeoTransform": " ".join(repr(v) for v in (c, a, b, f, d, e)),
        }

    def axis_attributes(self, axis: str) -> dict[str, str]:
        """CF attributes of the coordinate `x` or `y`."""
        if self.geographic:
            name, unit = (
                ("longitude", "degrees_east") if axis == "x" else ("latitude", "degrees_north")
            )
        else:
            name = f"projection_{axis}_coordinate"
            unit = _crs(self.crs_wkt).axis_info[0].unit_name
            unit = "m" if unit in ("metre", "meter") else unit
        return {"standard_name": name, "units": unit, "axis": axis.upper()}

    @classmethod
    def from_attributes(cls, attrs: dict[str, Any], where: object) -> Grid:
        """Reads `attributes()` back and checks it; CubeError where it does not hold together."""
        wkt = attrs.get("proj:wkt2") or attrs.get("proj:code")
        if not wkt:
            raise CubeError(
                "cube without CRS",
                where=where,
                expected="attribute proj:wkt2 or proj:code",
                found="neither",
                remedy="write the cube again with the CRS of its source",
            )
        transform, shape = attrs.get("spatial:transform"), attrs.get("spatial:shape")
        if not transform or len(transform) != 6 or not shape:
            raise CubeError(
                "cube without a transform",
                where=where,
                expected="six numbers in spatial:transform, two in spatial:shape",
                found=(transform, shape),
            )
        code = str(attrs.get("proj:code", ""))
        epsg = int(code[5:]) if code.startswith("EPSG:") and code[5:].isdigit() else None
        a, b, c, d, e, f = (float(v) for v in transform)
        grid = cls(_crs(wkt).to_wkt(), epsg, (a, b, c, d, e, f), int(shape[0]), int(shape[1]))
        grid.check(where)
        if epsg is not None and not _crs(wkt).equals(_crs(code), ignore_axis_order=True):
            raise CubeError(
                "two different CRS", where=where, expected=code, found=f"{_crs(wkt).name} (WKT)"
            )
        names = ("lon_min", "lat_min", "lon_max", "lat_max")
        stated = [attrs.get(f"geospatial_{n}") for n in names]
        if None not in stated and not np.allclose(
            np.asarray(stated, float), grid.lonlat_bounds, atol=1e-5
        ):
            raise CubeError(
                "CRS or transform disagrees with the stated position",
                where=where,
                expected="west, south, east, north = " + ", ".join(f"{v:.4f}" for v in stated),
                found=", ".join(f"{v:.4f}" for v in grid.lonlat_bounds),
                remedy="wrong zone, swapped axes or an edited transform",
            )
        return grid


def aligned(y: Any, x: Any, size: int, factor: int, where: object = None) -> tuple[Any, Any, int]:
    """A window of the base grid in the pixels of a band set of `factor`: (y, x, size).

    The same ground, if the window begins and ends on edges of the larger pixels; the one larger
    pixel that holds the centre, if the window is smaller than it. Takes arrays of y and x.

        base, size 4   | . . . . | . . . . |      y = 4  ->  y = 2, size 2 at factor 2
        factor 2       |  .   .  |  .   .  |

    Raises:
      CubeError: the window cuts the larger pixels.
    """
    if factor == 1:
        return y, x, size
    if size < factor:
        return (y + size // 2) // factor, (x + size // 2) // factor, 1
    cut = (np.asarray(y) % factor != 0) | (np.asarray(x) % factor != 0)
    if size % factor or cut.any():
        i = int(np.argmax(cut))
        raise CubeError(
            "a window cuts the pixels of a coarser band set",
            where=where,
            expected=f"rows, columns and size that are multiples of {factor}",
            found=f"size {size}, at {int(np.ravel(y)[i])}, {int(np.ravel(x)[i])}",
            remedy=f"a window and a stride that {factor} divides, or a window below it",
        )
    return y // factor, x // factor, size // factor
