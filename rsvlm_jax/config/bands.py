"""How models see sensors: frozen descriptions of bands, filled from a cube and saved with a run.

`data_zarr.sensors` holds the table of real sensors with its sources; this module only says what
of it a model may know. No arrays, no file access.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from .check import choices

BandKind = Literal["optical", "sar", "covariate"]


@dataclasses.dataclass(frozen=True)
class BandSpec:
    """One band.

    Attributes:
      name: native name as stored in the cube, e.g. "B04", "VV", "t2m".
      common_name: STAC common name ("red", "nir08", "swir16"), or None.
      wavelength: centre wavelength in micrometres, or None (SAR, weather, terrain).
      fwhm: full width at half maximum in micrometres, or None.
      scale, offset: physical value = stored * scale + offset.
      unit: unit of the physical value ("1" for reflectance, "dB", "K", "m").
    """

    name: str
    common_name: str | None = None
    wavelength: float | None = None
    fwhm: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str = "1"


@dataclasses.dataclass(frozen=True)
class BandSetSpec:
    """The bands of one observation, in the order of its channel axis.

    Attributes:
      name: name of the cube's group, e.g. "s2_l2a", "s1_db".
      kind: "optical" (wavelengths known), "sar" (backscatter in dB) or "covariate".
      bands: in channel order.
      static: one undated layer (terrain); its tokens get no date embedding.
      gsd: ground sampling distance in metres, if known.
    """

    name: str
    kind: BandKind
    bands: tuple[BandSpec, ...]
    static: bool = False
    gsd: float | None = None

    def __post_init__(self) -> None:
        choices(self)

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)

    def index(self, name: str) -> int:
        """Channel of a band by native or common name; KeyError names what exists."""
        for i, b in enumerate(self.bands):
            if name in (b.name, b.common_name):
                return i
        raise KeyError(f"band set {self.name!r} has no band {name!r}; it has {self.band_names}")
