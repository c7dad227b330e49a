"""Observations as Presto reads them: series of places, normalised.

    obs -> series (`monthly`) -> mean of the valid pixels of each cell -> (x + add) / scale -> NDVI

A place is a cell of `config.cell` pixels an edge, or the whole window; cells run row by row within
a sample. NDVI is that of the cell's red and near infrared (B8, or B8A where there is no B8).
Dynamic World has no band set here: it is missing. Trained on Sentinel-2 of level 1C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from rsvlm_jax.config import BandSetSpec, ConfigError, PrestoConfig
from rsvlm_jax.core.shapes import Array
from rsvlm_jax.data.batch import Observation

from .monthly import ndvi, series
from .presto import FEATURES, MISSING, PrestoInputs


class Scale(NamedTuple):
    """normalised = (raw + add) / scale."""

    add: float
    scale: float


SCALES: dict[str, Scale] = {
    **dict.fromkeys(("VV", "VH"), Scale(25.0, 25.0)),
    **dict.fromkeys(FEATURES[2:12], Scale(0.0, 1e4)),
    "temperature_2m": Scale(-272.15, 35.0),
    "total_precipitation": Scale(0.0, 0.03),
    "elevation": Scale(0.0, 2000.0),
    "slope": Scale(0.0, 50.0),
}
"""Of nasaharvest/presto at 13173d0 (MIT licence)."""


def presto_inputs(
    obs: Mapping[str, Observation], specs: Sequence[BandSetSpec], config: PrestoConfig
) -> PrestoInputs:
    """What Presto reads of some band sets, B * cells series, and of the place where it is known.

    Raises:
      ConfigError, DataError: see `monthly.series`; a window that does not divide into cells.
    """
    made = series(obs, specs, config.steps, config.by)
    steps = made.month.shape[1]
    pixels = [x.shape[2] for n, x in made.value.items() if x.shape[2] > 1]
    edge = max([*pixels, *(x.shape[1] for x in made.layer.values()), 1])
    cell = edge if config.cell is None else config.cell
    if edge % cell:
        raise ConfigError(
            "a window that does not divide into cells", where="PrestoConfig.cell",
            expected=f"a divisor of {edge}", found=cell,
        )  # fmt: skip
    n = (edge // cell) ** 2
    value = made.value | {k: x[:, None] for k, x in made.layer.items()}
    valid = made.valid | {k: x[:, None] for k, x in made.layer_valid.items()}
    b = made.month.shape[0]
    table: dict[str, tuple[Array, Array]] = {}
    for name, x in value.items():
        mean, there = _cells(x, valid[name], cell)
        shape = (b, steps, n)  # a layer at every step, weather in every cell
        mean, there = (jnp.broadcast_to(a, shape) for a in (mean, there))
        table[name] = (mean + SCALES[name].add) / SCALES[name].scale, there
    near = next((k for k in ("B8", "B8A") if k in table), None)
    if near is not None and "B4" in table:
        (red, has_red), (nir, has_nir) = table["B4"], table[near]
        table["NDVI"] = ndvi(red, nir), has_red & has_nir
    nothing = jnp.zeros((b, steps, n), jnp.float32), jnp.zeros((b, steps, n), bool)
    x, seen = (
        jnp.stack([table.get(name, nothing)[i] for name in FEATURES], axis=-1) for i in (0, 1)
    )

    def of_cells(a: Array) -> Array:
        return jnp.repeat(a, n, axis=0)

    return PrestoInputs(
        x=jnp.moveaxis(jnp.where(seen, x, 0.0), 2, 1).reshape(b * n, steps, len(FEATURES)),
        seen=jnp.moveaxis(seen, 2, 1).reshape(b * n, steps, len(FEATURES)),
        dynamic_world=jnp.full((b * n, steps), MISSING, jnp.int32),
        lonlat=of_cells(made.lonlat),
        month=of_cells(made.month),
    )


def _cells(x: Array, valid: Array, cell: int) -> tuple[Array, Array]:
    """The mean of the valid pixels of each cell [B,T,n], and whether there is one."""
    b, t, h, w = x.shape
    size = min(cell, h)  # weather has one pixel
    shape = (b, t, h // size, size, w // size, size)
    count = valid.reshape(shape).sum(axis=(3, 5), dtype=jnp.float32)
    total = jnp.where(valid, x, 0.0).reshape(shape).sum(axis=(3, 5))
    mean = total / jnp.maximum(count, 1.0)
    return mean.reshape(b, t, -1), (count > 0).reshape(b, t, -1)
