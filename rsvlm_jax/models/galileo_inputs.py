"""Observations as Galileo reads them: groups of normalised features, masked patch by patch.

    obs -> series (`monthly`) -> NDVI -> (x - shift) / scale -> patches -> GalileoInputs

A group is there if all its channels are in the band sets; the others have no token at all. A patch
of a group is read where at least `least_valid` of its pixels are valid, at a step in all channels;
the pixels that are not take the mean of those of the patch that are (ours: the original reads
composites without holes). Weather is the mean of the window. NDVI is that of the month's red and
near infrared (B8, or B8A where there is no B8). Trained on Sentinel-2 of level 1C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from rsvlm_jax.config import BandSetSpec, ConfigError, GalileoConfig
from rsvlm_jax.core.shapes import Array, Bool, Float
from rsvlm_jax.data.batch import Observation

from .galileo_groups import GROUPS, GalileoInputs
from .monthly import ndvi, series
from .months import unit_vector


class Scale(NamedTuple):
    """normalised = (raw - shift) / scale."""

    shift: float
    scale: float


SCALES: dict[str, Scale] = {
    "VV": Scale(-21.503015938865595, 19.548583099361263),
    "VH": Scale(-30.316122521008758, 22.921081281537173),
    "B2": Scale(-440.0674150064983, 3670.816576148341),
    "B3": Scale(-488.19499253784784, 3653.195369432611),
    "B4": Scale(-842.2586089515398, 4370.71489411022),
    "B5": Scale(-550.580418440855, 4188.882433384169),
    "B6": Scale(90.18188471987287, 4192.040644462707),
    "B7": Scale(237.71267996767028, 4574.761210727998),
    "B8": Scale(212.3793632740426, 4395.916710926596),
    "B8A": Scale(341.3399545168895, 4817.891020343572),
    "B11": Scale(-57.043712554288504, 4583.909625231551),
    "B12": Scale(-485.954841393848, 3920.9719360031186),
    "NDVI": Scale(0.0, 1.0),
    "elevation": Scale(-1293.1241777089112, 3932.278919318495),
    "slope": Scale(-10.40472091071138, 32.66962715925299),
    "temperature_2m": Scale(111.9509175478781, 319.23315761257714),
    "total_precipitation": Scale(-0.14784790519146407, 0.46678188392605946),
}
"""Mean - 2 std and 4 std of the training data, as in the public repository's normalisation file
(nasaharvest/galileo at 0f0b5b9, MIT licence); of NDVI nothing."""


def galileo_inputs(
    obs: Mapping[str, Observation], specs: Sequence[BandSetSpec], config: GalileoConfig
) -> GalileoInputs:
    """What Galileo reads of some band sets, and of the place where it is known.

    Raises:
      ConfigError, DataError: see `monthly.series`; a window that does not divide into patches, or
        band sets that complete no group.
    """
    made = series(obs, specs, config.steps, config.by)
    value, valid = dict(made.value), dict(made.valid)
    near = next((name for name in ("B8", "B8A") if name in value), None)
    if near is not None and "B4" in value:
        value["NDVI"] = ndvi(value["B4"], value[near])
        valid["NDVI"] = valid["B4"] & valid[near]
    value |= {n: x[:, None] for n, x in made.layer.items()}
    valid |= {n: x[:, None] for n, x in made.layer_valid.items()}
    values, seen = {}, {}
    for group in GROUPS:
        if not set(group.channels) <= value.keys():
            continue
        x = jnp.stack([_normalised(value[c], c) for c in group.channels], axis=-1)
        ok = jnp.stack([valid[c] for c in group.channels], axis=-1).all(axis=-1)  # [B,T,H,W]
        if group.kind == "time":
            values[group.name], seen[group.name] = x[:, :, 0, 0], ok[:, :, 0, 0]
            continue
        x, ok = jnp.moveaxis(x, 1, 3), jnp.moveaxis(ok, 1, 3)
        x, kept = _patched(x, ok, config)
        if group.kind == "space":
            x, kept = x[:, :, :, 0], kept[..., 0]
        values[group.name], seen[group.name] = x, kept
    if not values:
        raise ConfigError(
            "band sets that complete no group of Galileo",
            where=", ".join(f"band set {s.name!r}" for s in specs),
            expected="all bands of a group, e.g. " + "; ".join(
                f"{g.name}: {', '.join(g.channels)}" for g in GROUPS if g.name in ("S1", "SRTM")
            ),
            found=", ".join(sorted(value)),
        )  # fmt: skip
    known = jnp.isfinite(made.lonlat).all(axis=1)
    values["location"] = unit_vector(jnp.where(known[:, None], made.lonlat, 0.0))
    seen["location"] = known
    return GalileoInputs(values, seen, made.month, made.gsd)


def _normalised(x: Array, feature: str) -> Array:
    shift, scale = SCALES[feature]
    return (x - shift) / scale


def _patched(
    x: Float[Array, "B H W T c"], valid: Bool[Array, "B H W T"], config: GalileoConfig
) -> tuple[Float[Array, "B H W T c"], Bool[Array, "B h w T"]]:
    """Patches that are read, and values without holes in them."""
    p, (b, height, width, t, c) = config.patch_size, x.shape
    if height % p or width % p:
        raise ConfigError(
            "a window that does not divide into patches", where="GalileoConfig.patch_size",
            expected=f"a divisor of {height}", found=p,
        )  # fmt: skip
    cells = (b, height // p, p, width // p, p, t)
    ok = valid.reshape(cells)[..., None]
    pixels = jnp.where(ok, x.reshape(*cells, c), 0.0)
    count = ok.sum(axis=(2, 4), keepdims=True, dtype=jnp.float32)
    mean = pixels.sum(axis=(2, 4), keepdims=True) / jnp.maximum(count, 1.0)
    filled = jnp.where(ok, pixels, mean).reshape(x.shape)
    count = count[:, :, 0, :, 0, :, 0]
    return filled, (count > 0) & (count >= config.least_valid * p * p)
