"""Spectral indices by name, computed from bands called by their STAC common names.

Formulas use operators only, so NumPy, xarray, dask and JAX arrays all work. Inputs are physical
reflectances: `savi` and `evi` have constants in reflectance units and are wrong on raw numbers.
This is not a catalogue: it holds what the baselines, the reports and the samples need.

    {"nir": [...], "red": [...]}  --compute("ndvi", ...)-->  [...]      shapes broadcast
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_zarr.errors import CubeError


@dataclass(frozen=True)
class Index:
    """One index.

    Attributes:
      bands: common names, in the order of the arguments of `function`.
      formula: the same as text.
      source: who defined it.
      function: the same as code.
    """

    bands: tuple[str, ...]
    formula: str
    source: str
    function: Callable[..., Any]


STAND_INS: dict[str, tuple[str, ...]] = {
    "nir": ("nir08",),
    "nir08": ("nir",),
    "rededge1": ("rededge071", "rededge"),
}
"""Common names that may take the place of another: Landsat's near infrared is `nir08` only."""


def _ratio(a: Any, b: Any) -> Any:
    return (a - b) / (a + b)


INDICES: dict[str, Index] = {
    "ndvi": Index(
        ("nir", "red"),
        "(nir - red) / (nir + red)",
        "Rouse et al. 1974, NASA SP-351: vegetation",
        _ratio,
    ),
    "ndmi": Index(
        ("nir08", "swir16"),
        "(nir08 - swir16) / (nir08 + swir16)",
        "Gao 1996, Remote Sens. Environ. 58: water in leaves (Gao's NDWI, at 1.6 um)",
        _ratio,
    ),
    "nbr": Index(
        ("nir08", "swir22"),
        "(nir08 - swir22) / (nir08 + swir22)",
        "Key and Benson 2006, USDA RMRS-GTR-164: burnt area",
        _ratio,
    ),
    "ndwi": Index(
        ("green", "nir"),
        "(green - nir) / (green + nir)",
        "McFeeters 1996, Int. J. Remote Sens. 17: open water",
        _ratio,
    ),
    "mndwi": Index(
        ("green", "swir16"),
        "(green - swir16) / (green + swir16)",
        "Xu 2006, Int. J. Remote Sens. 27: open water beside buildings",
        _ratio,
    ),
    "evi": Index(
        ("nir", "red", "blue"),
        "2.5 (nir - red) / (nir + 6 red - 7.5 blue + 1)",
        "Huete et al. 2002, Remote Sens. Environ. 83: dense vegetation",
        lambda nir, red, blue: 2.5 * (nir - red) / (nir + 6.0 * red - 7.5 * blue + 1.0),
    ),
    "savi": Index(
        ("nir", "red"),
        "1.5 (nir - red) / (nir + red + 0.5)",
        "Huete 1988, Remote Sens. Environ. 25: vegetation over bright soil, L = 0.5",
        lambda nir, red: 1.5 * (nir - red) / (nir + red + 0.5),
    ),
    "ndre": Index(
        ("nir", "rededge1"),
        "(nir - rededge1) / (nir + rededge1)",
        "Gitelson and Merzlyak 1994, J. Plant Physiol. 143: chlorophyll",
        _ratio,
    ),
}


def compute(name: str, bands: Mapping[str, Any]) -> Any:
    """An index from reflectances.

    Args:
      name: one of `INDICES`.
      bands: arrays by common name, of shapes that broadcast.

    Returns:
      The index; NaN or infinite where its denominator is zero.

    Raises:
      CubeError: no such index, or a band that it needs is not there.
    """
    if name not in INDICES:
        raise CubeError("no such index", expected=f"one of {', '.join(INDICES)}", found=name)
    index = INDICES[name]
    with np.errstate(divide="ignore", invalid="ignore"):
        return index.function(*(_band(name, b, bands) for b in index.bands))


def _band(index: str, wanted: str, bands: Mapping[str, Any]) -> Any:
    for candidate in (wanted, *STAND_INS.get(wanted, ())):
        if candidate in bands:
            return bands[candidate]
    raise CubeError(
        "a band is missing",
        where=f"index {index!r}",
        expected=" or ".join((wanted, *STAND_INS.get(wanted, ()))),
        found=", ".join(map(str, bands)) or "no bands",
    )
