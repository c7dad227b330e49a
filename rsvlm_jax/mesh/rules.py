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
B [rank, out] like its columns, the rank never. Codes and scales of a quantised weight are placed by
its rule too; a scale that many inputs share is on all devices that hold some of them. The inputs of
nf4 are split by whole blocks (of 64, two inputs a byte): it is the blocks that must divide.

Storage only. Where a parameter is used, the compiler gathers the "fsdp" axis layer by layer
inside the scan; activations are placed by `rsvlm_jax.mesh.constraints`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core import (
    LORA_A,
    LORA_B,
    NF4,
    NF4_BLOCK,
    SCALE,
    base_path,
    flat,
    is_quantized,
    map_with_path,
)

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


_TOWER = "((first|second)/)?"
_STAGE = rf"{_TOWER}stages/\d+/"
_READER = r"(former/(layers|cross)|(levels/\d+/)?layers)/"

RULES: dict[str, tuple[Rule, ...]] = {
    "replicated": (Rule(r""),),
    "fsdp_tensor": (
        # Decoder: Megatron's column-row pairs. The token table is split over the vocabulary only:
        # split over both axes, the lookup makes XLA replicate it in full.
        Rule(r"^decoder/embed/embedding$", (("tensor?", "fsdp?"), None)),
        Rule(r"^decoder/layers/attention/[qkv]/kernel$", ("fsdp", "tensor")),
        Rule(r"^decoder/layers/attention/o/kernel$", ("tensor", "fsdp")),
        Rule(r"^decoder/layers/mlp/(gate|up|fc1)/kernel$", ("fsdp", "tensor")),
        Rule(r"^decoder/layers/mlp/(down|fc2)/kernel$", ("tensor", "fsdp")),
        Rule(r"^decoder/(layers/norm[12]|norm)/(scale|bias)$"),
        Rule(r"^decoder/layers/(attention/[qkvo]|mlp/\w+)/bias$", optional=True),  # Qwen2, GPT-2
        Rule(r"^decoder/layers/attention/[qk]_norm/scale$", optional=True),  # Qwen3
        Rule(r"^decoder/position/embedding$", optional=True),  # GPT-2
        Rule(r"^decoder/lm_head/kernel$", ("fsdp", "tensor?"), optional=True),  # if untied
        # Vision towers (two under first/ and second/ where they are mixed): the same pairs; patches
        # and positions have odd counts (588, 577). What only some towers have is optional.
        Rule(rf"^vision/{_TOWER}layers/attention/[qkv]/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(rf"^vision/{_TOWER}layers/attention/o/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(
            rf"^vision/{_TOWER}layers/mlp/(fc1|gate|up)/kernel$", ("fsdp", "tensor"), optional=True
        ),
        Rule(rf"^vision/{_TOWER}layers/mlp/(fc2|down)/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(rf"^vision/{_TOWER}layers/(attention/[qkvo]|mlp/\w+)/bias$", optional=True),
        Rule(rf"^vision/{_TOWER}layers/norm[12]/(scale|bias)$", optional=True),
        Rule(rf"^vision/{_TOWER}layers/scale[12]$", optional=True),  # DINOv2
        Rule(rf"^vision/{_TOWER}patch/kernel$", (None, "fsdp")),
        Rule(rf"^vision/{_TOWER}patch/bias$", optional=True),  # not CLIP
        Rule(rf"^vision/{_TOWER}(cls|mask_token|position/embedding)$", optional=True),
        Rule(rf"^vision/{_TOWER}(pre|post)_norm/(scale|bias)$", optional=True),
        Rule(rf"^vision/{_TOWER}projection/kernel$", ("fsdp", "tensor?"), optional=True),  # CLIP
        Rule(rf"^vision/{_TOWER}head/probe$", optional=True),  # SigLIP's pooling
        Rule(rf"^vision/{_TOWER}head/attention/[qkv]/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(rf"^vision/{_TOWER}head/attention/o/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(rf"^vision/{_TOWER}head/mlp/fc1/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(rf"^vision/{_TOWER}head/mlp/fc2/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(rf"^vision/{_TOWER}head/(attention/[qkvo]|mlp/fc[12])/bias$", optional=True),
        Rule(rf"^vision/{_TOWER}head/norm/(scale|bias)$", optional=True),
        # ConvNeXt's stages: a depthwise kernel has a row for each of 49 cells.
        Rule(rf"^vision/{_STAGE}blocks/mlp/fc1/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(rf"^vision/{_STAGE}blocks/mlp/fc2/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(rf"^vision/{_STAGE}(blocks/depthwise|down)/kernel$", (None, "fsdp"), optional=True),
        Rule(rf"^vision/{_STAGE}(blocks/(depthwise|mlp/fc[12])|down)/bias$", optional=True),
        Rule(rf"^vision/{_STAGE}(blocks/norm|down_norm)/(scale|bias)$", optional=True),
        Rule(rf"^vision/{_STAGE}blocks/layer_scale$", optional=True),
        Rule(rf"^vision/{_TOWER}patch_norm/(scale|bias)$", optional=True),
        # Resamplers: the Q-Former and each level of the perceiver.
        Rule(rf"^resampler/{_READER}attention/[qkv]/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(rf"^resampler/{_READER}attention/o/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(rf"^resampler/{_READER}mlp/fc1/kernel$", ("fsdp", "tensor"), optional=True),
        Rule(rf"^resampler/{_READER}mlp/fc2/kernel$", ("tensor", "fsdp"), optional=True),
        Rule(rf"^resampler/{_READER}(attention/[qkvo]|mlp/fc[12])/bias$", optional=True),
        Rule(rf"^resampler/{_READER}norm\w*/(scale|bias)$", optional=True),
        Rule(r"^resampler/(former|levels/\d+)/norm/(scale|bias)$", optional=True),
        Rule(r"^resampler/(levels/\d+/)?query$", optional=True),
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
        Rule(r"^connector/fc\d*[13579]/kernel$", ("fsdp", "tensor")),
        Rule(r"^connector/fc\d*[02468]/kernel$", ("tensor", "fsdp"), optional=True),  # N > 1
        Rule(r"^connector/fc\d+/bias$", optional=True),
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
    if len(dims) > 1 and path.endswith(LORA_A):
        dims[-1] = ()
    elif len(dims) > 1 and path.endswith(LORA_B):
        dims[-2] = ()
    dims = [()] * (len(shape) - len(dims)) + dims
    where = f"{path} (rule {rule.pattern!r}, shape {shape})"
    if path.endswith(NF4):
        shape = (*shape[:-2], 2 * shape[-2] // NF4_BLOCK, shape[-1])
        where = f"{where}, in blocks of {NF4_BLOCK} inputs"
    elif is_quantized(path) and path.endswith(SCALE):
        dims = [() if size == 1 else d for d, size in zip(dims, shape, strict=True)]
    return spec_of(dims, shape, sizes, where)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Every leaf of a `Batch`: its first axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATIONS["batch"]))


def state_shardings(state: Any, rules: Iterable[Rule], mesh: Mesh) -> Any:
    """The placement of a whole `TrainState`, or of any tree with a field `params`.

    Whatever ends in the path of a parameter and has its shape is stored like it (moments of the
    optimiser, averages); what lacks one of its axes, like what is left of it (Adafactor's rows and
    columns). Statistics, losses of recent steps and scalars are replicated.

    Raises:
      ConfigError: as `resolve`; or an optimiser array that belongs to no parameter.
    """
    placed = flat(resolve(state.params, rules, mesh))
    shapes = {path: tuple(x.shape) for path, x in flat(state.params).items()}

    def place(path: str, x: Any) -> NamedSharding:
        words = path.split("/")
        if words[0] in ("stats", "recent") or not x.shape:
            return replicated(mesh)
        for start in range(1, len(words)):
            owner = "/".join(words[start:])
            if shapes.get(owner) == tuple(x.shape):
                return placed[owner]
        if (found := _reduced(words, tuple(x.shape), shapes, placed)) is not None:
            return NamedSharding(mesh, found)
        raise ConfigError("an array of the state belongs to no parameter", where=path)

    return map_with_path(place, state)


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
