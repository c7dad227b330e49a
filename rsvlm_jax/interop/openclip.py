"""OpenCLIP's image towers (RemoteCLIP, GeoRSCLIP, LAION's): one file of tensors, without a config.

    visual.conv1.weight, visual.class_embedding, ...   -> config from the shapes -> CLIPVisionTower
    visual.transformer.resblocks.N.attn.in_proj_*      -> q, k, v (one array there)
    transformer.*, token_embedding.*, text_projection  -> ignored, listed: the text tower

What the shapes do not say are arguments: the activation and, beyond OpenCLIP's own sizes, the
number of heads. ResNet towers (RN50), `timm` towers and CoCa's are refused by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from rsvlm_jax.config import CheckpointError, ViTConfig
from rsvlm_jax.config.vision import Activation
from rsvlm_jax.models.clip_vit import CLIPVisionTower

from .families.vision import linear, norm
from .family import Family
from .files import open_checkpoint
from .huggingface import Imported, assemble
from .rows import TRANSPOSE, Row, Shape, Table, patch_kernel

_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
"""By tower width (H-14, g-14, bigG-14); 64 in all others."""

_OTHERS = {
    r"visual\.(layer[1-4]\.|attnpool\.|bn1\.)": "a ResNet (RN50 and its kin)",
    r"visual\.trunk\.": "a tower of timm",
    r"visual\.attn_pool\.": "a tower with an attention pooler (CoCa)",
}


def load_openclip(
    path: str | os.PathLike[str],
    *,
    activation: Activation = "gelu",
    heads: int | None = None,
    dtype: Any = None,
    place: Callable[[Any], Any] | None = None,
    adjust: Callable[[ViTConfig], ViTConfig] | None = None,
    allow_pickle: bool = False,
) -> Imported:
    """Read the image tower of an OpenCLIP checkpoint.

    Args:
      path: a file, or a directory with one.
      activation: the file does not say. OpenCLIP's model definitions compute the exact GELU,
        "gelu", unless their name ends in `-quickgelu`. RemoteCLIP's own instructions build the
        plain `ViT-B-32` and `ViT-L-14`, so "gelu" is what its users compute, although it began
        from OpenAI's weights; GeoRSCLIP's files are named after plain definitions too. OpenAI's
        own weights, and every `-quickgelu` definition, need "quick_gelu".
      heads: of attention; None: as in OpenCLIP's definition of that width.
      dtype, place, allow_pickle: as in `rsvlm_jax.interop.huggingface.load_pretrained`.
      adjust: the config that was read -> the one that is built (other feature layers, no pooler).

    Raises:
      CheckpointError: another kind of tower, or anything that does not fit.
    """
    checkpoint = open_checkpoint(path, allow_pickle=allow_pickle)
    shapes = {_canonical(name): tuple(x.shape) for name, x in checkpoint.items()}
    config = config_of(shapes, activation=activation, heads=heads, where=str(checkpoint.path))
    if adjust is not None:
        config = adjust(config)
    return assemble(OPENCLIP, config, checkpoint, dtype=dtype, place=place)


def config_of(
    shapes: Mapping[str, Shape],
    *,
    activation: Activation = "gelu",
    heads: int | None = None,
    where: str = "an OpenCLIP checkpoint",
) -> ViTConfig:
    """The config that the shapes of a state dict imply.

    Raises:
      CheckpointError: they are not those of a vision transformer of OpenCLIP.
    """
    for pattern, kind in _OTHERS.items():
        found = next((n for n in shapes if re.match(pattern, n)), None)
        if found is not None:
            raise CheckpointError(
                f"not supported: {kind}", where=where, expected="a vision transformer",
                found=found, remedy="RemoteCLIP and GeoRSCLIP have ViT-B-32, L-14 and H-14",
            )  # fmt: skip

    def shape(name: str, axes: int) -> Shape:
        if len(shapes.get(name, ())) != axes:
            raise CheckpointError(
                "no image tower of OpenCLIP", where=where,
                expected=f"{name} of {axes} axes", found=shapes.get(name, "nothing"),
            )  # fmt: skip
        return shapes[name]

    width, channels, patch, _ = shape("visual.conv1.weight", 4)
    rows, _ = shape("visual.positional_embedding", 2)
    hidden, _ = shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)
    _, joint = shape("visual.proj", 2)
    side = int(max(rows - 1, 0) ** 0.5)
    if channels != 3 or side * side != rows - 1:
        raise CheckpointError(
            "no image tower of OpenCLIP", where=where,
            expected="3 channels, 1 + n * n positions", found=f"{channels} and {rows}",
        )  # fmt: skip
    block = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.")
    numbers = {int(m[1]) for n in shapes if (m := block.match(n))}
    return ViTConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=len(numbers),
        heads=width // _HEAD_WIDTHS.get(width, 64) if heads is None else heads,
        mlp_dim=hidden,
        activation=activation,
        feature_layers=(-1,),
        keep_cls=True,
        pool=True,
        projection_dim=joint,
    )


def table(config: ViTConfig) -> Table:
    """Names in a state dict. `visual.proj` is (in, out) already."""
    block = "visual.transformer.resblocks.{}"
    fused = [
        row
        for i, name in enumerate("qkv")
        for row in (
            Row(
                f"{block}.attn.in_proj_weight",
                f"layers/attention/{name}/kernel",
                TRANSPOSE,
                part=(i, 3),
            ),
            Row(f"{block}.attn.in_proj_bias", f"layers/attention/{name}/bias", part=(i, 3)),
        )
    ]
    return (
        Row("visual.class_embedding", "cls"),
        Row("visual.conv1.weight", "patch/kernel", patch_kernel(config.patch_size)),
        Row("visual.positional_embedding", "position/embedding"),
        *norm("visual.ln_pre", "pre_norm"),
        *norm(f"{block}.ln_1", "layers/norm1"),
        *fused,
        *linear(f"{block}.attn.out_proj", "layers/attention/o"),
        *norm(f"{block}.ln_2", "layers/norm2"),
        *linear(f"{block}.mlp.c_fc", "layers/mlp/fc1"),
        *linear(f"{block}.mlp.c_proj", "layers/mlp/fc2"),
        *norm("visual.ln_post", "post_norm"),
        Row("visual.proj", "projection/kernel"),
    )


_WRAPPERS = ("state_dict.", "module.")


def _canonical(name: str) -> str:
    """Without what training scripts put around a model."""
    while name.startswith(_WRAPPERS):
        name = name[name.index(".") + 1 :]
    return name


def _no_config(_: Any) -> Any:
    raise CheckpointError(
        "an OpenCLIP checkpoint has no config.json",
        remedy="load_openclip reads it; save it as CLIPVisionModelWithProjection",
    )


def _build(config: ViTConfig, rngs: nnx.Rngs) -> nnx.Module:
    return CLIPVisionTower(config, rngs=rngs)


OPENCLIP = Family(
    architecture="OpenCLIP",
    model_type="open_clip",
    read_config=_no_config,
    write_config=_no_config,
    build=_build,
    table=table,
    canonical=_canonical,
    ignore=(
        r"(transformer|text)\..*",
        r"token_embedding\.weight",
        r"(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)",
        r"ln_final\..*",
        r"(input_resolution|context_length|vocab_size)",  # in OpenAI's files
    ),
)
"""Not in `FAMILIES`: a config.json never names it."""
