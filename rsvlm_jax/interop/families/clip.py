"""CLIP's vision tower: CLIPVisionModel, CLIPVisionModelWithProjection, and CLIPModel to read.

transformers 5 leaves out `vision_model.` where it saves a bare CLIPVisionModel; 4.x, which cannot
read that, and all other classes write it, and so do we. (`pre_layrnorm` is their spelling.)
"""

from __future__ import annotations

import dataclasses

from flax import nnx

from rsvlm_jax.config import CheckpointError, ViTConfig
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import Row, Table, patch_kernel, prefixed
from rsvlm_jax.models.clip_vit import CLIPVisionTower

from .vision import activation, encoder, hidden_act, linear, norm, real, whole

WHERE = "clip_vision_model"


def read_vision(config: Json, where: str = WHERE) -> ViTConfig:
    """CLIPVisionConfig -> what gives Hugging Face's `last_hidden_state` and `pooler_output`."""
    only(config, "num_channels", (3,), where)
    only(config, "attention_dropout", (0.0,), where)
    return ViTConfig(
        image_size=whole(config, "image_size", 224, where),
        patch_size=whole(config, "patch_size", 32, where),
        width=whole(config, "hidden_size", 768, where),
        layers=whole(config, "num_hidden_layers", 12, where),
        heads=whole(config, "num_attention_heads", 12, where),
        mlp_dim=whole(config, "intermediate_size", 3072, where),
        activation=activation(config, "quick_gelu", where),
        norm_eps=real(config, "layer_norm_eps", 1e-5, where),
        feature_layers=(-1,),
        keep_cls=True,
        pool=True,
    )


def write_vision(config: ViTConfig) -> Json:
    """The `vision_config` of a larger model."""
    made = {
        "model_type": "clip_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": hidden_act(config.activation),
        "layer_norm_eps": config.norm_eps,
        "num_channels": 3,
        "attention_dropout": 0.0,
    }
    if config.projection_dim is not None:
        made["projection_dim"] = config.projection_dim
    return made


def tower(config: ViTConfig) -> Table:
    """Names inside `vision_model.`."""
    return (
        Row("embeddings.class_embedding", "cls"),
        Row(
            "embeddings.patch_embedding.weight",
            "patch/kernel",
            patch_kernel(config.patch_size),
        ),
        Row("embeddings.position_embedding.weight", "position/embedding"),
        *norm("pre_layrnorm", "pre_norm"),
        *encoder(),
        *norm("post_layernorm", "post_norm"),
    )


def table(config: ViTConfig) -> Table:
    """Names on disk, of the tower and, where it has one, its projection."""
    rows = prefixed(tower(config), "vision_model.")
    projected = config.projection_dim is not None
    return (*rows, *(linear("visual_projection", "projection", bias=False) if projected else ()))


def canonical(name: str) -> str:
    """transformers 5's bare names with `vision_model.` in front."""
    bare = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
    return f"vision_model.{name}" if name.startswith(bare) else name


def _read(config: Json) -> ViTConfig:
    """A tower by itself, or that of a whole CLIPModel."""
    if "vision_config" not in config and "vision_config_dict" not in config:
        return read_vision(config)
    # In old files the second stands beside the first and wins.
    inner = config.get("vision_config_dict") or config.get("vision_config") or {}
    return read_vision(inner, "vision_config")


def _read_projected(config: Json) -> ViTConfig:
    dim = whole(config, "projection_dim", 512, WHERE)
    return dataclasses.replace(_read(config), projection_dim=dim)


def _write_plain(config: ViTConfig) -> Json:
    if config.projection_dim is not None:
        raise CheckpointError(
            "CLIPVisionModel has no projection",
            where="ViTConfig.projection_dim",
            remedy="write it as CLIPVisionModelWithProjection",
        )
    return write_vision(config)


def _write_projected(config: ViTConfig) -> Json:
    if config.projection_dim is None:
        raise CheckpointError(
            "CLIPVisionModelWithProjection has a projection",
            where="ViTConfig.projection_dim",
            expected="a width",
            remedy="write it as CLIPVisionModel",
        )
    return write_vision(config)


def _write_whole(config: ViTConfig) -> Json:
    raise CheckpointError(
        "CLIPModel has a text tower, which is not kept here",
        remedy="write it as CLIPVisionModelWithProjection",
    )


def _build(config: ViTConfig, rngs: nnx.Rngs) -> CLIPVisionTower:
    return CLIPVisionTower(config, rngs=rngs)


_BUFFERS = (r"vision_model\.embeddings\.position_ids",)
_TEXT = (r"text_model\..*", r"text_projection\.weight", r"logit_scale")

CLIP_VISION = Family(
    architecture="CLIPVisionModel",
    model_type="clip_vision_model",
    read_config=_read,
    write_config=_write_plain,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=(*_BUFFERS, *_TEXT, r"visual_projection\.weight"),
)

CLIP_VISION_PROJECTED = Family(
    architecture="CLIPVisionModelWithProjection",
    model_type="clip_vision_model",
    read_config=_read_projected,
    write_config=_write_projected,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=(*_BUFFERS, *_TEXT),
)

CLIP = Family(
    architecture="CLIPModel",
    model_type="clip",
    read_config=_read_projected,
    write_config=_write_whole,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=(*_BUFFERS, *_TEXT),
)
