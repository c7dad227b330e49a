"""Terrain, the hidden state of every pixel, and the law that makes biomass of it.

The state is `u [K,H,W]`, K standard normal fields named in `STATE`; `decode` turns them into
quantities with units. The oracle estimates the same `u`, with the same standard normal prior.
`WOOD` is left out of what any sensor sees: no predictor can know it, and it caps every score.

    u [K,H,W] --decode--> State (cover, height, evergreen, ...) --agb--> Mg/ha [H,W]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from data_zarr.world.fields import gaussian_field, stream
from data_zarr.world.presets import Preset, find_preset

STATE = ("cover", "height", "evergreen", "grass", "soil", "moisture", "loss")
"""Rows of the state `u`."""

SCALES = {
    "cover": 10.0,
    "height": 11.0,
    "evergreen": 15.0,
    "grass": 9.0,
    "soil": 12.0,
    "moisture": 16.0,
    "loss": 18.0,
    "wood": 7.0,
}
"""Correlation lengths in pixels."""

WOOD_SPREAD = 0.12
"""Standard deviation of the log of wood density that nothing observes."""

AGB_MAX = 500.0
"""Upper bound of the target in Mg/ha."""


class State(NamedTuple):
    """Quantities of a place, arrays of one shape.

    Attributes:
      cover: canopy cover, 0 to 1, on the last day of the series.
      height: canopy height, m.
      evergreen: share of evergreen trees, 0 to 1.
      grass: leaf area of the ground layer in its season, m2/m2.
      soil: brightness of the soil, 1 is typical.
      moisture: soil water, 0 to 1, before the season.
      loss: yearly loss of cover, as a share of the cover at the end; 0 where nothing changes.
    """

    cover: Shaped[np.ndarray, "..."]
    height: Shaped[np.ndarray, "..."]
    evergreen: Shaped[np.ndarray, "..."]
    grass: Shaped[np.ndarray, "..."]
    soil: Shaped[np.ndarray, "..."]
    moisture: Shaped[np.ndarray, "..."]
    loss: Shaped[np.ndarray, "..."]

    def cover_at(self, years_before: float) -> Shaped[np.ndarray, "..."]:
        """Canopy cover some years before the end of the series."""
        return np.minimum(self.cover * (1.0 + self.loss * np.float32(years_before)), 1.0)


class Terrain(NamedTuple):
    """elevation in m; slope and aspect in radians (aspect: downhill, clockwise from north)."""

    elevation: Shaped[np.ndarray, "..."]
    slope: Shaped[np.ndarray, "..."]
    aspect: Shaped[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class Scene:
    """The truth of a world.

    Attributes:
      u: float32 [K,H,W], see `STATE`.
      state: the same, decoded.
      terrain: elevation, slope, aspect.
      agb: above-ground biomass on the last day, Mg/ha [H,W].
      agb_trend: its change, Mg/ha a year [H,W]; 0 outside the disturbed part.
    """

    u: Float[np.ndarray, "K H W"]
    state: State
    terrain: Terrain
    agb: Float[np.ndarray, "H W"]
    agb_trend: Float[np.ndarray, "H W"]


def decode(u: Shaped[np.ndarray, "K *S"]) -> State:
    """Quantities from standard normal fields; dense stands tend to be tall."""
    cover, height, evergreen, grass, soil, moisture, loss = u
    return State(
        cover=_sigmoid(1.5 * cover + 0.3),
        height=3.0 + 35.0 * _sigmoid(1.1 * height + 0.5 * cover - 0.3),
        evergreen=_sigmoid(2.2 * evergreen),
        grass=3.0 * _sigmoid(1.2 * grass + 0.4),
        soil=np.exp(0.25 * soil),
        moisture=_sigmoid(1.3 * moisture),
        loss=0.25 * np.maximum(loss - 0.6, 0.0),
    )


def agb(
    state: State, wood: Shaped[np.ndarray, "..."] | float = 1.0, *, years_before: float = 0.0
) -> Shaped[np.ndarray, "..."]:
    """The law: above-ground biomass in Mg/ha.

    The stand times wood density, where deciduous wood is heavier:
    `4 + stand (1.45 - 0.9 evergreen) wood`, at most `AGB_MAX`. The form follows lidar allometries
    of plot biomass (Asner and Mascaro 2014, Remote Sens. Environ. 140).
    """
    density = 1.45 - 0.9 * state.evergreen
    return np.minimum(4.0 + stand(state, years_before) * density * wood, AGB_MAX)


def stand(state: State, years_before: float) -> Shaped[np.ndarray, "..."]:
    """The size of a stand, `1.9 cover height**1.5`: biomass in Mg/ha for wood of density 1."""
    return 1.9 * state.cover_at(years_before) * state.height**1.5


def scene(seed: int, preset: str | Preset = "small") -> Scene:
    """The truth of a world; the same seed and preset give the same bits."""
    world = find_preset(preset) if isinstance(preset, str) else preset
    u = np.stack([gaussian_field(stream(seed, "state", n), world.size, SCALES[n]) for n in STATE])
    state = decode(u)
    wood = gaussian_field(stream(seed, "state", "wood"), world.size, SCALES["wood"])
    wood = np.exp(WOOD_SPREAD * wood)
    now, before = agb(state, wood), agb(state, wood, years_before=1.0)
    return Scene(
        u=u,
        state=state,
        terrain=make_terrain(seed, world),
        agb=now.astype(np.float32),
        agb_trend=(now - before).astype(np.float32),
    )


def make_terrain(seed: int, world: Preset) -> Terrain:
    """Rolling hills: a smooth field, with slopes of some degrees."""
    height = gaussian_field(stream(seed, "terrain"), world.size, 40.0, roughness=5.0)
    return terrain_of(600.0 + 35.0 * height, world.gsd)


def terrain_of(elevation: Float[np.ndarray, "H W"], gsd: float) -> Terrain:
    """Slope and aspect of an elevation model by central differences; row 0 is the north."""
    down_south, down_east = np.gradient(-elevation.astype(np.float32), gsd)
    slope = np.arctan(np.hypot(down_south, down_east))
    aspect = np.arctan2(down_east, -down_south)
    return Terrain(elevation.astype(np.float32), slope, aspect)


def _sigmoid(x: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return 1.0 / (1.0 + np.exp(-x))
