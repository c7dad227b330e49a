"""The quantities that pretrained encoders read, and which band of a band set each of them is.

Bands are told by STAC common names, whatever the sensor, or by Sentinel-2's own names where a band
has no common one ("B05" of Landsat is another band). Reflectances are wanted in 0 .. 1, backscatter
in dB, temperature in K, precipitation in m (the total of a month: what a value sums up cannot be
told here), terrain in m and degrees; another unit is refused.
"""

from __future__ import annotations

from typing import NamedTuple

from rsvlm_jax.config import BandSetSpec, BandSpec, ConfigError


class Quantity(NamedTuple):
    """One quantity that an encoder knows.

    Attributes:
      name: as the encoders call it.
      bands: common or other names under which band sets have it.
      native: Sentinel-2's own name and wavelength, for bands without a common name.
      unit: that its band must have.
      factor: from that unit to what encoders were trained on.
      layer: it has no date.
    """

    name: str
    bands: tuple[str, ...]
    unit: str
    factor: float = 1.0
    native: tuple[str, float] | None = None
    layer: bool = False


def _s2(name: str, common: str, wavelength: float) -> Quantity:
    native = name if name == "B8A" else f"B{int(name[1:]):02d}"
    return Quantity(name, (common,), "1", 1e4, (native, wavelength))


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("VV", ("VV", "vv"), "dB"),
    Quantity("VH", ("VH", "vh"), "dB"),
    _s2("B2", "blue", 0.4924),
    _s2("B3", "green", 0.5598),
    _s2("B4", "red", 0.6646),
    _s2("B5", "rededge071", 0.7041),
    _s2("B6", "rededge075", 0.7405),
    _s2("B7", "rededge078", 0.7828),
    _s2("B8", "nir", 0.8328),
    _s2("B8A", "nir08", 0.8647),
    _s2("B11", "swir16", 1.6137),
    _s2("B12", "swir22", 2.2024),
    Quantity("temperature_2m", ("t2m", "temperature_2m"), "K"),
    Quantity("total_precipitation", ("tp", "total_precipitation"), "m"),
    Quantity("elevation", ("elevation",), "m", layer=True),
    Quantity("slope", ("slope",), "degree", layer=True),
)

WEATHER = ("temperature_2m", "total_precipitation")
"""Without pixels: the mean of a window is what counts."""

NATIVE_TOLERANCE = 0.03
"""Micrometres by which a band of Sentinel-2's name may differ from Sentinel-2's."""


def readings(spec: BandSetSpec) -> dict[int, Quantity]:
    """Which channels of a band set encoders read; other bands are not read.

    Raises:
      ConfigError: a quantity in another unit or of another wavelength, one that the set has twice,
        or none at all.
    """
    found: dict[int, Quantity] = {}
    for i, band in enumerate(spec.bands):
        for one in QUANTITIES:
            if _is(band, one):
                _check_band(spec, band, one)
                if one in found.values():
                    raise ConfigError(
                        f"two bands are {one.name}", where=f"band set {spec.name!r}",
                        found=", ".join(spec.band_names),
                    )  # fmt: skip
                found[i] = one
    if not found:
        raise ConfigError(
            "a band set of which the encoder reads nothing",
            where=f"band set {spec.name!r}",
            expected="some of " + ", ".join(f.bands[0] for f in QUANTITIES),
            found=", ".join(spec.band_names),
        )
    return found


def _is(band: BandSpec, one: Quantity) -> bool:
    names = {band.name, band.common_name}
    native = one.native is not None and band.common_name is None
    return bool(names & set(one.bands)) or (native and band.name == one.native[0])  # type: ignore[index]


def _check_band(spec: BandSetSpec, band: BandSpec, one: Quantity) -> None:
    where = f"band set {spec.name!r}, band {band.name!r}"
    if band.unit != one.unit:
        raise ConfigError(
            f"{one.name} in another unit than the encoder was trained on",
            where=where, expected=repr(one.unit), found=repr(band.unit),
            remedy="convert the cube, or set its scale and offset",
        )  # fmt: skip
    if one.native is None or band.wavelength is None or band.common_name is not None:
        return
    if abs(band.wavelength - one.native[1]) > NATIVE_TOLERANCE:
        raise ConfigError(
            f"a band that is not Sentinel-2's {band.name}",
            where=where, expected=f"{one.native[1]:g} um", found=f"{band.wavelength:g} um",
            remedy="give it a common name",
        )  # fmt: skip
