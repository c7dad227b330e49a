"""Observations as the series that pretrained encoders read: named quantities in steps of time.

    obs {name: Observation [B,T',C,H,W]} -> quantities by name -> Series: value, valid [B,T,H,W]

`quantities` says which bands those are. Band sets are pooled: what two of them measure is averaged
together (ascending and descending orbits).

Time. A step is one of these, by `by`:

    month   a calendar month, and its value the mean of all valid values dated in it. The first
            step is the first month in which anything is valid; where the series is longer than
            `steps` months, it is cut at its beginning.

            valid dates   Nov 28, Jan 3, Jan 19, Feb 1        steps 4
            steps         Nov     Dec    Jan     Feb          December is masked

    date    a date of the first dated band set, in the order of time; values of other sets go to
            the nearest of these dates, within half a month.

Both read real dates and no slots: dates may stand in any order. Of a series without years those
count that its cube wrote. What has no date (terrain) is no step but a layer.

Not here: normalisation and groups of bands (`galileo_inputs`, `presto_inputs`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.config import BandSetSpec, ConfigError, DataError
from rsvlm_jax.config.encoders import Steps
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int
from rsvlm_jax.data.batch import Observation

from .months import month_count
from .quantities import QUANTITIES, WEATHER, Quantity, readings

HALF_MONTH = 16.0
"""Days between dates that belong to one step of `by="date"`, at most."""

DEFAULT_GSD = 10.0
"""Metres of a pixel where none are known (points): what both encoders were trained on."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Series:
    """Quantities by name, in the units of training, not normalised; 0 where not valid.

    Attributes:
      value, valid: of dated quantities [B,T,H,W]; all of one H and W but the weather (1, 1).
      layer, layer_valid: of those without dates [B,H,W].
      month: 0 .. 11, of each step.
      lonlat: degrees; NaN where unknown.
      gsd: metres a pixel.
    """

    value: dict[str, Float[Array, "B T _ _"]]
    valid: dict[str, Bool[Array, "B T _ _"]]
    layer: dict[str, Float[Array, "B H W"]]
    layer_valid: dict[str, Bool[Array, "B H W"]]
    month: Int[Array, "B T"]
    lonlat: Float[Array, "B 2"]
    gsd: Float[Array, " B"]


def series(
    obs: Mapping[str, Observation],
    specs: Sequence[BandSetSpec],
    steps: int,
    by: Steps = "month",
) -> Series:
    """The quantities of some band sets in `steps` steps of time.

    Args:
      obs: by name; at least those of `specs`.
      specs: of the band sets that are read, in the order in which "date" looks for its dates.

    Raises:
      ConfigError: see `readings`; windows of which none is a multiple of the other; with "date",
        more dates than steps.
      DataError: a band set that is not there, or with other bands.
    """
    if not specs:
        raise ConfigError("no band set to read", where="an encoder's inputs", found="none")
    parts = [_Part.of(_observation(obs, spec), spec) for spec in specs]
    dated = [p for p in parts if not all(q.layer for q in p.quantities)]
    places, month = _steps(dated, steps, by, batch=parts[0].x.shape[0])
    imaged = [p for p in parts if any(q.name not in WEATHER for q in p.quantities)]
    finest = max(imaged or parts, key=lambda p: p.x.shape[3])
    edge = finest.x.shape[3]

    total: dict[str, Array] = {}
    count: dict[str, Array] = {}
    for part in parts:
        for i, one in enumerate(part.quantities):
            x, there = part.x[:, :, i], part.valid[:, :, i].astype(jnp.float32)
            if one.name in WEATHER:
                n = there.sum(axis=(2, 3), keepdims=True)
                x = x.sum(axis=(2, 3), keepdims=True) / jnp.maximum(n, 1.0)
                there = (n > 0).astype(jnp.float32)
            else:
                x, there = (_fitted(a, edge, part.obs.bandset) for a in (x, there))
            if one.layer:
                x, there = x.sum(axis=1), there.sum(axis=1)
            else:
                at = places[dated.index(part)]
                x, there = (
                    jnp.einsum("bts,bthw->bshw", at, a, precision="highest") for a in (x, there)
                )
            total[one.name] = total[one.name] + x if one.name in total else x
            count[one.name] = count[one.name] + there if one.name in count else there
    mean = {name: x / jnp.maximum(count[name], 1.0) for name, x in total.items()}
    valid = {name: n > 0 for name, n in count.items()}
    layers = {q.name for q in QUANTITIES if q.layer}
    gsd = jnp.asarray(finest.obs.gsd)
    return Series(
        value={n: x for n, x in mean.items() if n not in layers},
        valid={n: x for n, x in valid.items() if n not in layers},
        layer={n: x for n, x in mean.items() if n in layers},
        layer_valid={n: x for n, x in valid.items() if n in layers},
        month=month,
        lonlat=jnp.asarray(parts[0].obs.lonlat),
        gsd=jnp.where(gsd > 0, gsd, DEFAULT_GSD),
    )


def ndvi(red: Float[Array, "*shape"], nir: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(nir - red) / (nir + red) where the sum is positive, else 0."""
    total = nir + red
    return jnp.where(total > 0, (nir - red) / jnp.where(total > 0, total, 1.0), 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """What is read of one band set: values in the units of training, 0 where not valid."""

    obs: Observation
    quantities: tuple[Quantity, ...]
    x: Float[Array, "B T C H W"]
    valid: Bool[Array, "B T C H W"]

    @classmethod
    def of(cls, obs: Observation, spec: BandSetSpec) -> _Part:
        found = readings(spec)
        index, physical = np.asarray(list(found)), obs.physical(spec)
        valid = jnp.broadcast_to(jnp.asarray(obs.valid), physical.shape)[:, :, index]
        factor = jnp.asarray([q.factor for q in found.values()], jnp.float32)
        x = physical[:, :, index] * factor[None, None, :, None, None]
        return cls(obs, tuple(found.values()), x, valid)


def _observation(obs: Mapping[str, Observation], spec: BandSetSpec) -> Observation:
    if spec.name not in obs:
        raise DataError(
            "the batch lacks a band set", where="Batch.obs", expected=spec.name,
            found=", ".join(obs) or "none",
        )  # fmt: skip
    found = obs[spec.name].pixels.shape[2]
    if found != len(spec.bands):
        raise DataError(
            "the batch has other bands than the encoder",
            where=f"Batch.obs[{spec.name!r}].pixels",
            expected=f"{len(spec.bands)} bands ({', '.join(spec.band_names)})",
            found=found,
        )
    return obs[spec.name]


def _fitted(x: Array, edge: int, name: str) -> Array:
    """Pixels of a coarser band set repeated, so that all windows have `edge` pixels."""
    h, w = x.shape[2:]
    if h != w or edge % h:
        raise ConfigError(
            "windows that do not fit each other",
            where=f"band set {name!r}",
            expected=f"a square of a divisor of {edge} pixels",
            found=f"{h} x {w}",
        )
    return x if h == edge else jnp.repeat(jnp.repeat(x, edge // h, axis=2), edge // h, axis=3)


def _steps(
    dated: Sequence[_Part], steps: int, by: Steps, *, batch: int
) -> tuple[list[Float[Array, "B T S"]], Int[Array, "B S"]]:
    """Of each band set, 1 where a date belongs to a step; and the month of each step."""
    step = jnp.arange(steps, dtype=jnp.int32)
    if not dated:
        return [], jnp.zeros((batch, steps), jnp.int32)
    dates = [jnp.asarray(part.obs.date) for part in dated]
    if by == "date":
        if dates[0].shape[1] > steps:
            raise ConfigError(
                "more dates than steps", where=f"band set {dated[0].obs.bandset!r}",
                expected=f"at most {steps}", found=dates[0].shape[1],
                remedy='read fewer dates (InputConfig.dates), or take by="month"',
            )  # fmt: skip
        known = jnp.sort(jnp.where(jnp.isfinite(dates[0]), dates[0], jnp.inf), axis=1)
        known = jnp.pad(known, ((0, 0), (0, steps - known.shape[1])), constant_values=jnp.inf)
        places = []
        for date in dates:
            away = jnp.abs(date[:, :, None] - known[:, None, :])
            near = jnp.where(jnp.isfinite(away), away, jnp.inf)
            own = (jnp.argmin(near, axis=2)[:, :, None] == step[None, None]) & (near <= HALF_MONTH)
            places.append(own.astype(jnp.float32))
        return places, jnp.mod(month_count(known), 12)
    months = [month_count(date) for date in dates]
    shown = [
        jnp.isfinite(date) & part.valid.any(axis=(2, 3, 4))
        for date, part in zip(dates, dated, strict=True)
    ]
    far = jnp.int32(2**30)
    pairs = list(zip(months, shown, strict=True))
    first = jnp.min(jnp.concatenate([jnp.where(s, m, far) for m, s in pairs], axis=1), axis=1)
    last = jnp.max(jnp.concatenate([jnp.where(s, m, -far) for m, s in pairs], axis=1), axis=1)
    start = jnp.where(last >= first, jnp.maximum(first, last - steps + 1), 0)[:, None]
    places = [((m - start)[:, :, None] == step[None, None]) & s[:, :, None] for m, s in pairs]
    return [p.astype(jnp.float32) for p in places], jnp.mod(start + step[None], 12)
