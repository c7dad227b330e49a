"""Where parameters are stored: a table of (path pattern, placement), resolved strictly.

Paths are those of `rsvlm_jax.core.flat`: "decoder/layers/attention/q/kernel". A placement names
the *last* axes of an array; axes before them (stacked layers) are never split::

    Rule(r"^decoder/layers/attention/[qkv]/kernel$", ("fsdp", "tensor"))
                                                         |        |
    kernel [layers, in, out]    ->   PartitionSpec(None, "fsdp", "tensor")

Every parameter is matched by exactly one rule, and every rule of a tower that the model has
matches something: a renamed layer is an error here, not a replicated 7B weight on a pod. A
dimension must divide by its mesh axes, except where the rule says "?" ("fsdp?"): there it is
replicated instead. The rules do so only for arrays whose odd sizes are natural (token counts,
vocabularies) and that are small.

LoRA's factors are placed by the rule of their kernel: A [in, rank] is split like the kernel's rows,
B [rank, out] like its columns, the rank never; what splits the kernel over "fsdp" on its other side
splits the factor on this one, where it divides: else half of the factors and of their moments would
be whole on every device. Codes and scales of a quantised weight are placed by
its rule too; a scale that many inputs share is on all devices that hold some of them. The inputs of
nf4 are split by whole blocks (of 64, two inputs a byte): it is the blocks that must divide.

What is split over nothing although the mesh has devices to split it over is counted: more of it
than `REPLICATED` is an error that lists the largest.

Storage only. Where a parameter is used, the compiler gathers the "fsdp" axis layer by layer
inside the scan; activations are placed by `rsvlm_jax.mesh.constraints`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core import (
    LORA_A,
    NF4,
    NF4_BLOCK,
    SCALE,
    base_path,
    flat,
    is_lora,
    is_quantized,
    map_with_path,
)

from .constraints import ACTIVATIONS, spec_of
from .tables import RULES as RULES
from .tables import Rule

REPLICATED = 0.02
"""Share of the parameters' bytes that a plan may leave whole on every device without naming it
(`Rule.replicates`): norms, biases, dimensions that do not divide. Above it, sharding is broken."""

NEGLIGIBLE = 64 * 2**20
"""Bytes that are never too many: a small model is mostly biases and odd sizes."""


def resolve(
    params: Any,
    rules: Iterable[Rule],
    mesh: Mesh | AbstractMesh,
    *,
    negligible: int = NEGLIGIBLE,
) -> Any:
    """The placement of every parameter.

    Args:
      params: tree of arrays or `jax.ShapeDtypeStruct`.
      rules: a table, e.g. `RULES["fsdp_tensor"]`.
      mesh: of devices, or of sizes alone.
      negligible: bytes that may be replicated whatever their share is.

    Returns:
      A tree of `NamedSharding` of the same structure.

    Raises:
      ConfigError: a parameter that no rule or more than one rule matches, a rule that matches
        nothing, a placement with too many axes, an unknown or repeated mesh axis, a dimension
        that does not divide, or too many bytes that are whole on every device.
    """
    rules = tuple(rules)
    sizes = dict(mesh.shape)
    arrays = flat(params)
    shapes = {path: tuple(x.shape) for path, x in arrays.items()}
    towers = {path.split("/")[0] for path in shapes}
    used: set[Rule] = set()
    whole: list[str] = []
    placed: dict[str, NamedSharding] = {}
    unmatched: list[str] = []
    for path, shape in shapes.items():
        matches = [rule for rule in rules if re.search(rule.pattern, base_path(path))]
        if not matches:
            unmatched.append(path)
            continue
        if len(matches) > 1:
            raise ConfigError(
                "two sharding rules match one parameter",
                where=path,
                found=" and ".join(repr(m.pattern) for m in matches),
            )
        used.add(matches[0])
        placed[path] = NamedSharding(mesh, _spec(matches[0], path, shape, sizes))
        if matches[0].replicates == "little" and not _is_split(placed[path]):
            whole.append(path)
    if unmatched:
        more = f" and {len(unmatched) - 10} more" if len(unmatched) > 10 else ""
        raise ConfigError(
            "no sharding rule matches",
            where=", ".join(unmatched[:10]) + more,
            remedy="add a rule to rsvlm_jax.mesh.tables.TABLE",
        )
    for rule in rules:
        if rule not in used and not rule.optional and (rule.tower is None or rule.tower in towers):
            raise ConfigError("a sharding rule matches no parameter", found=repr(rule.pattern))
    if any(sizes[axis] > 1 for axis in _axes(rules) & set(sizes)):
        total = sum(_bytes(x) for x in arrays.values())
        _not_too_many({path: arrays[path] for path in whole}, total, negligible)
    return map_with_path(lambda path, _: placed[path], params)


def _spec(rule: Rule, path: str, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
    if len(rule.dims) > len(shape):
        raise ConfigError(
            "a sharding rule for more axes than the parameter has",
            where=path,
            expected=f"at most {len(shape)}",
            found=f"{rule.dims} in rule {rule.pattern!r}",
        )
    dims = [() if d is None else (d,) if isinstance(d, str) else d for d in rule.dims]
    if len(dims) > 1 and is_lora(path):
        dims = _of_factor(path, dims)
    dims = [()] * (len(shape) - len(dims)) + dims
    where = f"{path} (rule {rule.pattern!r}, shape {shape})"
    if path.endswith(NF4):
        shape = (*shape[:-2], 2 * shape[-2] // NF4_BLOCK, shape[-1])
        where = f"{where}, in blocks of {NF4_BLOCK} inputs"
    elif is_quantized(path) and path.endswith(SCALE):
        dims = [() if size == 1 else d for d, size in zip(dims, shape, strict=True)]
    return spec_of(dims, shape, sizes, where)


def _of_factor(path: str, dims: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The last two dimensions of a factor, from those of its kernel."""
    kept, rank = (-2, -1) if path.endswith(LORA_A) else (-1, -2)
    over = tuple("fsdp?" for axis in dims[rank] if axis.removesuffix("?") == "fsdp")
    made = list(dims)
    made[kept], made[rank] = (*dims[kept], *over), ()
    return made


def factor_sharding(path: str, shape: tuple[int, ...], kernel: NamedSharding) -> NamedSharding:
    """Where a factor of LoRA belongs whose kernel is stored as `kernel` says.

    Args:
      path, shape: of the factor.
    """
    entries = [*kernel.spec, *[None] * (len(shape) - len(kernel.spec))]
    dims = _of_factor(path, [(e,) if isinstance(e, str) else e or () for e in entries])
    return NamedSharding(kernel.mesh, spec_of(dims, shape, dict(kernel.mesh.shape), path))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Every leaf of a `Batch`: its first axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATIONS["batch"]))


def state_shardings(
    state: Any, rules: Iterable[Rule], mesh: Mesh, *, negligible: int = NEGLIGIBLE
) -> Any:
    """The placement of a whole `TrainState`, or of any tree with a field `params`.

    Whatever ends in the path of a parameter and has its shape is stored like it (moments of the
    optimiser, averages); what lacks one of its axes, like what is left of it (Adafactor's rows and
    columns). Statistics, losses of recent steps and scalars are replicated.

    Raises:
      ConfigError: as `resolve`; an optimiser array that belongs to no parameter; or, where a plan
        names frozen weights only, too many bytes of moments of other parameters than LoRA's.
    """
    rules = tuple(rules)
    params = flat(state.params)
    placed = flat(resolve(state.params, rules, mesh, negligible=negligible))
    shapes = {path: tuple(x.shape) for path, x in params.items()}
    frozen_only = any(rule.replicates == "frozen" for rule in rules) and mesh.size > 1
    trained: dict[str, Any] = {}

    def place(path: str, x: Any) -> NamedSharding:
        words = path.split("/")
        if words[0] in ("stats", "recent") or not x.shape:
            return replicated(mesh)
        for start in range(1, len(words)):
            owner = "/".join(words[start:])
            if shapes.get(owner) == tuple(x.shape):
                if frozen_only and words[0] != "params" and not is_lora(owner):
                    trained[path] = x
                return placed[owner]
        if (found := _reduced(words, tuple(x.shape), shapes, placed)) is not None:
            return NamedSharding(mesh, found)
        raise ConfigError("an array of the state belongs to no parameter", where=path)

    tree = map_with_path(place, state)
    _not_too_many(trained, sum(_bytes(x) for x in params.values()), negligible)
    return tree


def _reduced(
    words: list[str],
    shape: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
    placed: dict[str, NamedSharding],
) -> PartitionSpec | None:
    """Of an optimiser's array that is smaller than its parameter; None where it is none.

    optax stands `[1]` in the place of what it does not keep (factors, or the whole), and Muon's
    state has the three coefficients of its polynomial.
    """
    if words[-1] == "ns_coeffs":
        return PartitionSpec()
    for start in range(1, len(words)):
        owner = "/".join(words[start:])
        if owner not in shapes:
            continue
        if shape == (1,):
            return PartitionSpec()
        whole, spec = shapes[owner], tuple(placed[owner].spec)
        spec += (None,) * (len(whole) - len(spec))
        for gone in reversed(range(len(whole))):
            if whole[:gone] + whole[gone + 1 :] == shape:
                return PartitionSpec(*spec[:gone], *spec[gone + 1 :])
    return None


def _axes(rules: tuple[Rule, ...]) -> set[str]:
    """Mesh axes that a table knows."""
    dims = [(d,) if isinstance(d, str) else d or () for rule in rules for d in rule.dims]
    return {axis.removesuffix("?") for dim in dims for axis in dim}


def _is_split(sharding: NamedSharding) -> bool:
    entries = [(e,) if isinstance(e, str) else e or () for e in sharding.spec]
    return any(sharding.mesh.shape[axis] > 1 for entry in entries for axis in entry)


def _bytes(x: Any) -> int:
    return math.prod(x.shape) * x.dtype.itemsize


def _not_too_many(whole: dict[str, Any], total: int, negligible: int) -> None:
    """Refuse arrays that are whole on every device where they are more than a plan may leave so."""
    count = sum(_bytes(x) for x in whole.values())
    if count <= max(negligible, REPLICATED * total):
        return
    largest = sorted(whole, key=lambda path: -_bytes(whole[path]))[:5]
    listed = ", ".join(f"{path} {tuple(whole[path].shape)}" for path in largest)
    raise ConfigError(
        "too many bytes are whole on every device",
        where="MeshConfig.plan",
        expected=f"at most {REPLICATED:.0%} of the {total / 2**20:.0f} MiB of parameters",
        found=f"{count / 2**20:.0f} MiB, the largest {listed}",
        remedy="sizes that the mesh divides, or a plan that splits or names them",
    )
