"""What a planned program moves between devices, by kind and mesh axes, and which of it are whole
weights."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh

from rsvlm_jax.mesh.hlo import Collective, axes_of
from rsvlm_jax.mesh.topology import Topology

LARGE = 2**20
"""Elements of a weight below which nothing is told by name: small ones are summed for speed."""


def sent(c: Collective, where: Topology) -> float:
    """Bytes that a device sends in one run of a collective. On a TPU an all-reduce of which each
    device reads a slice stays one; CPUs have no other form of a reduce-scatter."""
    return c.sent * (2 if c.sliced and where.kind == "tpu" else 1)


def by_kind(found: list[Collective], mesh: Mesh, where: Topology) -> list[dict[str, Any]]:
    """Bytes by kind and mesh axes, the most first."""
    sums: dict[tuple[str, str], list[float]] = {}
    for c in found:
        axes = axes_of(c, mesh)
        kind = "reduce-scatter" if c.sliced and where.kind != "tpu" else c.kind
        key = kind, "unknown" if axes is None else "+".join(axes)
        row = sums.setdefault(key, [0.0, 0])
        row[0] += sent(c, where) * c.count
        row[1] += c.count
    return [
        {"kind": kind, "axes": axes, "bytes": round(size), "count": count}
        for (kind, axes), (size, count) in sorted(sums.items(), key=lambda i: -i[1][0])
    ]


def weights(args: dict[str, Any]) -> set[tuple[int, ...]]:
    """Shapes of matrices that are split over devices, whole, and with only "fsdp" gathered."""
    made = set()
    for x in jax.tree.leaves(getattr(args.get("state"), "params", args)):
        place = getattr(x, "sharding", None)
        if place is None or x.ndim < 2 or place.is_fully_replicated:
            continue
        spec = [*place.spec, *[None] * (x.ndim - len(place.spec))]
        near = []
        for size, entry in zip(x.shape, spec, strict=True):
            axes = (entry,) if isinstance(entry, str) else entry or ()
            near.append(size // math.prod(place.mesh.shape[a] for a in axes if a != "fsdp"))
        for dims in (x.shape[-2:], near[-2:], x.shape, near):  # of a layer, and of a whole stack
            if math.prod(dims) >= LARGE:
                made.add(tuple(sorted(int(n) for n in dims if n > 1)))
    return made


def is_weight(c: Collective, known: set[tuple[int, ...]]) -> bool:
    dims = tuple(sorted(n for n in c.operand_shape.dims if n > 1))
    return dims in known


def told(c: Collective) -> str:
    shape = f"{c.operand_shape.dtype}[{','.join(map(str, c.operand_shape.dims))}]"
    return f"{shape} of {c.op_name or c.name}"
