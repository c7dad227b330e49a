"""The table of sensors: bands with wavelengths, product scales, nodata and QA bits, each sourced.

Data, not code: to add a sensor, add a `BandSet` with its document in `source`. Scale, offset and
nodata are those of the *distributed product*; a cube carries its own and is believed over this
table (a Sentinel-2 offset cannot be told from a date: reprocessed scenes have it too).

Wavelengths and widths are in micrometres. Where a document gives band edges (Landsat, THEOS,
MODIS), the wavelength is their middle and the FWHM their distance: nominal, not measured.
SAR, weather and terrain have no wavelength and never become colour frames by wavelength.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from numbers import Integral
from typing import Any, Literal

from data_zarr.errors import CubeError

Kind = Literal["optical", "sar", "covariate"]
Number = int | float
"""A number of either kind: type checkers at run time do not take an int for a float."""

PLATFORMS: tuple[str, ...] = (
    "unknown",
    "sentinel-2a",
    "sentinel-2b",
    "sentinel-2c",
    "landsat-4",
    "landsat-5",
    "landsat-7",
    "landsat-8",
    "landsat-9",
    "sentinel-1a",
    "sentinel-1b",
    "sentinel-1c",
    "alos-2",
    "theos-1",
    "theos-2",
    "terra",
    "aqua",
)
"""STAC platform names. Append only: the row number is stored in cubes and learned by models."""


@dataclasses.dataclass(frozen=True)
class Band:
    """One band: STAC names, wavelength and FWHM in micrometres, GSD in metres, physical unit."""

    name: str
    common_name: str | None = None
    wavelength: Number | None = None
    fwhm: Number | None = None
    gsd: Number | None = None
    unit: str = "1"


@dataclasses.dataclass(frozen=True)
class BandSet:
    """Bands that are observed together, and how the product stores them.

    Attributes:
      kind: "optical", "sar" (backscatter in dB) or "covariate" (anything else).
      scale, offset: physical = stored * scale + offset, in the distributed product.
      nodata: stored number of the distributed product that is not a value; None if it has none.
      qa: how its quality band is read, for `data_zarr.radiometry`; None if it has none. `reject`
        is what makes a pixel invalid by default: snow and water are surfaces and stay valid. A
        cube keeps the mask alone, so who wants a series without snow says so when it is built.
      source: document that the numbers come from.
    """

    name: str
    kind: Kind
    bands: tuple[Band, ...]
    scale: Number = 1.0
    offset: Number = 0.0
    nodata: Number | None = None
    qa: dict[str, Any] | None = None
    source: str = ""

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)


@dataclasses.dataclass(frozen=True)
class Sensor:
    """An instrument family: the platforms that carry it and the band sets of its products."""

    name: str
    platforms: tuple[str, ...]
    bandsets: tuple[str, ...]


def _edges(name: str, common: str | None, low: float, high: float, gsd: Number) -> Band:
    """A band given by its edges in micrometres."""
    return Band(name, common, round((low + high) / 2, 4), round(high - low, 4), gsd)


# Sentinel-2 MSI: central wavelength and bandwidth of Sentinel-2A; 2B and 2C differ by < 3 nm in
# the visible and near infrared, and by up to 17 nm in B12.
_MSI = (
    Band("B01", "coastal", 0.4427, 0.021, 60),
    Band("B02", "blue", 0.4924, 0.066, 10),
    Band("B03", "green", 0.5598, 0.036, 10),
    Band("B04", "red", 0.6646, 0.031, 10),
    Band("B05", "rededge071", 0.7041, 0.015, 20),
    Band("B06", "rededge075", 0.7405, 0.015, 20),
    Band("B07", "rededge078", 0.7828, 0.020, 20),
    Band("B08", "nir", 0.8328, 0.106, 10),
    Band("B8A", "nir08", 0.8647, 0.021, 20),
    Band("B09", "nir09", 0.9451, 0.020, 60),
    Band("B10", "cirrus", 1.3735, 0.031, 60),
    Band("B11", "swir16", 1.6137, 0.091, 20),
    Band("B12", "swir22", 2.2024, 0.175, 20),
)
_MSI_SOURCE = (
    "ESA, Sentinel-2 MSI user guide, spatial and spectral resolutions (Sentinel-2A); spectral "
    "responses COPE-GSEG-EOPG-TN-15-0007. Quantification 10000; radiometric offset -1000 DN from "
    "processing baseline 04.00 on (Products Specification Document S2-PDGS-TAS-DI-PSD): read it "
    "from the product, set it in the cube"
)

# ESA, Sentinel-2 MSI Level-2A algorithm: scene classification.
_SCL = {
    "band": "SCL",
    "classes": {
        "no_data": 0,
        "saturated_or_defective": 1,
        "dark_area": 2,
        "cloud_shadow": 3,
        "vegetation": 4,
        "not_vegetated": 5,
        "water": 6,
        "unclassified": 7,
        "cloud_medium_probability": 8,
        "cloud_high_probability": 9,
        "thin_cirrus": 10,
        "snow": 11,
    },
    "reject": (
        "no_data",
        "saturated_or_defective",
        "cloud_shadow",
        "cloud_medium_probability",
        "cloud_high_probability",
        "thin_cirrus",
    ),
}

# USGS, Landsat Collection 2 Level 2 product guides (LSDS-1618, LSDS-1619): QA_PIXEL.
_QA_PIXEL = {
    "band": "QA_PIXEL",
    "bits": {
        "fill": 0,
        "dilated_cloud": 1,
        "cirrus": 2,
        "cloud": 3,
        "cloud_shadow": 4,
        "snow": 5,
        "clear": 6,
        "water": 7,
    },
    "reject": ("fill", "dilated_cloud", "cirrus", "cloud", "cloud_shadow"),
}

# NASA, HLS Product User Guide v2.0, table of Fmask bits. Bit 0 is reserved.
_HLS_FMASK = {
    "band": "Fmask",
    "bits": {"cloud": 1, "adjacent_to_cloud": 2, "cloud_shadow": 3, "snow": 4, "water": 5},
    "reject": ("cloud", "adjacent_to_cloud", "cloud_shadow"),
}

# USGS, Landsat Collection 1 product guides (LSDS-1370, LSDS-1368) and U.S. Landsat ARD data format
# control book (LSDS-1873): PIXELQA. Bits 6 to 9 are two-bit confidences of cloud and cirrus.
_PIXELQA_C1 = {
    "band": "PIXELQA",
    "bits": {
        "fill": 0,
        "clear": 1,
        "water": 2,
        "cloud_shadow": 3,
        "snow": 4,
        "cloud": 5,
        "terrain_occlusion": 10,
    },
    "reject": ("fill", "cloud_shadow", "cloud"),
}

# Zhu and Woodcock 2012 (doi:10.1016/j.rse.2011.10.028), as the USGS wrote it before Collection 1.
_CFMASK = {
    "band": "cfmask",
    "classes": {"clear": 0, "water": 1, "cloud_shadow": 2, "snow": 3, "cloud": 4, "fill": 255},
    "reject": ("fill", "cloud_shadow", "cloud"),
}

_TM = (
    _edges("SR_B1", "blue", 0.45, 0.52, 30),
    _edges("SR_B2", "green", 0.52, 0.60, 30),
    _edges("SR_B3", "red", 0.63, 0.69, 30),
    _edges("SR_B4", "nir08", 0.76, 0.90, 30),
    _edges("SR_B5", "swir16", 1.55, 1.75, 30),
    _edges("SR_B7", "swir22", 2.08, 2.35, 30),
)
_ETM = (*_TM[:3], _edges("SR_B4", "nir08", 0.77, 0.90, 30), _TM[4],
        _edges("SR_B7", "swir22", 2.09, 2.35, 30))  # fmt: skip
_OLI_EDGES = (
    ("coastal", 0.43, 0.45),
    ("blue", 0.45, 0.51),
    ("green", 0.53, 0.59),
    ("red", 0.64, 0.67),
    ("nir08", 0.85, 0.88),
    ("swir16", 1.57, 1.65),
    ("swir22", 2.11, 2.29),
)
_OLI = tuple(_edges(f"SR_B{i}", c, lo, hi, 30) for i, (c, lo, hi) in enumerate(_OLI_EDGES, 1))
_USGS = (
    "USGS, band designations of the Landsat satellites (edges); Landsat Collection 2 Level 2 "
    "product guides LSDS-1618, LSDS-1619 (scale 0.0000275, offset -0.2, fill 0, QA_PIXEL)"
)
_HLS = "NASA, HLS Product User Guide v2.0 (scale 0.0001, fill -9999, Fmask bits); bands of "


def _landsat(name: str, bands: Iterable[Band]) -> BandSet:
    return BandSet(name, "optical", tuple(bands), 2.75e-5, -0.2, 0, _QA_PIXEL, _USGS)


def _renamed(bands: Iterable[Band], *names: str, gsd: Number) -> tuple[Band, ...]:
    return tuple(dataclasses.replace(b, name=n, gsd=gsd) for b, n in zip(bands, names, strict=True))


_SR6 = tuple(dataclasses.replace(b, name=str(b.common_name)) for b in _OLI[1:])
_C1 = (
    "USGS, Landsat Collection 1 Level 2 product guides LSDS-1370, LSDS-1368 and ARD (LSDS-1873): "
    "scale 0.0001, fill -9999, saturated 20000; brightness temperature in steps of 0.1 K"
)
_BT = (Band("BT", gsd=30, unit="K"),)

_ROWS = (
    BandSet("s2_l1c", "optical", _MSI, 1e-4, 0.0, 0, None, _MSI_SOURCE),
    BandSet(
        "s2_l2a",
        "optical",
        tuple(b for b in _MSI if b.name != "B10"),
        1e-4,
        0.0,
        0,
        _SCL,
        _MSI_SOURCE + ". Level 2A has no B10",
    ),
    _landsat("landsat5_sr", _TM),
    _landsat("landsat7_sr", _ETM),
    _landsat("landsat8_sr", _OLI),
    _landsat("landsat9_sr", _OLI),
    BandSet(
        "landsat_sr6",
        "optical",
        _SR6,
        2.75e-5,
        -0.2,
        0,
        _QA_PIXEL,
        _USGS + ". The six bands that Landsat 5 to 9 share, under OLI's wavelengths; the platform "
        "of each date says which instrument it was",
    ),
    BandSet(
        "landsat_st",
        "covariate",
        (Band("ST", gsd=30, unit="K"),),
        0.00341802,
        149.0,
        0,
        _QA_PIXEL,
        "USGS, Landsat Collection 2 Level 2 product guides LSDS-1618, LSDS-1619: surface "
        "temperature (band 6 of TM and ETM+, band 10 of TIRS)",
    ),
    BandSet("landsat_c1_sr6", "optical", _SR6, 1e-4, 0.0, -9999, _PIXELQA_C1, _C1),
    BandSet("landsat_c1_bt", "covariate", _BT, 0.1, 0.0, -9999, _PIXELQA_C1, _C1),
    BandSet("landsat_cfmask_sr6", "optical", _SR6, 1e-4, 0.0, -9999, _CFMASK, _C1),
    BandSet("landsat_cfmask_bt", "covariate", _BT, 0.1, 0.0, -9999, _CFMASK, _C1),
    BandSet(
        "landsat7_dn",
        "optical",
        tuple(dataclasses.replace(b, name=b.name[3:], unit="DN") for b in _ETM),
        source="USGS, band designations of Landsat 7 ETM+ (edges). Level 1 numbers of 8 bits: "
        "gain and offset to radiance are in a scene's metadata, there is no common scale",
    ),
    BandSet(
        "s1_db",
        "sar",
        (Band("VV", gsd=10, unit="dB"), Band("VH", gsd=10, unit="dB")),
        source="ESA, Sentinel-1 user guide: C band, 5.405 GHz; backscatter stored as "
        "10 log10(linear), so values are dB, not power",
    ),
    BandSet(
        "palsar2_db",
        "sar",
        (Band("HH", gsd=25, unit="dB"), Band("HV", gsd=25, unit="dB")),
        source="JAXA, ALOS-2 PALSAR-2 global mosaic: L band; gamma0 in dB = 10 log10(DN^2) - 83.0",
    ),
    BandSet(
        "theos",
        "optical",
        tuple(
            dataclasses.replace(_edges(n, c, lo, hi, 15), unit="DN")
            for n, c, lo, hi in (
                ("blue", "blue", 0.45, 0.52),
                ("green", "green", 0.53, 0.60),
                ("red", "red", 0.62, 0.69),
                ("nir", "nir", 0.77, 0.90),
            )
        ),
        source="eoPortal, THEOS (Thaichote) TOP-MS (edges, 15 m). The product stores 8-bit "
        "numbers with a gain per scene: no common reflectance scale, give the cube its own",
    ),
    BandSet(
        "hls_l30",
        "optical",
        _renamed(_OLI, "B01", "B02", "B03", "B04", "B05", "B06", "B07", gsd=30),
        1e-4,
        0.0,
        -9999,
        _HLS_FMASK,
        _HLS + "OLI",
    ),
    BandSet(
        "hls_s30",
        "optical",
        tuple(dataclasses.replace(b, gsd=30) for b in _MSI if b.name not in ("B09", "B10")),
        1e-4,
        0.0,
        -9999,
        _HLS_FMASK,
        _HLS + "MSI",
    ),
    BandSet(
        "hls_sr6",
        "optical",
        tuple(dataclasses.replace(b, name=str(b.common_name), gsd=30) for b in _OLI[1:]),
        1e-4,
        0.0,
        -9999,
        _HLS_FMASK,
        _HLS + "OLI, for the six that L30 and S30 share (S30: B8A as nir08, B11, B12): S30 is "
        "adjusted to OLI's pass bands",
    ),
    BandSet(
        "modis_mod09a1",
        "optical",
        (
            _edges("sur_refl_b01", "red", 0.620, 0.670, 500),
            _edges("sur_refl_b02", "nir", 0.841, 0.876, 500),
            _edges("sur_refl_b03", "blue", 0.459, 0.479, 500),
            _edges("sur_refl_b04", "green", 0.545, 0.565, 500),
            _edges("sur_refl_b05", None, 1.230, 1.250, 500),
            _edges("sur_refl_b06", "swir16", 1.628, 1.652, 500),
            _edges("sur_refl_b07", "swir22", 2.105, 2.155, 500),
        ),
        1e-4,
        0.0,
        -28672,
        source="NASA, MODIS surface reflectance user's guide, Collection 6 (scale, fill, edges)",
    ),
    BandSet(
        "modis_mod13q1",
        "covariate",
        (Band("NDVI", gsd=250), Band("EVI", gsd=250)),
        1e-4,
        0.0,
        -3000,
        source="NASA, MODIS vegetation index user's guide, Collection 6 (scale, fill)",
    ),
    BandSet(
        "rgb",
        "optical",
        (
            Band("red", "red", 0.650, 0.100),
            Band("green", "green", 0.550, 0.100),
            Band("blue", "blue", 0.450, 0.100),
        ),
        1 / 255,
        source="STAC eo 2.0, ranges of the common names red, green, blue: nominal wavelengths of "
        "an 8-bit picture, whose values are brightness from 0 to 1 and not reflectance",
    ),
    BandSet(
        "aerial_rgbn",
        "optical",
        tuple(
            Band(n, n, w, 0.100, 0.2, unit="DN")
            for n, w in (("red", 0.650), ("green", 0.550), ("blue", 0.450), ("nir", 0.850))
        ),
        source="STAC eo 2.0, ranges of the common names red, green, blue, nir: nominal wavelengths "
        "of an aerial camera, whose 8-bit numbers are not calibrated",
    ),
    BandSet(
        "ndvi",
        "covariate",
        (Band("ndvi"),),
        source="Rouse et al. 1974: (nir - red) / (nir + red), unitless, -1 to 1",
    ),
    BandSet(
        "era5",
        "covariate",
        (Band("t2m", unit="K"), Band("tp", unit="m"), Band("ssrd", unit="J m-2")),
        source="ECMWF, ERA5 parameter database: 2 m temperature, total precipitation, surface "
        "solar radiation downwards",
    ),
    BandSet(
        "dem",
        "covariate",
        (Band("elevation", unit="m"),),
        source="height above the vertical datum of the cube's own source",
    ),
    BandSet(
        "srtm",
        "covariate",
        (Band("elevation", unit="m"), Band("slope", unit="degree")),
        source="NASA, Shuttle Radar Topography Mission: height above the EGM96 geoid; slope of it",
    ),
    BandSet(
        "merra2",
        "covariate",
        (
            Band("T2MIN", unit="K"),
            Band("T2MAX", unit="K"),
            Band("T2MEAN", unit="K"),
            Band("TSMDEWMEAN", unit="K"),
            Band("GWETROOT"),
            Band("LHLAND", unit="W m-2"),
            Band("SHLAND", unit="W m-2"),
            Band("SWLAND", unit="W m-2"),
            Band("PARDFLAND", unit="W m-2"),
            Band("PRECTOTLAND", unit="kg m-2 s-1"),
        ),
        source="NASA GMAO, MERRA-2 file specification (Office Note 9): M2T1NXSLV and M2T1NXLND. "
        "Least, largest and mean temperature and dew point at 2 m, root-zone wetness, latent and "
        "sensible heat, net shortwave, diffuse PAR, precipitation, of a day",
    ),
)

BANDSETS: dict[str, BandSet] = {b.name: b for b in _ROWS}

SENSORS: dict[str, Sensor] = {
    s.name: s
    for s in (
        Sensor("sentinel-2-msi", PLATFORMS[1:4], ("s2_l1c", "s2_l2a", "hls_s30")),
        Sensor("landsat-tm", ("landsat-4", "landsat-5"), ("landsat5_sr", "landsat_sr6")),
        Sensor("landsat-etm", ("landsat-7",), ("landsat7_sr", "landsat_sr6", "landsat7_dn")),
        Sensor(
            "landsat-oli",
            ("landsat-8", "landsat-9"),
            ("landsat8_sr", "landsat9_sr", "landsat_sr6", "hls_l30"),
        ),
        Sensor("sentinel-1", PLATFORMS[9:12], ("s1_db",)),
        Sensor("palsar-2", ("alos-2",), ("palsar2_db",)),
        Sensor("theos", ("theos-1",), ("theos",)),
        Sensor("modis", ("terra", "aqua"), ("modis_mod09a1", "modis_mod13q1")),
    )
}

_ALIASES = {
    # Red edge was one common name for three Sentinel-2 bands until STAC eo 2.0 split it.
    **{f"rededge{i}": n for i, n in enumerate(("rededge071", "rededge075", "rededge078"), 1)},
    "re1": "rededge071",
    "re2": "rededge075",
    "re3": "rededge078",
    "narrow_nir": "nir08",
    "nira": "nir08",
    "swir1": "swir16",
    "swir2": "swir22",
    "ultra_blue": "coastal",
    "aerosol": "coastal",
    **{f"b{i}": f"B0{i}" for i in range(1, 10)},
    "b8a": "B8A",
    "b08a": "B8A",
}
"""Other spellings, lower case, of native or common names."""


def canonical_band(name: str) -> str:
    """The name that this package uses for another spelling ("B8" -> "B08"); else `name` itself."""
    return _ALIASES.get(name.lower(), name)


def find_band(bandset: BandSet | str, name: str) -> int:
    """Channel of a band by native name, common name or alias ("B8", "rededge1").

    Raises:
      CubeError: no such band set or band, or a common name that fits several bands.
    """
    if isinstance(bandset, str):
        if bandset not in BANDSETS:
            raise CubeError("no such band set", expected=", ".join(BANDSETS), found=repr(bandset))
        bandset = BANDSETS[bandset]
    for spelling in (name, canonical_band(name)):
        for hits in (
            [i for i, b in enumerate(bandset.bands) if b.name == spelling],
            [i for i, b in enumerate(bandset.bands) if b.common_name == spelling],
        ):
            if len(hits) == 1:
                return hits[0]
    raise CubeError(
        "no such band",
        where=bandset.name,
        expected="one of " + ", ".join(bandset.band_names),
        found=repr(name),
    )


def platform_id(platform: object, where: object = None) -> int:
    """Row of `PLATFORMS` by name, or a row itself; CubeError for one that is not in the table."""
    if isinstance(platform, Integral) and 0 <= int(platform) < len(PLATFORMS):
        return int(platform)
    if platform not in PLATFORMS:
        raise CubeError(
            "no such platform",
            where=where,
            expected="one of " + ", ".join(PLATFORMS) + f", or a row 0 .. {len(PLATFORMS) - 1}",
            found=repr(platform),
            remedy='append it to PLATFORMS, or use "unknown"',
        )
    return PLATFORMS.index(str(platform))
