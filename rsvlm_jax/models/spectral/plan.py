"""Which band goes into which slot of which three-channel frame: spectral recombination as data.

An RGB-pretrained encoder reads three channels. `make_plan` turns the bands of any sensor into
*groups*, each with three slots in the encoder's R, G, B order, and every slot says which channels
it is made of. Nothing here touches an array: `rsvlm_jax.models.spectral.recombine` does.

Plans (`SpectralConfig.plan`; the papers on spectral recombination leave the band assignment open,
so `wavelength` is ours, and the two released implementations are kept as baselines):

  wavelength        groups chosen by centre wavelength, never by name, each long-mid-short, as red,
                    green and blue are; see `windows`.
  consecutive_drop  channel triples in stored order, a last group of fewer than three bands is
                    dropped (EarthMind).
  consecutive_pad   the same, the last channel repeated to fill the last group (EarthDial).

Sentinel-2 L1C under `wavelength`:

  group         R slot      G slot      B slot
  true_colour   B04 0.665   B03 0.560   B02 0.490
  nir           B08 0.833   B04         B03
  swir          B12 2.190   B11 1.610   B8A 0.865
  red_edge      B07 0.783   B06 0.740   B05 0.704
  atmosphere    B10 1.374   B09 0.945   B01 0.443

SAR band sets become one pseudo-RGB frame a polarisation pair, under every plan: (co-polarised,
cross-polarised, third), with `SpectralConfig.sar_third` saying what the third channel is.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, NamedTuple

from rsvlm_jax.config import BandSetSpec, BandSpec, ConfigError, DataError, SpectralConfig

from .windows import CONTEXT, INDICES, NARROW, RECIPES, ROLES, WINDOWS

Op = Literal["band", "average", "ratio_db", "mean_db", "diff_linear", "index"]


@dataclasses.dataclass(frozen=True)
class Slot:
    """One channel of a frame.

    Attributes:
      op: how `channels` become one value: "band" (one channel as it is), "average" (weighted, over
        the channels that are valid), "index" ((a - b) / (a + b)), or a SAR third channel.
      channels: positions on the channel axis of the observation.
      weights: of "average", summing to 1; of "index", positive on a, negative on b, each summing
        to 1 in size; empty otherwise.
    """

    op: Op
    channels: tuple[int, ...]
    weights: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Group:
    """One three-channel frame; `slots` in the encoder's R, G, B order."""

    name: str
    slots: tuple[Slot, Slot, Slot]


class SlotRow(NamedTuple):
    """A line of `RecombinePlan.describe`: group "unused" and slot "-" for bands in no group."""

    group: str
    slot: str
    op: str
    bands: tuple[str, ...]
    wavelengths: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class RecombinePlan:
    """How one band set becomes G frames. Static: hashable, no arrays."""

    spec: BandSetSpec
    groups: tuple[Group, ...]

    @property
    def unused(self) -> tuple[int, ...]:
        """Channels that appear in no group."""
        used = {c for g in self.groups for s in g.slots for c in s.channels}
        return tuple(c for c in range(len(self.spec.bands)) if c not in used)

    def describe(self) -> tuple[SlotRow, ...]:
        """A row for each slot, then one for each unused band."""

        def row(group: str, slot: str, op: str, channels: tuple[int, ...]) -> SlotRow:
            bands = [self.spec.bands[c] for c in channels]
            names = tuple(b.name for b in bands)
            return SlotRow(group, slot, op, names, tuple(b.wavelength for b in bands))

        rows = [
            row(g.name, letter, s.op, s.channels)
            for g in self.groups
            for letter, s in zip("RGB", g.slots, strict=True)
        ]
        return (*rows, *(row("unused", "-", "none", (c,)) for c in self.unused))


def make_plan(spec: BandSetSpec, config: SpectralConfig) -> RecombinePlan:
    """The plan of a band set.

    Raises:
      ConfigError: a covariate band set, an unknown or impossible index, or no group at all.
      DataError: an optical band without wavelength, or a SAR band that is not in dB.
    """
    if spec.kind == "covariate":
        raise ConfigError(
            "a band set without wavelengths cannot become RGB frames",
            where=f"inputs.{spec.name}",
            expected="an optical or SAR band set",
            found=f"kind {spec.kind!r}",
            remedy="use front='pixel'",
        )
    if spec.kind == "sar":
        groups = _sar_groups(spec, config)
    else:
        for b in spec.bands:
            if b.wavelength is None:
                raise DataError(
                    "an optical band has no wavelength",
                    where=f"{spec.name}.{b.name}",
                    expected="a centre wavelength in micrometres",
                    found=None,
                    remedy="state it in the cube, or read the band through front='pixel'",
                )
        if config.plan == "wavelength":
            groups = _wavelength_groups(spec.bands)
        else:
            groups = _consecutive_groups(len(spec.bands), pad=config.plan == "consecutive_pad")
    if config.indices:
        groups += _index_groups(spec, config.indices)
    if not groups:
        raise ConfigError(
            "the band set gives no frame",
            where=f"inputs.{spec.name}",
            expected="bands for at least one group",
            found=f"plan {config.plan!r} over bands {', '.join(spec.band_names)}",
        )
    return RecombinePlan(spec, groups)


def _group(name: str, slots: list[Slot]) -> Group:
    red, green, blue = slots
    return Group(name, (red, green, blue))


def _triples(slots: list[Slot]) -> list[list[Slot]]:
    return [slots[i : i + 3] for i in range(0, len(slots), 3)]


def _consecutive_groups(bands: int, *, pad: bool) -> tuple[Group, ...]:
    groups = []
    for number, slots in enumerate(_triples([Slot("band", (c,)) for c in range(bands)]), start=1):
        if pad:
            slots += slots[-1:] * (3 - len(slots))
        if len(slots) == 3:
            groups.append(_group(f"consecutive{number}", slots))
    return tuple(groups)


class _Spectrum:
    """The optical bands of one sensor as slots by role."""

    def __init__(self, bands: tuple[BandSpec, ...]) -> None:
        self.wavelength = [b.wavelength or 0.0 for b in bands]
        self.width = [b.fwhm or self._sampling(i) for i, b in enumerate(bands)]
        self.members = {
            name: [i for i, w in enumerate(self.wavelength) if window.low <= w < window.high]
            for name, window in WINDOWS.items()
        }

    def _sampling(self, i: int) -> float:
        """Distance to the nearest other band: stands in for an unknown FWHM."""
        gaps = [abs(w - self.wavelength[i]) for j, w in enumerate(self.wavelength) if j != i]
        return min((g for g in gaps if g > 0), default=0.01)

    def average(self, name: str) -> Slot | None:
        """The mean of a window of many narrow bands, weighted by the overlap of FWHM and window.

        Bands whose centre lies in the neighbouring window but whose FWHM reaches into this one
        count with that part; a band broader than the window does not count.
        """
        low, high = WINDOWS[name]
        if len(self.members[name]) < NARROW:
            return None
        overlap = {}
        for i, (w, width) in enumerate(zip(self.wavelength, self.width, strict=True)):
            part = min(high, w + width / 2) - max(low, w - width / 2)
            if part > 0 and (width <= high - low or i in self.members[name]):
                overlap[i] = part
        total = sum(overlap.values())
        return Slot("average", tuple(overlap), tuple(p / total for p in overlap.values()))

    def slot(self, role: str) -> Slot | None:
        window, nominal = ROLES[role]
        averaged = self.average(window)
        if averaged or not self.members[window]:
            return averaged
        nearest = min(self.members[window], key=lambda i: abs(self.wavelength[i] - nominal))
        return Slot("band", (nearest,))

    def place(self, slot: Slot) -> float:
        """Mean wavelength of a slot."""
        weights = slot.weights or (1.0,)  # a single band
        return sum(w * self.wavelength[c] for w, c in zip(weights, slot.channels, strict=True))


def _wavelength_groups(bands: tuple[BandSpec, ...]) -> tuple[Group, ...]:
    spectrum = _Spectrum(bands)
    groups: list[Group] = []
    for name, alternatives in RECIPES:
        for roles in alternatives:
            slots = [s for s in map(spectrum.slot, roles) if s is not None]
            if len(slots) == 3:
                groups.append(_group(name, slots))
                break

    taken = {s for g in groups for s in g.slots}
    averages = {name: spectrum.average(name) for name in WINDOWS}
    covered = {c for s in (*taken, *averages.values()) if s is not None for c in s.channels}
    rest = {s for s in averages.values() if s is not None and s not in taken}
    rest |= {Slot("band", (c,)) for c in range(len(bands)) if c not in covered}
    ordered = sorted(rest, key=spectrum.place, reverse=True)
    for number, slots in enumerate(_triples(ordered), start=1):
        for role in CONTEXT:
            context = spectrum.slot(role)
            if len(slots) < 3 and context is not None and context not in slots:
                slots.append(context)
        slots.sort(key=spectrum.place, reverse=True)
        slots += slots[-1:] * (3 - len(slots))
        groups.append(_group(f"rest{number}", slots))
    return tuple(groups)


def _sar_groups(spec: BandSetSpec, config: SpectralConfig) -> tuple[Group, ...]:
    """One group for each (co, cross) pair of one transmit polarisation and one suffix.

    The suffix keeps orbits apart: VV_asc goes with VH_asc, never with VH_desc.
    """
    pairs: dict[tuple[str, str], dict[str, int]] = {}
    for i, band in enumerate(spec.bands):
        if band.unit != "dB":
            raise DataError(
                "SAR backscatter is not in decibels",
                where=f"{spec.name}.{band.name}",
                expected="unit dB",
                found=f"unit {band.unit!r}",
                remedy="convert with 10 log10 when the cube is built",
            )
        found = re.fullmatch(r"(VV|VH|HH|HV)(.*)", band.name.upper())
        if found:
            polarisation, suffix = found.groups()
            part = "co" if polarisation[0] == polarisation[1] else "cross"
            pairs.setdefault((polarisation[0], suffix), {})[part] = i
    groups = []
    for (transmit, suffix), pair in pairs.items():
        if len(pair) == 2:
            co, cross = pair["co"], pair["cross"]
            third = (
                Slot("band", (co,))
                if config.sar_third == "copy"
                else Slot(config.sar_third, (co, cross))
            )
            name = f"sar_{transmit.lower()}{suffix.lower()}"
            groups.append(_group(name, [Slot("band", (co,)), Slot("band", (cross,)), third]))
    if not groups:
        raise ConfigError(
            "no pair of polarisations",
            where=f"inputs.{spec.name}",
            expected="VV and VH, or HH and HV",
            found=", ".join(spec.band_names),
        )
    return tuple(groups)


def _index_groups(spec: BandSetSpec, names: tuple[str, ...]) -> tuple[Group, ...]:
    groups = []
    for number, triple in enumerate(_triples(list(index_slots(spec, names))), start=1):
        triple += triple[-1:] * (3 - len(triple))
        groups.append(_group(f"indices{number}", triple))
    return tuple(groups)


def index_slots(spec: BandSetSpec, names: tuple[str, ...]) -> tuple[Slot, ...]:
    """A slot for each index; ConfigError for one that is unknown or whose bands are missing."""
    where = f"inputs.{spec.name}.spectral.indices"
    if spec.kind != "optical":
        raise ConfigError(
            "spectral indices need an optical band set", where=where, found=f"kind {spec.kind!r}"
        )
    spectrum = _Spectrum(spec.bands)
    slots = []
    for name in names:
        if name not in INDICES:
            expected = "one of " + ", ".join(INDICES)
            raise ConfigError("unknown index", where=where, expected=expected, found=name)
        first, second = (spectrum.slot(role) for role in INDICES[name])
        if first is None or second is None:
            raise ConfigError(
                f"the bands of {name!r} are missing",
                where=where,
                expected=" and ".join(INDICES[name]),
                found=", ".join(spec.band_names),
            )
        weights = (*(first.weights or (1.0,)), *(-w for w in second.weights or (1.0,)))
        slots.append(Slot("index", (*first.channels, *second.channels), weights))
    return tuple(slots)
