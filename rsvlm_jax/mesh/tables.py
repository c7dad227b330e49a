"""The tables: which mesh axes split which array of which tower, and what each plan keeps of that.

Data, and no code but the deriving of plans: `TABLE` says for every parameter which axes *may*
split it; a plan takes some of them away (`RULES`). How rows are read: `rsvlm_jax.mesh.rules`.

    replicated    nothing is split; every device holds the whole state
    fsdp          over "fsdp", gathered layer by layer for use
    fsdp_tensor   over "fsdp" and, by heads and MLP width, over "tensor"
    lora_dp       nothing is split: frozen weights, LoRA's factors and their moments are everywhere,
                  and only the gradients of what is trained are summed (DESIGN's pure data parallel)
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Dim = str | tuple[str, ...] | None


class Rule(NamedTuple):
    """One row of a table.

    Attributes:
      pattern: searched in the parameter path; begins with "^tower/" unless it is for all towers.
      dims: mesh axes of the last axes of the array; () replicates.
      optional: may match nothing although its tower exists (a part that a config switches off).
      replicates: how much may be whole on every device by this rule. "little": it counts against
        `rsvlm_jax.mesh.rules.REPLICATED`. "frozen": parameters, and moments of LoRA's factors, do
        not count; other moments do. "all": nothing counts.
    """

    pattern: str
    dims: tuple[Dim, ...] = ()
    optional: bool = False
    replicates: Literal["little", "frozen", "all"] = "little"

    @property
    def tower(self) -> str | None:
        """First word of the paths that it is for; None where the pattern does not say."""
        found = re.match(r"\^(\w+)/", self.pattern)
        return found[1] if found else None

    def without(self, axis: str) -> Rule:
        """The same rule for a plan that does not split over `axis`."""

        def drop(dim: Dim) -> Dim:
            left = tuple(a for a in ((dim,) if isinstance(dim, str) else dim or ())
                         if a.removesuffix("?") != axis)  # fmt: skip
            return left[0] if len(left) == 1 else left or None

        return self._replace(dims=tuple(drop(dim) for dim in self.dims))


_TOWER = "((first|second)/)?"
_STAGE = rf"{_TOWER}stages/\d+/"
_SERIES = r"\w+/encoder/(decoder/)?"
_READER = r"(former/(layers|cross)|(levels/\d+/)?layers)/"

TABLE: tuple[Rule, ...] = (
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
    Rule(rf"^vision/{_TOWER}layers/mlp/(fc1|gate|up)/kernel$", ("fsdp", "tensor"), optional=True),
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
    # Pretrained encoders of series (Galileo, Presto) and the map of their tokens to Dv. Maps of
    # band groups have a row for each channel of a patch, the decoder's a column for each channel.
    Rule(rf"^encoders/{_SERIES}layers/attention/[qkv]/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(rf"^encoders/{_SERIES}layers/attention/o/kernel$", ("tensor", "fsdp"), optional=True),
    Rule(rf"^encoders/{_SERIES}layers/mlp/fc1/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(rf"^encoders/{_SERIES}layers/mlp/fc2/kernel$", ("tensor", "fsdp"), optional=True),
    Rule(rf"^encoders/{_SERIES}layers/(attention/[qkvo]|mlp/fc[12])/bias$", optional=True),
    Rule(rf"^encoders/{_SERIES}(layers/norm[12]|norm)/(scale|bias)$", optional=True),
    Rule(r"^encoders/\w+/encoder/(maps/.+|latlon)/kernel$", (None, "fsdp"), optional=True),
    Rule(r"^encoders/\w+/encoder/(maps/.+|latlon)/bias$", optional=True),
    Rule(r"^encoders/\w+/encoder/(channel(/\w+)?|dynamic_world/embedding)$", optional=True),
    Rule(r"^encoders/\w+/encoder/decoder/embed/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(
        r"^encoders/\w+/encoder/decoder/(maps/\w+|dynamic_world)/kernel$",
        ("fsdp", None),
        optional=True,
    ),
    Rule(r"^encoders/\w+/encoder/decoder/(embed|maps/\w+|dynamic_world)/bias$", optional=True),
    Rule(r"^encoders/\w+/encoder/decoder/mask_token$", optional=True),
    Rule(r"^encoders/\w+/project/kernel$", ("fsdp", "tensor?"), optional=True),
    Rule(r"^encoders/\w+/project/bias$", optional=True),
    # Selection: one norm and one score a token.
    Rule(r"^selection/(norm/(scale|bias)|score/(kernel|bias))$"),
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
    # Only the mixer has them; a linear head has no blocks at all.
    Rule(r"^head/blocks/token_mlp/fc1/kernel$", (None, "tensor?"), optional=True),
    Rule(r"^head/blocks/token_mlp/fc2/kernel$", ("tensor?", None), optional=True),
    Rule(r"^head/blocks/channel_mlp/fc1/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(r"^head/blocks/channel_mlp/fc2/kernel$", ("tensor", "fsdp"), optional=True),
    Rule(r"^head/blocks/(token|channel)_mlp/fc[12]/bias$", optional=True),
    Rule(r"^head/(blocks/norm[12]|norm)/(scale|bias)$"),
    Rule(r"^head/experts/fc1/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(r"^head/experts/fc2/kernel$", ("tensor", "fsdp"), optional=True),
    Rule(r"^head/(experts/fc[12]/bias|rough/(kernel|bias)|gate)$", optional=True),
    # Of a dense head: what pixels show has an odd count of planes.
    Rule(r"^head/pixels/enter/kernel$", (None, "fsdp"), optional=True),
    Rule(r"^head/pixels/blocks/near/fc1/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(r"^head/pixels/blocks/near/fc2/kernel$", ("tensor", "fsdp"), optional=True),
    Rule(r"^head/pixels/blocks/far/attention/[qkv]/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(r"^head/pixels/blocks/far/attention/o/kernel$", ("tensor", "fsdp"), optional=True),
    Rule(r"^head/pixels/blocks/far/mlp/fc1/kernel$", ("fsdp", "tensor"), optional=True),
    Rule(r"^head/pixels/blocks/far/mlp/fc2/kernel$", ("tensor", "fsdp"), optional=True),
    Rule(r"^head/pixels/.*(bias|scale)$", optional=True),
    Rule(r"^head/out/(kernel|bias)$"),
)
"""Every axis that may split a parameter."""

RULES: dict[str, tuple[Rule, ...]] = {
    "replicated": (Rule(r"", replicates="all"),),
    "fsdp": tuple(rule.without("tensor") for rule in TABLE),
    "fsdp_tensor": TABLE,
    "lora_dp": (Rule(r"", replicates="frozen"),),
}
"""By `MeshConfig.plan`."""
