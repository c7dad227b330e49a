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

Storage only. Where a parameter is used, the compiler gathers the "fsdp" axis layer by layer
inside the scan; activations are placed by `rsvlm_jax.mesh.constraints`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core import flat, map_with_path

from .constraints import ACTIVATIONS, spec_of

Dim = str | tuple[str, ...] | None


class Rule(NamedTuple):
    """One row of a table.

    Attributes:
      pattern: searched in the parameter path; begins with "^tower/" unless it is for all towers.
      dims: mesh axes of the last axes of the array; () replicates.
      optional: may match nothing although its tower exists (a part that a config switches off).
    """

    pattern: str
    dims: tuple[Dim, ...] = ()
    optional: bool = False

    @property
    def tower(self) -> str | None:
        """First word of the paths that it is for; None where the pattern does not say."""
        found = re.match(r"\^(\w+)/", self.pattern)
        return found[1] if found else None


RULES: dict[str, tuple[Rule, ...]] = {
    "replicated": (Rule(r""),),
    "fsdp_tensor": (
        # Decoder: Megatron's column-row pairs. The token table is split over the vocabulary only:
        # split over both axes, the lookup makes XLA replicate it in full.
        Rule(r"^decoder/embed/embedding$", (("tensor?", "fsdp?"), None)),
        Rule(r"^decoder/layers/attention/[qkv]/kernel$", ("fsdp", "tensor")),
        Rule(r"^decoder/layers/attention/o/kernel$", ("tensor", "fsdp")),
        Rule(r"^decoder/layers/mlp/(gate|up)/kernel$", ("fsdp", "tensor")),
        Rule(r"^decoder/layers/mlp/down/kernel$", ("tensor", "fsdp")),
        Rule(r"^decoder/(layers/norm[12]|norm)/scale$"),
        Rule(r"^decoder/lm_head/kernel$", ("fsdp", "tensor?"), optional=True),  # if untied
        # Vision tower: the same pairs; patches and positions have odd counts (588, 577).
        Rule(r"^vision/layers/attention/[qkv]/kernel$", ("fsdp", "tensor")),
        Rule(r"^vision/layers/attention/o/kernel$", ("tensor", "fsdp")),
        Rule(r"^vision/layers/mlp/fc1/kernel$", ("fsdp", "tensor")),
        Rule(r"^vision/layers/mlp/fc2/kernel$", ("tensor", "fsdp")),
        Rule(r"^vision/layers/(attention/[qkvo]|mlp/fc[12])/bias$"),
        Rule(r"^vision/(layers/norm[12]|pre_norm)/(scale|bias)$"),
        Rule(r"^vision/patch/kernel$", (None, "fsdp")),
        Rule(r"^vision/(cls|position/embedding)$"),
        # Pixel front and temporal fusion: a few rows each, and one or two blocks.
        Rule(r"^pixel/[^/]+/project/(kernel|bias)$"),
        Rule(r"^temporal/(date/(kernel|bias)|date_scale|(platform|group)/embedding)$"),
        Rule(r"^temporal/query$", optional=True),  # only with a budget, like the blocks
        Rule(r"^temporal/blocks/attention/[qkv]/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(r"^temporal/blocks/attention/o/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(r"^temporal/blocks/mlp/fc1/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(r"^temporal/blocks/mlp/fc2/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(r"^temporal/blocks/(attention/[qkvo]|mlp/fc[12])/bias$", optional=True),
        Rule(r"^temporal/blocks/norm\w*/(scale|bias)$", optional=True),
        Rule(r"^connector/fc1/kernel$", ("fsdp", "tensor")),
        Rule(r"^connector/fc2/kernel$", ("tensor", "fsdp"), optional=True),  # not when linear
        Rule(r"^connector/fc[12]/bias$"),
        # Head: the token MLPs have a row for each of N + Q tokens, seldom an even number.
        Rule(r"^head/reverse/fc1/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(r"^head/reverse/fc2/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(r"^head/reverse/fc[12]/bias$", optional=True),  # without a decoder: no knowledge
        Rule(r"^head/blocks/token_mlp/fc1/kernel$", (None, "tensor?")),
        Rule(r"^head/blocks/token_mlp/fc2/kernel$", ("tensor?", None)),
        Rule(r"^head/blocks/channel_mlp/fc1/kernel$", ("fsdp", "tensor")),
        Rule(r"^head/blocks/channel_mlp/fc2/kernel$", ("tensor", "fsdp")),
        Rule(r"^head/blocks/(token|channel)_mlp/fc[12]/bias$"),
        Rule(r"^head/(blocks/norm[12]|norm)/(scale|bias)$"),
        Rule(r"^head/out/(kernel|bias)$"),
    ),
}
"""By `MeshConfig.plan`."""


def resolve(params: Any, rules: Iterable[Rule], mesh: Mesh) -> Any:
    """The placement of every parameter.

    Args:
      params: tree of arrays or `jax.ShapeDtypeStruct`.
      rules: a table, e.g. `RULES["fsdp_tensor"]`.

    Returns:
      A tree of `NamedSharding` of the same structure.

    Raises:
      ConfigError: a parameter that no rule or more than one rule matches, a rule that matches
        nothing, a placement with too many axes, an unknown or repeated mesh axis, or a dimension
        that does not divide.
    """
    rules = tuple(rules)
    sizes = dict(mesh.shape)
    shapes = {path: tuple(x.shape) for path, x in flat(params).items()}
    towers = {path.split("/")[0] for path in shapes}
    used: set[Rule] = set()
    placed: dict[str, NamedSharding] = {}
    unmatched: list[str] = []
    for path, shape in shapes.items():
        matches = [rule for rule in rules if re.search(rule.pattern, path)]
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
    if unmatched:
        more = f" and {len(unmatched) - 10} more" if len(unmatched) > 10 else ""
        raise ConfigError(
            "no sharding rule matches",
            where=", ".join(unmatched[:10]) + more,
            remedy="add a rule to rsvlm_jax.mesh.rules.RULES",
        )
    for rule in rules:
        if rule not in used and not rule.optional and (rule.tower is None or rule.tower in towers):
            raise ConfigError("a sharding rule matches no parameter", found=repr(rule.pattern))
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
    dims = [()] * (len(shape) - len(dims)) + dims
    return spec_of(dims, shape, sizes, f"{path} (rule {rule.pattern!r}, shape {shape})")


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Every leaf of a `Batch`: its first axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATIONS["batch"]))


def state_shardings(state: Any, rules: Iterable[Rule], mesh: Mesh) -> Any:
    """The placement of a whole `TrainState`, or of any tree with a field `params`.

    Whatever ends in the path of a parameter and has its shape is stored like it (moments of the
    optimiser, averages); statistics and scalars are replicated.

    Raises:
      ConfigError: as `resolve`; or an optimiser array that belongs to no parameter.
    """
    placed = flat(resolve(state.params, rules, mesh))
    shapes = {path: tuple(x.shape) for path, x in flat(state.params).items()}

    def place(path: str, x: Any) -> NamedSharding:
        words = path.split("/")
        if words[0] == "stats" or not x.shape:
            return replicated(mesh)
        for start in range(1, len(words)):
            owner = "/".join(words[start:])
            if shapes.get(owner) == tuple(x.shape):
                return placed[owner]
        raise ConfigError("an array of the state belongs to no parameter", where=path)

    return map_with_path(place, state)
