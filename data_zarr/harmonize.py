"""Reflectance of one instrument as another would have seen it: published linear adjustments.

Data with their documents, and the function that applies them by platform. Not a correction of
atmosphere, view angle or calibration, and not fitted here. A regression is of the surfaces it was
made from: for a trend across the change of an instrument it takes away the step of the mean, and
adds its own error.

    reflectance [T C ...], bands, platforms [T]  --harmonize(to="oli")-->  the same shape

Ordinary least squares (`ols`) predicts best and shrinks towards the mean, so its two directions
are two rows, neither the inverse of the other. Reduced major axis (`rma`) is one line both ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from data_zarr.errors import CubeError
from data_zarr.format import near_miss

Instrument = Literal["tm", "etm", "oli", "msi-a", "msi-b"]
Method = Literal["ols", "rma"]

INSTRUMENTS: dict[str, Instrument] = {
    "landsat-4": "tm",
    "landsat-5": "tm",
    "landsat-7": "etm",
    "landsat-8": "oli",
    "landsat-9": "oli",
    "sentinel-2a": "msi-a",
    "sentinel-2b": "msi-b",
}
"""What a platform carries. OLI-2 of Landsat 9 counts as OLI, as in HLS."""


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """target = offset + slope * source, a pair for each common band name; surface reflectance.

    Attributes:
      method: the regression.
      source, target: instruments.
      coefficients: {common name: (slope, offset)}.
      document: where the numbers stand.
    """

    source: Instrument
    target: Instrument
    method: Method
    coefficients: Mapping[str, tuple[float, float]]
    document: str

    def inverse(self) -> Adjustment:
        """The other direction of the same line."""
        turned = {name: (1 / a, -b / a) for name, (a, b) in self.coefficients.items()}
        return Adjustment(self.target, self.source, self.method, turned, self.document)


_SIX = ("blue", "green", "red", "nir08", "swir16", "swir22")
_SEVEN = ("coastal", *_SIX)


def _row(
    source: Instrument, target: Instrument, method: Method, slopes: Sequence[float],
    offsets: Sequence[float], document: str,
) -> Adjustment:  # fmt: skip
    names = _SIX if len(slopes) == 6 else _SEVEN
    pairs = zip(slopes, offsets, strict=True)
    return Adjustment(source, target, method, dict(zip(names, pairs, strict=True)), document)


_ROY = (
    "Roy et al. 2016, Remote Sens. Environ. 185, 57-70, doi:10.1016/j.rse.2015.12.024, Table 2, "
    "surface reflectance, conterminous United States; the numbers as in the Earth Engine "
    "tutorial 'Landsat ETM+ to OLI Harmonization'"
)
_TM = _ROY + ", which applies them to TM as well: TM itself was not in the regression"
_HLS = (
    "NASA, HLS v2.0, algorithm 'bandpass adjustment' (hls.gsfc.nasa.gov/algorithms/"
    "bandpass-adjustment): 500 Hyperion spectra"
)
_TO_OLI = (0.8474, 0.8483, 0.9047, 0.8462, 0.8937, 0.9071), (
    0.0003, 0.0088, 0.0061, 0.0412, 0.0254, 0.0172)  # fmt: skip
_TO_ETM = (0.8850, 0.9317, 0.9372, 0.8339, 0.8639, 0.9165), (
    0.0183, 0.0123, 0.0123, 0.0448, 0.0306, 0.0116)  # fmt: skip
_RMA = (0.9785, 0.9542, 0.9825, 1.0073, 1.0171, 0.9949), (
    -0.0095, -0.0016, -0.0022, -0.0021, -0.0030, 0.0029)  # fmt: skip

ADJUSTMENTS: tuple[Adjustment, ...] = (
    _row("etm", "oli", "ols", *_TO_OLI, _ROY),
    _row("oli", "etm", "ols", *_TO_ETM, _ROY),
    _row("etm", "oli", "rma", *_RMA, _ROY),
    _row("etm", "oli", "rma", *_RMA, _ROY).inverse(),
    _row("tm", "oli", "ols", *_TO_OLI, _TM),
    _row("tm", "oli", "rma", *_RMA, _TM),
    _row(
        "msi-a", "oli", "ols",
        (0.9959, 0.9778, 1.0053, 0.9765, 0.9983, 0.9987, 1.003),
        (-0.0002, -0.004, -0.0009, 0.0009, -0.0001, -0.0011, -0.0012), _HLS,
    ),
    _row(
        "msi-b", "oli", "ols",
        (0.9959, 0.9778, 1.0075, 0.9761, 0.9966, 1.000, 0.9867),
        (-0.0002, -0.004, -0.0008, 0.001, 0.000, -0.0003, 0.0004), _HLS,
    ),
)  # fmt: skip
"""Every row that is published; what is not here is refused."""


def adjustment(source: str, target: str, method: Method = "ols") -> Adjustment:
    """The row from an instrument to another.

    Raises:
      CubeError: nothing published.
    """
    known = [f"{a.source} to {a.target} ({a.method})" for a in ADJUSTMENTS]
    for row in ADJUSTMENTS:
        if (row.source, row.target, row.method) == (source, target, method):
            return row
    raise CubeError(
        "no published adjustment", where="harmonize", expected=", ".join(known),
        found=f"{source} to {target} ({method})",
    )  # fmt: skip


def coefficients(
    platforms: Sequence[str],
    bands: Sequence[str],
    *,
    to: Literal["oli", "etm"] = "oli",
    method: Method = "ols",
) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset of each platform and band, float64 [P C]; 1 and 0 of the instrument `to`.

    Raises:
      CubeError: a platform or a band that nothing is published for.
    """
    slope, offset = np.ones((len(platforms), len(bands))), np.zeros((len(platforms), len(bands)))
    for i, platform in enumerate(platforms):
        if platform not in INSTRUMENTS:
            raise CubeError(
                "no adjustment for this platform", where="harmonize",
                expected="one of " + ", ".join(INSTRUMENTS), found=repr(platform),
                remedy=near_miss(platform, INSTRUMENTS),
            )  # fmt: skip
        source = INSTRUMENTS[platform]
        if source == to:
            continue
        row = adjustment(source, to, method)
        for j, band in enumerate(bands):
            if band not in row.coefficients:
                raise CubeError(
                    "no adjustment for this band", where=f"{row.source} to {row.target}",
                    expected="one of " + ", ".join(row.coefficients), found=repr(band),
                    remedy="drop the band",
                )  # fmt: skip
            slope[i, j], offset[i, j] = row.coefficients[band]
    return slope, offset


def harmonize(
    reflectance: Any,
    bands: Sequence[str],
    platforms: Sequence[str],
    *,
    to: Literal["oli", "etm"] = "oli",
    method: Method = "ols",
    time_axis: int = 0,
    band_axis: int = 1,
) -> Any:
    """Surface reflectances of several platforms as those of one instrument.

    Args:
      reflectance: float, NumPy or dask, [T, C, ...] unless the axes are named otherwise; 0.3 is
        30 %. NaN stays NaN. Dates of the instrument `to` are kept bit by bit.
      bands: STAC common names along `band_axis` (`blue`, `nir08`, ...).
      platforms: STAC names along `time_axis` (`landsat-7`, ...).
      to: the instrument.
      method: see the module.

    Raises:
      CubeError: stored numbers in place of reflectances, names that do not fit the axes, a
        platform or a band that nothing is published for.
    """
    dtype = np.dtype(reflectance.dtype)
    if dtype.kind != "f":
        raise CubeError(
            "stored numbers are no reflectance", where="harmonize", expected="float", found=dtype,
            remedy="apply scale and offset first (`to_physical`)",
        )  # fmt: skip
    shape = reflectance.shape
    if (shape[time_axis], shape[band_axis]) != (len(platforms), len(bands)):
        raise CubeError(
            "platforms or bands do not fit the reflectances", where="harmonize",
            expected=f"{shape[time_axis]} platforms and {shape[band_axis]} bands",
            found=f"{len(platforms)} and {len(bands)}",
        )  # fmt: skip
    slope, offset = coefficients(platforms, bands, to=to, method=method)
    along = [1] * len(shape)
    along[time_axis], along[band_axis] = len(platforms), len(bands)
    if time_axis % len(shape) > band_axis % len(shape):
        slope, offset = slope.T, offset.T
    return reflectance * slope.reshape(along).astype(dtype) + offset.reshape(along).astype(dtype)
