"""Inputs and outputs of the public Galileo and Presto, as the models here take them."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from rsvlm_jax.assets import GALILEO_REFERENCE, PRESTO_REFERENCE
from rsvlm_jax.models.galileo_groups import GROUPS, KINDS, GalileoInputs
from rsvlm_jax.models.presto import PrestoInputs

SHORT = {"space_time": "s_t", "space": "sp", "time": "t", "static": "st"}
GALILEO_CASES = ("spain", "rand", "p8", "p1", "p3", "p2")


@functools.cache
def galileo_arrays() -> dict[str, np.ndarray]:
    return dict(np.load(GALILEO_REFERENCE, allow_pickle=False))


@functools.cache
def presto_arrays() -> dict[str, np.ndarray]:
    return dict(np.load(PRESTO_REFERENCE, allow_pickle=False))


def galileo_case(name: str, arrays: dict[str, np.ndarray] | None = None) -> GalileoInputs:
    """The inputs of a case: a group's mask is read at the upper-left pixel of each patch."""
    a = galileo_arrays() if arrays is None else arrays
    p = int(a[f"{name}_patch_size"])
    values, seen = {}, {}
    for kind in KINDS:
        x, mask = a[f"{name}_{SHORT[kind]}_x"], a[f"{name}_{SHORT[kind]}_m"]
        at = 0
        for i, group in enumerate(g for g in GROUPS if g.kind == kind):
            values[group.name] = jnp.asarray(x[..., at : at + len(group.channels)])
            of_group = mask[:, ::p, ::p] if group.spatial else mask
            seen[group.name] = jnp.asarray(of_group[..., i] == 0)
            at += len(group.channels)
    b = x.shape[0]
    gsd = jnp.full((b,), float(a[f"{name}_input_resolution_m"]), jnp.float32)
    return GalileoInputs(values, seen, jnp.asarray(a[f"{name}_months"], jnp.int32), gsd)


def presto_case(name: str, arrays: dict[str, np.ndarray] | None = None) -> PrestoInputs:
    a = presto_arrays() if arrays is None else arrays
    return PrestoInputs(
        x=jnp.asarray(a[f"{name}_x"]),
        seen=jnp.asarray(a[f"{name}_mask"] == 0),
        dynamic_world=jnp.asarray(a[f"{name}_dynamic_world"], jnp.int32),
        lonlat=jnp.asarray(a[f"{name}_latlons"][:, ::-1]),
        month=jnp.asarray(a[f"{name}_months"], jnp.int32),
    )
