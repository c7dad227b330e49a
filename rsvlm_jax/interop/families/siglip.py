"""SigLIP's vision tower: SiglipVisionModel, and SiglipModel to read.

transformers 5 leaves out `vision_model.` where it saves a bare SiglipVisionModel; we write it, as
4.x does.
"""

from __future__ import annotations

from flax import nnx

from rsvlm_jax.config import CheckpointError, SiglipConfig
from rsvlm_jax.interop.family import Family, Json, only
from rsvlm_jax.interop.rows import TRANSPOSE, Row, Table, patch_kernel, prefixed
from rsvlm_jax.models.siglip import SiglipVisionTower

from .vision import activation, encoder, hidden_act, linear, norm, real, squeezed, whole

WHERE = "siglip_vision_model"


def read_vision(config: Json, where: str = WHERE) -> SiglipConfig:
    """SiglipVisionConfig -> ours; feature layer -1, which ends before the final norm."""
    only(config, "num_channels", (3,), where)
    only(config, "attention_dropout", (0.0,), where)
    only(config, "vision_use_head", (True, False), where)
    return SiglipConfig(
        image_size=whole(config, "image_size", 224, where),
        patch_size=whole(config, "patch_size", 16, where),
        width=whole(config, "hidden_size", 768, where),
        layers=whole(config, "num_hidden_layers", 12, where),
        heads=whole(config, "num_attention_heads", 12, where),
        mlp_dim=whole(config, "intermediate_size", 3072, where),
        activation=activation(config, "gelu_pytorch_tanh", where),
        norm_eps=real(config, "layer_norm_eps", 1e-6, where),
        feature_layers=(-1,),
        pool=True,
        head=config.get("vision_use_head", True),
    )


def write_vision(config: SiglipConfig) -> Json:
    """The `vision_config` of a larger model."""
    return {
        "model_type": "siglip_vision_model",
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
        "vision_use_head": config.head,
    }


def tower(config: SiglipConfig) -> Table:
    """Names inside `vision_model.`."""
    patch = "embeddings.patch_embedding"
    return (
        Row(f"{patch}.weight", "patch/kernel", patch_kernel(config.patch_size)),
        Row(f"{patch}.bias", "patch/bias"),
        Row("embeddings.position_embedding.weight", "position/embedding"),
        *encoder(),
        *norm("post_layernorm", "post_norm"),
        *(_head() if config.head else ()),
    )


def _head() -> Table:
    """Attention pooling, whose q, k and v are one array there."""
    fused = "head.attention.in_proj"
    return (
        Row("head.probe", "head/probe", squeezed(2)),
        *(
            row
            for i, name in enumerate("qkv")
            for row in (
                Row(f"{fused}_weight", f"head/attention/{name}/kernel", TRANSPOSE, part=(i, 3)),
                Row(f"{fused}_bias", f"head/attention/{name}/bias", part=(i, 3)),
            )
        ),
        *linear("head.attention.out_proj", "head/attention/o"),
        *norm("head.layernorm", "head/norm"),
        *linear("head.mlp.fc1", "head/mlp/fc1"),
        *linear("head.mlp.fc2", "head/mlp/fc2"),
    )


def table(config: SiglipConfig) -> Table:
    """Names on disk."""
    return prefixed(tower(config), "vision_model.")


def canonical(name: str) -> str:
    """transformers 5's bare names with `vision_model.` in front."""
    bare = ("embeddings.", "encoder.", "post_layernorm.", "head.")
    return f"vision_model.{name}" if name.startswith(bare) else name


def _read(config: Json) -> SiglipConfig:
    """A tower by itself, or that of a whole SiglipModel."""
    if "vision_config" not in config:
        return read_vision(config)
    return read_vision(config["vision_config"] or {}, "vision_config")


def _write_whole(config: SiglipConfig) -> Json:
    raise CheckpointError(
        "SiglipModel has a text tower, which is not kept here",
        remedy="write it as SiglipVisionModel",
    )


def _build(config: SiglipConfig, rngs: nnx.Rngs) -> SiglipVisionTower:
    return SiglipVisionTower(config, rngs=rngs)


_IGNORE = (
    r"vision_model\.embeddings\.position_ids",
    r"text_model\..*",
    r"logit_(scale|bias)",
)

SIGLIP_VISION = Family(
    architecture="SiglipVisionModel",
    model_type="siglip_vision_model",
    read_config=_read,
    write_config=write_vision,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=_IGNORE,
)

SIGLIP = Family(
    architecture="SiglipModel",
    model_type="siglip",
    read_config=_read,
    write_config=_write_whole,
    build=_build,
    table=table,
    canonical=canonical,
    ignore=_IGNORE,
)
