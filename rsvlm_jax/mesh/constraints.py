"""Where activations live: `constrain(x, "batch", "length", "embed")`.

Models name the axes of an activation; this table says what those names mean on the mesh. The mesh
is the one in force by `jax.set_mesh` (the step sets it). Without a mesh `constrain` returns its
argument: that is the one-device case, and it depends on nothing else, above all not on the
platform, so that tests on CPU devices prove what a pod will do.

Storage of parameters is another table, in `rsvlm_jax.mesh.rules`.
"""

from __future__ import annotations

import difflib
from typing import TypeVar

import jax
from jax.sharding import PartitionSpec

from rsvlm_jax.config import ConfigError

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "batch": ("slice", "data", "fsdp"),
    "length": ("context?",),
    "embed": (),
    "heads": ("tensor?",),
    "mlp": ("tensor?",),
    "vocab": ("tensor?",),
}
"""Mesh axes of an activation axis. "?" replicates the axis where the size does not divide
(grouped-query attention with fewer key heads than devices, the 577 tokens of a vision tower, the
one token of a decode step); without it that is an error. A batch of text whose length does not
divide is refused before (`rsvlm_jax.mesh.batch.check_batch`).

Context parallelism: queries, and all that is done position by position, are split over "context";
keys and values name their length None and are gathered. Masks compare positions and segments that
are numbers of the sequence, not of its part, so a part needs to know nothing of where it stands.
"""

X = TypeVar("X", bound=jax.Array)


def constrain(x: X, *names: str | None) -> X:
    """Pin the placement of an activation on the mesh in force; the identity when there is none.

    Args:
      x: any array.
      names: one name of `ACTIVATIONS`, or None (replicated), for each axis of `x`.

    Raises:
      ConfigError: unknown name, wrong number of names, or a "batch" that the mesh does not divide.
    """
    for name in names:
        if name is not None and name not in ACTIVATIONS:
            near = difflib.get_close_matches(name, ACTIVATIONS, n=1)
            raise ConfigError(
                "unknown activation axis",
                where="constrain",
                expected=f"one of {', '.join(ACTIVATIONS)}",
                found=name,
                remedy=f"did you mean {near[0]!r}?" if near else None,
            )
    if len(names) != x.ndim:
        raise ConfigError(
            "one name for each axis", where="constrain", expected=x.ndim, found=f"names {names}"
        )
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    dims = [ACTIVATIONS[n] if n else () for n in names]
    where = f"an activation of shape {x.shape} with axes {names}"
    return jax.lax.with_sharding_constraint(x, spec_of(dims, x.shape, dict(mesh.shape), where))


def spec_of(
    dims: list[tuple[str, ...]], shape: tuple[int, ...], sizes: dict[str, int], where: str
) -> PartitionSpec:
    """Axis names by dimension, with their "?" resolved against real sizes.

    Args:
      dims: for each dimension the mesh axes that split it, outermost first; a name that ends in
        "?" is dropped where what remains of the dimension does not divide by it.
      sizes: devices by mesh axis.
      where: named in errors.

    Raises:
      ConfigError: unknown mesh axis, an axis used for two dimensions, or a dimension that does
        not divide.
    """
    used: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for i, axes in enumerate(dims):
        taken: list[str] = []
        left = shape[i]
        for axis in axes:
            name = axis.removesuffix("?")
            if name not in sizes:
                raise ConfigError(
                    "no such mesh axis",
                    where=where,
                    expected=f"one of {', '.join(sizes)}",
                    found=name,
                )
            if name in used:
                raise ConfigError("a mesh axis is used twice", where=where, found=name)
            if left % sizes[name]:
                if axis.endswith("?"):
                    continue
                raise ConfigError(
                    "a dimension does not divide over the mesh",
                    where=where,
                    expected=f"dimension {i} to be a multiple of {sizes[name]} ({name})",
                    found=left,
                )
            used.add(name)
            taken.append(name)
            left //= sizes[name]
        entries.append(tuple(taken) if len(taken) > 1 else taken[0] if taken else None)
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)
